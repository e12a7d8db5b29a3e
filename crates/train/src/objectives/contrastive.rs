//! Decoupled contrastive learning (paper 73), beside the coupled loss that it mends.
//!
//! Source: Yeh et al., "Decoupled contrastive learning", ECCV 2022, arXiv:2110.06848. The coupled loss is InfoNCE in the form
//! of SimCLR (Chen et al., arXiv:2002.05709).
//!
//! Of `2N` embeddings `z` (two views of `N` samples, rows of length 1) each is drawn to its other view and pushed from all views
//! of other samples. InfoNCE divides by a sum that holds the positive, too; so every gradient carries the factor
//! `q = 1 - p(positive)`, which is small where the positive is easy or the negatives are few. Without the positive in the sum the
//! factor is gone: anchor by anchor, the gradient of InfoNCE by the scores is `q` times that of the decoupled loss.
//!
//! Self and positive are left out by a mask, not by a constant that a low temperature outweighs; negatives of both views stand
//! in one sum.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::images::ViewBatch;
use super::masked::log_sum_exp;
use crate::error::{Error, Result};
use crate::objective::{Loss, Objective, Pass};

/// Smallest length that a row is divided by.
const LEAST: f32 = 1e-12;

/// Which loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ContrastiveKind {
    /// The positive is in the sum.
    InfoNce,
    /// The positive is not in the sum.
    Decoupled,
    /// And positives that are far apart weigh more: `2 - exp(s / sigma) / mean exp(s / sigma)`, without a gradient.
    DecoupledWeighted {
        /// How far apart is far.
        #[serde(default = "sigma")]
        sigma: f64,
    },
}

fn sigma() -> f64 {
    0.5
}

/// A contrastive loss: the mean over all `2N` anchors. (Sums of the means of both directions are twice as large.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contrastive<F> {
    /// Maps a model, images and a context to embeddings `[B, d]`.
    pub embed: F,
    /// Which loss.
    pub kind: ContrastiveKind,
    /// Scores are divided by it.
    pub temperature: f64,
}

/// Rows of length 1.
fn normalized(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().square().sum_dim(1).sqrt().clamp_min(LEAST);
    x / length
}

/// Scores of all pairs `[2N, 2N]`, and those of the positives `[2N, 1]`.
fn scores(first: Tensor<2>, second: Tensor<2>, temperature: f64) -> (Tensor<2>, Tensor<2>) {
    let [n, _] = first.dims();
    let all = Tensor::cat(vec![normalized(first), normalized(second)], 0);
    let partners = Tensor::cat(vec![all.clone().narrow(0, n, n), all.clone().narrow(0, 0, n)], 0);
    let positives = (all.clone() * partners).sum_dim(1) / temperature;
    (all.clone().matmul(all.transpose()) / temperature, positives)
}

/// What anchor `i` of `2n` must not be compared with: itself, and its positive unless it stays.
fn left_out(n: usize, positive_stays: bool) -> TensorData {
    let total = 2 * n;
    let mut mask = vec![false; total * total];
    for i in 0..total {
        mask[i * total + i] = true;
        mask[i * total + (i + n) % total] = !positive_stays;
    }
    TensorData::new(mask, [total, total])
}

/// The share `q = 1 - p(positive)` of every anchor in InfoNCE, `[2N]`: what couples its gradients.
pub fn info_nce_share(first: Tensor<2>, second: Tensor<2>, temperature: f64) -> Vec<f64> {
    let [n, _] = first.dims();
    let (all, positives) = scores(first, second, temperature);
    let device = all.device();
    let sum = log_sum_exp(all, Tensor::from_data(left_out(n, true), &device));
    let p = (positives - sum).exp();
    p.into_data().iter::<f64>().map(|p| 1.0 - p).collect()
}

