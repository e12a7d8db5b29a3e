//! A treated weight with the branch beside it, found as the settings say: afterwards (EoRA and its variants), or by turns with the
//! codes (LQ-LoRA).

use std::sync::OnceLock;

use burn::tensor::{Int, Tensor};
use trimtab_calibrate::{Batch, Fisher, Moment, Outcome, SiteEvidence, Treated, Treatment, empirical_fisher};
use trimtab_io::BranchFactors;
use trimtab_mend::eora::{Evidence, eora};
use trimtab_mend::lq::lq;
use trimtab_models::Model;
use trimtab_nn::{Flow, Network, SiteMeta, Task};
use trimtab_quantize::damage::site_error;
use trimtab_train::cross_entropy;

use crate::calibration::Calibration;
use crate::error::{Error, Result};
use crate::inventory::{Inventory, TreatedSite};
use crate::monitor::Monitor;
use crate::quantizer::Quantizer;
use crate::scheme::scale_dtype;

/// A weight with its branch.
pub struct Mended {
    /// The new weight.
    pub treated: Treated,
    /// What stands beside it; `None` for rank 0.
    pub branch: Option<BranchFactors>,
    /// The numbers of the two together.
    pub values: Vec<f32>,
}

/// Finds the branch of rank `rank` for `weight`, which `method` made `plain` of. With turns, the codes become others too.
///
/// A site that no data reached (an expert that no token was sent to) gets the branch of the plain decomposition.
///
/// # Errors
/// [`Error::Site`]: what the method or the decomposition meets.
pub fn mend(
    quantizer: &Quantizer,
    method: &dyn Treatment,
    (site, rank): (&TreatedSite, usize),
    weight: &[f32],
    seen: SiteEvidence<'_>,
    plain: Treated,
) -> Result<Mended> {
    let failed = |message: String| Error::Site { site: site.meta.name.clone(), message };
    let evidence = Evidence { second_moment: seen.second_moment.map(Moment::mean), fisher: seen.fisher };
    let (rows, dtype) = (site.meta.rows, scale_dtype(site.dtype));
    let values = numbers(&plain);
    let (treated, mut values, branch) = match quantizer.turns(seen) {
        None => {
            let settings = quantizer.branch_settings(seen);
            let found = eora(weight, &values, rows, evidence, rank, &settings);
            let branch = found.and_then(|branch| branch.factors(dtype)).map_err(|e| failed(e.to_string()))?;
            (plain, values, branch)
        }
        Some(settings) => {
            let again = |rest: &[f32]| -> std::result::Result<(Treated, Vec<f32>), Stop> {
                let Outcome { treated, .. } = method.treat(&site.meta, rest, seen).map_err(Stop)?;
                let values = numbers(&treated);
                Ok((treated, values))
            };
            let split = lq(weight, rows, evidence, (rank, dtype), &settings, (plain, values), again);
            let split = split.map_err(|Stop(message)| failed(message))?;
            (split.changed, split.values, split.branch)
        }
    };
    branch.as_ref().map_or(Ok(()), |branch| branch.merge_into(&mut values))?;
    Ok(Mended { treated, branch, values })
}

/// Why turns ended early.
struct Stop(String);

impl From<trimtab_mend::Error> for Stop {
    fn from(error: trimtab_mend::Error) -> Self {
        Self(error.to_string())
    }
}

/// The squared output error of `values` in the place of `weight`; where nothing was seen, the squared error of the weight.
pub(crate) fn damage(weight: &[f32], values: &[f32], seen: SiteEvidence<'_>) -> Result<f64> {
    Ok(site_error(weight, values, seen.second_moment)?)
}

/// By how much the network's answers diverge with `values` in the place of `weight`, nats a token, to second order and along the
/// axes: half of the squared error, weighted with the Fisher information.
pub(crate) fn divergence(weight: &[f32], values: &[f32], fisher: &[f32]) -> f64 {
    let term = |((&w, &q), &f): ((&f32, &f32), &f32)| f64::from(f) * (f64::from(w) - f64::from(q)).powi(2);
    0.5 * weight.iter().zip(values).zip(fisher).map(term).sum::<f64>()
}

