//! Single layers: the output error on inputs that no branch was fitted to, beside a branch that is trained.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use trimtab::calibration::Calibration;
use trimtab::floors::calibrate::{Batch, Inputs, Moment, Stream, StreamSettings};
use trimtab::floors::io::{BranchFactors, Dtype};
use trimtab::floors::math::linalg::Square;
use trimtab::floors::math::random;
use trimtab::floors::mend::eora::{EoraSettings, Variant, eora};
use trimtab::floors::nn::{StageSource, host};
use trimtab::floors::quantize::damage::output_error;
use trimtab::inventory::TreatedSite;

use super::Eora;
use super::run::{Compressor, Lm};
use crate::error::Result;
use crate::experiment::Scale;
use crate::experiments::wikilm::{Attempt, Failure, WINDOW};
use crate::lab::Lab;

/// Steps and peak rate of the trained branch, as published.
const STEPS: usize = 1000;
const RATE: f64 = 1e-3;
const LAST_RATE: f64 = 1e-6;
/// Windows of held-out inputs: those that models are judged on.
const HELD_OUT: usize = 16;

/// What is left of the output error of a compressor on held-out inputs, in parts of the output's power.
#[derive(Clone, Debug)]
pub struct Layers {
    pub compressor: Compressor,
    /// Without a branch.
    pub none: f64,
    pub svd: f64,
    pub act_scale: f64,
    pub eora: f64,
    /// Trained with AdamW on the calibration inputs.
    pub learned: f64,
}

/// A layer with its inputs, seen and held out.
struct Case {
    weight: Vec<f32>,
    rows: usize,
    seen: Square,
    held_out: Square,
}

impl Lm {
    /// Compares branches on the maps of every second block, with the inputs of the original model.
    pub fn layers(
        &self,
        rank: usize,
        calibration: &Calibration,
        scale: Scale,
        lab: &Lab<'_>,
    ) -> Result<Vec<Layers>> {
        let failed = Eora::failed::<Failure>("layers");
        let compressors: &[Compressor] = match scale {
            Scale::Quick => &[Compressor::Gptq(2)],
            Scale::Full => &Compressor::ALL,
        };
        let mut all = Vec::new();
        for &compressor in compressors {
            lab.tell(&format!("layers, {}", compressor.name()))?;
            all.push(self.compare(compressor, rank, calibration).map_err(&failed)?);
        }
        Ok(all)
    }