impl<F> Contrastive<F> {
    /// The loss of two views' embeddings, `[N, d]` each.
    ///
    /// # Errors
    /// [`Error::Setting`] for fewer than two samples: there is nothing to be told apart.
    pub fn of(&self, first: Tensor<2>, second: Tensor<2>) -> Result<Tensor<1>> {
        let ([n, _], device) = (first.dims(), first.device());
        if n < 2 {
            return Err(Error::setting(
                "batch",
                format!("a contrastive loss takes at least 2 samples, found {n}"),
            ));
        }
        let (all, positives) = scores(first, second, self.temperature);
        let coupled = self.kind == ContrastiveKind::InfoNce;
        let sum = log_sum_exp(all, Tensor::from_data(left_out(n, coupled), &device));
        let weighted = match self.kind {
            ContrastiveKind::DecoupledWeighted { sigma } => {
                let similarity = positives.clone().detach() * self.temperature;
                // Both views of a sample have the same similarity, so the mean over all is that over one view.
                let grown = (similarity / sigma).exp();
                let weights = grown.clone() / grown.mean_dim(0);
                positives * (weights.neg() + 2.0)
            }
            _ => positives,
        };
        Ok((sum - weighted).mean())
    }
}

impl<M, F> Objective<M, ViewBatch> for Contrastive<F>
where
    F: Fn(&M, Tensor<4>, &mut trimtab_nn::Ctx<'_>) -> trimtab_nn::Result<Tensor<2>>,
{
    fn loss(&self, model: &M, batch: &ViewBatch, pass: &mut Pass) -> Result<Loss> {
        let [n, ..] = batch.first.dims();
        // One pass over both views, so that batch norms see them together.
        let images = Tensor::cat(vec![batch.first.clone(), batch.second.clone()], 0);
        let embeddings = (self.embed)(model, images, &mut pass.ctx())?;
        let mean = self.of(embeddings.clone().narrow(0, 0, n), embeddings.narrow(0, n, n))?;
        Ok(Loss::new(mean, n))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const N: usize = 4;
    const D: usize = 3;

    fn embeddings() -> Vec<f64> {
        (0..2 * N * D).map(|i| f64::from(((i * 31 % 23) as f32 - 11.0) / 7.0)).collect()
    }

    fn loss_of(kind: ContrastiveKind, temperature: f64) -> Contrastive<()> {
        Contrastive { embed: (), kind, temperature }
    }

    /// The loss by its definition, in f64; for the weighted one with the weights of `fixed`.
    fn oracle(kind: ContrastiveKind, temperature: f64, z: &[f64], fixed: &[f64]) -> f64 {
        let normal = |z: &[f64]| -> Vec<Vec<f64>> {
            let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
            z.chunks(D).map(|row| row.iter().map(|x| x / length(row)).collect()).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (rows, fixed) = (normal(z), normal(fixed));
        let positive = |i: usize| (i + N) % (2 * N);
        let mean = |sigma: f64| {
            (0..N).map(|k| (dot(&fixed[k], &fixed[positive(k)]) / sigma).exp()).sum::<f64>() / N as f64
        };
        let one = |i: usize| {
            let sum: f64 = (0..2 * N)
                .filter(|&j| j != i && (kind == ContrastiveKind::InfoNce || j != positive(i)))
                .map(|j| (dot(&rows[i], &rows[j]) / temperature).exp())
                .sum();
            let weight = match kind {
                ContrastiveKind::DecoupledWeighted { sigma } => {
                    2.0 - (dot(&fixed[i], &fixed[positive(i)]) / sigma).exp() / mean(sigma)
                }
                _ => 1.0,
            };
            sum.ln() - weight * dot(&rows[i], &rows[positive(i)]) / temperature
        };
        (0..2 * N).map(one).sum::<f64>() / (2 * N) as f64
    }

    fn tensors(z: &[f64]) -> [Tensor<2>; 2] {
        let z: Vec<f32> = z.iter().map(|&z| z as f32).collect();
        [&z[..N * D], &z[N * D..]].map(|half| {
            let data = TensorData::new(half.to_vec(), [N, D]);
            Tensor::from_data(data, &Device::flex().autodiff()).require_grad()
        })
    }

    const KINDS: [ContrastiveKind; 3] = [
        ContrastiveKind::InfoNce,
        ContrastiveKind::Decoupled,
        ContrastiveKind::DecoupledWeighted { sigma: 0.5 },
    ];

    #[test]
    fn the_loss_and_its_slope_are_those_of_the_definition() {
        let z = embeddings();
        for kind in KINDS {
            let [first, second] = tensors(&z);
            let loss = loss_of(kind, 0.2).of(first.clone(), second.clone()).unwrap();
            let found = f64::from(loss.clone().into_scalar::<f32>());
            assert!((found - oracle(kind, 0.2, &z, &z)).abs() < 2e-6, "{kind:?}: {found}");
            let backward = loss.backward();
            let both = [first, second].map(|half| half.grad(&backward).unwrap().into_data());
            let gradient: Vec<f64> =
                both.iter().flat_map(|data| data.iter::<f64>().collect::<Vec<_>>()).collect();
            for (i, gradient) in gradient.iter().enumerate() {
                let at = |step: f64| {
                    let mut moved = z.clone();
                    moved[i] += step;
                    oracle(kind, 0.2, &moved, &z)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - gradient).abs() < 1e-5, "{kind:?} {i}: {slope} {gradient}");
            }
        }
    }

    #[test]
    fn the_coupled_gradient_is_the_share_times_the_decoupled_one() {
        // By anchor and score: the gradient of InfoNCE is -q/t for the positive and q times the softmax over negatives.
        let [first, second] = tensors(&embeddings());
        let q = info_nce_share(first.clone(), second.clone(), 0.2);
        let difference = |kind| {
            let loss = loss_of(kind, 0.2).of(first.clone(), second.clone()).unwrap();
            f64::from(loss.into_scalar::<f32>())
        };
        // L_NCE - L_DCL = -ln q, on the mean.
        let gap = difference(ContrastiveKind::InfoNce) - difference(ContrastiveKind::Decoupled);
        let expected = q.iter().map(|q| -q.ln()).sum::<f64>() / q.len() as f64;
        assert!((gap - expected).abs() < 2e-6, "{gap} {expected}");
        // Anchor by anchor, on the scores themselves.
        let (all, _) = scores(first, second, 0.2);
        let all = all.detach().require_grad();
        let slope = |coupled: bool, anchor: usize| -> Vec<f64> {
            let mask = Tensor::from_data(left_out(N, coupled), &all.device());
            let positive = all.clone().narrow(0, anchor, 1).narrow(1, (anchor + N) % (2 * N), 1);
            let loss = log_sum_exp(all.clone(), mask).narrow(0, anchor, 1) - positive;
            all.grad(&loss.sum().backward()).unwrap().into_data().iter::<f64>().collect()
        };
        assert!(q.iter().any(|q| *q < 0.9), "the factor matters");
        for (anchor, q) in q.iter().enumerate() {
            let (coupled, decoupled) = (slope(true, anchor), slope(false, anchor));
            assert!(coupled.iter().zip(&decoupled).all(|(a, b)| (a - q * b).abs() < 1e-6), "{anchor}");
        }
    }

    #[test]
    fn weights_have_mean_one_and_low_temperatures_leave_nothing_back_in() {
        let [first, second] = tensors(&embeddings());
        let (_, positives) = scores(first.clone(), second.clone(), 1.0);
        let grown = (positives / 0.5).exp();
        let weights = (grown.clone() / grown.mean_dim(0)).neg() + 2.0;
        let mean = weights.into_data().iter::<f64>().sum::<f64>() / (2 * N) as f64;
        assert!((mean - 1.0).abs() < 1e-6);
        // At 0.005 a score of self is 200: the sum without it is finite and that of the definition.
        let z = embeddings();
        let found =
            loss_of(ContrastiveKind::Decoupled, 0.005).of(first, second).unwrap().into_scalar::<f32>();
        let expected = oracle(ContrastiveKind::Decoupled, 0.005, &z, &z);
        assert!((f64::from(found) - expected).abs() < 1e-3 * expected.abs(), "{found} {expected}");
        let one = Tensor::<2>::ones([1, 3], &Device::flex());
        assert!(loss_of(ContrastiveKind::Decoupled, 0.1).of(one.clone(), one).is_err());
    }
}