/// The numbers of a treated weight, its branch aside.
pub(crate) fn numbers(treated: &Treated) -> Vec<f32> {
    match treated {
        Treated::Coded(matrix) => matrix.dequantize(),
        Treated::Dense(values) => values.clone(),
    }
}

/// The empirical Fisher information of all observed sites, once it was asked for.
#[derive(Debug, Default)]
pub struct FisherCell(OnceLock<Fisher>);

impl FisherCell {
    /// What was found; `None` where nobody asked.
    pub fn get(&self) -> Option<&Fisher> {
        self.0.get()
    }
}

impl Calibration {
    /// The empirical Fisher information of the observed sites, of the mean negative log-likelihood a token: found with the first
    /// call, one backward pass a window.
    ///
    /// # Errors
    /// A model that predicts no text, [`trimtab_calibrate::Error::Interrupted`], and what the passes meet.
    pub fn fisher(&self, model: &Model, inventory: &Inventory, monitor: &mut dyn Monitor) -> Result<&Fisher> {
        if let Some(found) = self.fisher.0.get() {
            return Ok(found);
        }
        if model.task() != Task::Language {
            let message = "needs the loss of a language model; this is another kind of model".into();
            return Err(Error::Setting { what: "Fisher information", message });
        }
        let sites: Vec<&str> =
            inventory.sites.iter().filter(|site| site.observed).map(|site| site.meta.name.as_str()).collect();
        let network = model.trainable(&model.device().clone().autodiff())?;
        let mut terms = 1;
        let mut loss = |network: &Network, batch: &Batch| -> Result<Tensor<1>> {
            let (loss, count) = log_likelihood(network, batch)?;
            terms = count;
            Ok(loss)
        };
        monitor.begin("Fisher information", self.samples);
        let mut go_on = |done: usize, _: usize| {
            monitor.advance(done, "");
            !monitor.interrupted()
        };
        let found = empirical_fisher(&network, &sites, &self.batches, &mut loss, &mut go_on)?;
        let mut found = found.ok_or(trimtab_calibrate::Error::Interrupted)?;
        // Of a window as a whole, and so many tokens share its divergence.
        let share = 1.0 / terms as f32;
        found.values_mut().flatten().for_each(|f| *f *= share);
        Ok(self.fisher.0.get_or_init(|| found))
    }
}

/// The negative log-likelihood of the tokens of a window but the first, and how many they are.
fn log_likelihood(network: &Network, batch: &Batch) -> Result<(Tensor<1>, usize)> {
    let Flow::Tokens(ids) = &batch.input else {
        let message = "needs texts to calibrate on".into();
        return Err(Error::Setting { what: "Fisher information", message });
    };
    let [n, t] = ids.dims();
    let logits =
        network.forward(Flow::Tokens(ids.clone()), &mut batch.ctx())?.hidden("Fisher information")?;
    let targets: Tensor<2, Int> = ids.clone().narrow(1, 1, t - 1);
    let terms = n * (t - 1);
    Ok((cross_entropy(logits.narrow(1, 0, t - 1), targets) * terms as f64, terms))
}