    fn moments(&self, batches: &[Batch]) -> Attempt<std::collections::BTreeMap<String, Square>> {
        let mut found = std::collections::BTreeMap::new();
        let settings = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
        Stream::new(self.model(), batches, Device::flex(), settings).run(|block| -> Attempt<()> {
            let sites: Vec<_> = self.sites(block.index()).map(|site| &site.meta).collect();
            if block.index() % 2 == 1 {
                for (name, moment) in block.second_moments(&sites)? {
                    found.insert(name, moment.mean().clone());
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn compare(&self, compressor: Compressor, rank: usize, calibration: &Calibration) -> Attempt<Layers> {
        let windows: Vec<&[u32]> = self.held_out().chunks_exact(WINDOW).take(HELD_OUT).collect();
        let batches: Vec<Batch> = windows.chunks(2).map(|two| Batch::windows(two, &Device::flex())).collect();
        let (mut seen, mut held_out) = (self.moments(&calibration.batches)?, self.moments(&batches)?);
        let mut cases = Vec::new();
        for stage in 0..self.model().stages().len() {
            let loaded = self.model().load(stage)?;
            for site in self.sites(stage) {
                let name = &site.meta.name;
                let (Some(seen), Some(held_out)) = (seen.remove(name), held_out.remove(name)) else {
                    continue;
                };
                let weight = loaded.sites().into_iter().find(|s| s.name() == name).map(|s| s.to_f32());
                let weight = weight.ok_or("a site of the model")?;
                cases.push((site, Case { rows: site.meta.rows, weight, seen, held_out }));
            }
        }
        let one = |(i, (site, case)): (usize, &(&TreatedSite, Case))| -> Attempt<[f64; 6]> {
            let changed = compressor.change(site, &case.weight, Some(&Moment::from(case.seen.clone())))?;
            let zeros = vec![0.0; case.weight.len()];
            let error = |values: &[f32]| output_error(&case.weight, values, &case.held_out);
            let mut found = [error(&zeros)?, error(&changed)?, 0.0, 0.0, 0.0, 0.0];
            for (at, variant) in [Variant::Svd, Variant::ActScale, Variant::Eora].into_iter().enumerate() {
                let settings = EoraSettings { variant, ..EoraSettings::default() };
                let branch = eora(&case.weight, &changed, case.rows, Some(&case.seen), rank, &settings)?;
                found[2 + at] = error(&with(&changed, branch.factors(Dtype::F32)?)?)?;
            }
            let learned = learn(case, &changed, rank, i as u64)?;
            found[5] = error(&with(&changed, Some(learned))?)?;
            Ok(found)
        };
        let found: Vec<[f64; 6]> = cases.par_iter().enumerate().map(one).collect::<Attempt<_>>()?;
        // In the order of the sites: the same sum at any number of threads. Each map in parts of its own power.
        let mean =
            |k: usize| found.iter().map(|errors| errors[k] / errors[0]).sum::<f64>() / found.len() as f64;
        let [none, svd, act_scale, eora, learned] = [1, 2, 3, 4, 5].map(mean);
        Ok(Layers { compressor, none, svd, act_scale, eora, learned })
    }
}

fn with(changed: &[f32], factors: Option<BranchFactors>) -> Attempt<Vec<f32>> {
    let mut values = changed.to_vec();
    if let Some(factors) = factors {
        factors.merge_into(&mut values)?;
    }
    Ok(values)
}

/// The published alternative: AdamW on the output error `tr((E − B A) S (E − B A)ᵀ)` from a random `A` and `B = 0`, with a cosine.
///
/// Its gradients are `−2 ((E S) Aᵀ − B (A S Aᵀ))` and `−2 (Bᵀ (E S) − (Bᵀ B) (A S))`, here in parts of the error at the start.
fn learn(case: &Case, changed: &[f32], rank: usize, item: u64) -> Attempt<BranchFactors> {
    let device = Device::flex();
    let (rows, cols) = (case.rows, case.seen.n());
    let matrix =
        |values: Vec<f32>, dims: [usize; 2]| Tensor::<2>::from_data(TensorData::new(values, dims), &device);
    let s = matrix(case.seen.as_slice().iter().map(|&x| x as f32).collect(), [cols, cols]);
    let error = case.weight.iter().zip(changed).map(|(w, q)| w - q).collect();
    let es = matrix(error, [rows, cols]).matmul(s.clone());
    let start = output_error(&case.weight, changed, &case.seen)? as f32;
    if start <= 0.0 {
        return Err("the compressor changed nothing".into());
    }
    let mut stream = random::Stream::new(0, "eora/learned", 0, item);
    let bound = (cols as f64).sqrt().recip();
    let draws = (0..rank * cols).map(|_| stream.uniform_in(-bound, bound) as f32).collect();
    let mut a = Adam::of(matrix(draws, [rank, cols]));
    let mut b = Adam::of(Tensor::zeros([rows, rank], &device));
    for step in 0..STEPS {
        let turn = (std::f64::consts::PI * step as f64 / STEPS as f64).cos();
        let rate = LAST_RATE + 0.5 * (RATE - LAST_RATE) * (1.0 + turn);
        let (at, bt) = (a.value.clone().transpose(), b.value.clone().transpose());
        let a_s = a.value.clone().matmul(s.clone());
        let to_b = b.value.clone().matmul(a_s.clone().matmul(at.clone())) - es.clone().matmul(at);
        let to_a = bt.clone().matmul(b.value.clone()).matmul(a_s) - bt.matmul(es.clone());
        a.step(to_a * (2.0 / start), rate, step);
        b.step(to_b * (2.0 / start), rate, step);
    }
    Ok(BranchFactors::from_f32(&host(a.value), &host(b.value), rank, Dtype::F32)?)
}

/// A matrix under AdamW with the usual constants and without decay, as there is nothing to hold small.
struct Adam {
    value: Tensor<2>,
    mean: Tensor<2>,
    square: Tensor<2>,
}

impl Adam {
    fn of(value: Tensor<2>) -> Self {
        let zeros = value.zeros_like();
        Self { value, mean: zeros.clone(), square: zeros }
    }

    fn step(&mut self, gradient: Tensor<2>, rate: f64, step: usize) {
        let (beta, gamma) = (0.9, 0.999);
        self.mean = self.mean.clone() * beta + gradient.clone() * (1.0 - beta);
        self.square = self.square.clone() * gamma + gradient.clone() * gradient * (1.0 - gamma);
        let n = step as i32 + 1;
        let mean = self.mean.clone() / (1.0 - f64::powi(beta, n));
        let square = self.square.clone() / (1.0 - f64::powi(gamma, n));
        self.value = self.value.clone() - mean / (square.sqrt() + 1e-8) * rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The squared output error of what is left with a branch.
    fn left(case: &Case, changed: &[f32], factors: BranchFactors) -> f64 {
        output_error(&case.weight, &with(changed, Some(factors)).unwrap(), &case.seen).unwrap()
    }

    #[test]
    fn training_ends_near_the_closed_form_and_never_below() {
        let (rows, cols, rank) = (12, 16, 3);
        let mut stream = random::Stream::new(1, "test/learn", 0, 0);
        let weight: Vec<f32> = (0..rows * cols).map(|_| 0.1 * stream.normal() as f32).collect();
        let changed: Vec<f32> = weight.iter().map(|w| (w / 0.1).round() * 0.1).collect();
        let loud: Vec<f64> = (0..cols).map(|i| 3.0 / (1.0 + i as f64)).collect();
        let seen = Square::diagonal_matrix(&loud);
        let case = Case { weight, rows, held_out: seen.clone(), seen };
        let best =
            eora(&case.weight, &changed, rows, Some(&case.seen), rank, &EoraSettings::default()).unwrap();
        let best = left(&case, &changed, best.factors(Dtype::F32).unwrap().unwrap());
        let learned = left(&case, &changed, learn(&case, &changed, rank, 0).unwrap());
        let none = output_error(&case.weight, &changed, &case.seen).unwrap();
        assert!(learned >= best * (1.0 - 1e-5), "{learned} {best}");
        assert!(learned < 0.5 * (none + best), "it learns: {learned} of {none}, best {best}");
        assert!(learn(&case, &case.weight.clone(), rank, 0).is_err(), "nothing to make up for");
    }
}