/// What was seen of a site, with its Fisher information where that was asked for.
pub(crate) fn evidence_of<'a>(
    meta: &SiteMeta,
    second_moment: Option<&'a Moment>,
    fisher: Option<&'a Fisher>,
) -> SiteEvidence<'a> {
    let fisher = fisher.and_then(|fisher| fisher.get(&meta.name)).map(Vec::as_slice);
    SiteEvidence { second_moment, fisher }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use trimtab_nn::Capture;
    use trimtab_plan::Selection;

    use super::*;
    use crate::calibration::CalibrationSettings;
    use crate::choice::Choice;
    use crate::form::Form;
    use crate::monitor::Quiet;
    use crate::pricing;
    use crate::scheme::{Choices, Scheme};
    use crate::treating::{Assignment, Job};

    fn opened(samples: usize) -> (Model, Inventory, Calibration) {
        let model = Model::open("@pico", None).unwrap();
        let inventory = Inventory::take(&model, &Selection::default(), Form::Packed).unwrap();
        let settings = CalibrationSettings { samples: Some(samples), window: Some(48), ..Default::default() };
        let calibration = Calibration::load(&model, &settings).unwrap();
        (model, inventory, calibration)
    }

    #[test]
    fn fisher_information_adds_up_to_the_gradient_norms_of_single_samples() {
        let (model, inventory, calibration) = opened(6);
        let fisher = calibration.fisher(&model, &inventory, &mut Quiet::default()).unwrap();
        assert_eq!(fisher.len(), inventory.sites.len());
        // The other way to see single samples: products of rows, without a gradient of one.
        let network = model.trainable(&Device::flex().autodiff()).unwrap();
        let (mut norms, mut of_sum) = (std::collections::BTreeMap::<&str, f64>::new(), Vec::new());
        let name = inventory.sites[0].meta.name.as_str();
        for batch in &calibration.batches {
            let Flow::Tokens(ids) = &batch.input else { panic!("tokens") };
            let ids = Tensor::<2, Int>::from_data(ids.clone().into_data(), &Device::flex().autodiff());
            let mut capture = Capture::default();
            let mut ctx = trimtab_nn::Ctx { capture: Some(&mut capture), ..Default::default() };
            let logits =
                network.forward(Flow::Tokens(ids.clone()), &mut ctx).unwrap().hidden("test").unwrap();
            let [n, t] = ids.dims();
            let loss =
                cross_entropy(logits.narrow(1, 0, t - 1), ids.narrow(1, 1, t - 1)) * (n * (t - 1)) as f64;
            let backward = loss.backward();
            let resolved = capture.resolve(&backward);
            for site in &inventory.sites {
                let path = site.meta.weight_name();
                let sum: f64 = resolved.squared_norms(|tensor| tensor == path).unwrap().iter().sum();
                *norms.entry(&site.meta.name).or_default() += sum / (6.0 * (t - 1) as f64);
            }
            let site = network.sites().find(|site| site.name() == name).unwrap();
            let trimtab_nn::Weight::Dense(weight) = &site.weight else { panic!("dense") };
            let gradient = trimtab_nn::host(weight.val().grad(&backward).unwrap());
            of_sum.resize(gradient.len(), 0.0);
            let terms = 6.0 * (t - 1) as f64;
            of_sum.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += f64::from(*g).powi(2) / terms);
        }
        for (site, information) in fisher {
            let found: f64 = information.iter().map(|&f| f64::from(f)).sum();
            let expected = norms[site.as_str()];
            assert!((found / expected - 1.0).abs() < 1e-3, "{site}: {found} {expected}");
        }
        // The control: number by number, the squared gradient of a batch is another.
        let pairs = fisher[name].iter().zip(&of_sum);
        let apart: f64 = pairs.map(|(&f, g): (&f32, &f64)| (f64::from(f) - g).abs()).sum();
        assert!(apart > 0.2 * norms[name], "{apart} {}", norms[name]);
    }

    #[test]
    fn turns_leave_less_error_than_branches_that_come_afterwards_at_every_site_and_scheme() {
        let (model, inventory, calibration) = opened(6);
        for (label, quantizer) in [
            (
                "nf3 b64 + rank 6",
                Quantizer { branches: trimtab_mend::eora::Variant::Svd, ..Quantizer::default() },
            ),
            (
                "nf2 b32 + rank 6",
                Quantizer { branches: trimtab_mend::eora::Variant::Fisher, ..Quantizer::default() },
            ),
            ("int2 g32 + rank 6", Quantizer::default()),
        ] {
            let choice: Choice = label.parse().unwrap();
            let assignment: Assignment =
                inventory.sites.iter().map(|site| (site.meta.name.clone(), choice)).collect();
            let run = |turns: Option<usize>| {
                let quantizer = Quantizer { turns, ..quantizer };
                let (model, inventory, assignment) = (&model, &inventory, &assignment);
                let job = Job { model, inventory, assignment, quantizer: &quantizer, form: Form::Packed };
                let treated = job.collected(Some(&calibration), &mut Quiet::default()).unwrap();
                let reports = treated.0.values().flat_map(|stage| &stage.reports);
                let bytes: u64 = reports.map(|report| report.bytes).sum();
                let overlay = treated.overlay(inventory).unwrap();
                (overlay, bytes)
            };
            let (after, by_turns) = (run(None), run(Some(20)));
            assert_eq!(after.1, by_turns.1, "the same bytes");
            let network = model.network().unwrap();
            let mut better = 0;
            for site in network.sites().filter(|site| after.0.contains_key(site.name())) {
                let original = site.to_f32();
                let fisher = calibration.fisher.get().filter(|_| quantizer.needs_fisher());
                let fisher = fisher.map(|fisher| fisher[site.name()].as_slice());
                let error = |put: &crate::measure::Put| {
                    let mut changed = site.clone();
                    put.clone().into_site(&mut changed).unwrap();
                    match fisher {
                        Some(fisher) => divergence(&original, &changed.to_f32(), fisher),
                        None => damage(&original, &changed.to_f32(), SiteEvidence::default()).unwrap(),
                    }
                };
                let [one, other] = [&after.0, &by_turns.0].map(|overlay| error(&overlay[site.name()]));
                // Of integers, whose error is weighed by inputs that differ between the two, it is not this error that falls.
                if label.starts_with("nf") {
                    assert!(other <= one * 1.0001, "{label}, {}: {other} {one}", site.name());
                }
                better += usize::from(other < 0.98 * one);
            }
            assert!(better > inventory.sites.len() / 2 || !label.starts_with("nf"), "{label}: {better}");
        }
    }

    #[test]
    fn prices_by_the_fisher_information_are_half_of_the_weighted_error() {
        let (model, inventory, calibration) = opened(4);
        let nf3: Scheme = "nf3 b32".parse().unwrap();
        let choices = Choices { bits: vec![16], types: vec![nf3], ranks: vec![0, 4], ..Choices::default() };
        let quantizer =
            Quantizer { turns: Some(8), branches: trimtab_mend::eora::Variant::Svd, ..Quantizer::default() };
        calibration.fisher(&model, &inventory, &mut Quiet::default()).unwrap();
        let found =
            pricing::observe(&model, &inventory, &calibration, (&choices, &quantizer), &mut Quiet::default())
                .unwrap();
        let mut list = pricing::skeleton(
            &inventory,
            &choices,
            false,
            (pricing::Metric::Fisher, trimtab_plan::Source::Estimated),
        )
        .unwrap();
        pricing::by_fisher(&mut list, &found).unwrap();
        let network = model.network().unwrap();
        for (prices, site) in list.sites.iter().zip(&inventory.sites) {
            let weight = network.sites().find(|s| s.name() == site.meta.name).unwrap().to_f32();
            let bare = quantizer.treatment(nf3, site.dtype, true).unwrap();
            let bare = bare.treat(&site.meta, &weight, SiteEvidence::default()).unwrap();
            let fisher = &calibration.fisher.get().unwrap()[&site.meta.name];
            let expected = divergence(&weight, &numbers(&bare.treated), fisher);
            let of = |label: &str| prices.options.iter().find(|option| option.label == label).unwrap();
            assert!((of("nf3 b32").damage / expected - 1.0).abs() < 1e-9, "{}", site.meta.name);
            assert!(of("nf3 b32 + rank 4").damage < expected);
            assert!(of("nf3 b32 + rank 4").costs.bytes > of("nf3 b32").costs.bytes);
            assert_eq!(of("dense").damage, 0.0);
        }
    }
}
