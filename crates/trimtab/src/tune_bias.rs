//! Bias tuning (paper 28): the biases of a treated classifier trained to say what the original says.
//!
//! Source: Hubara et al., arXiv:2006.10518, section 3.4. Only biases (of maps and of norms) are trained, on calibration images without
//! labels, `KL(original || treated)` being the loss; SGD, at 0.1 first and 0.01 for the second half. Norms divide by what they have
//! stored. An eighth of the images is held out: the biases are those of the pass that was best on them, the old ones if none was better.

use std::collections::BTreeMap;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use trimtab_calibrate::Batch;
use trimtab_nn::{Ctx, Flow, HeldMut, LayerMut, Network, Weight, host};
use trimtab_train::objectives::{ImageBatch, Imitate, Targets};
use trimtab_train::{
    Dataset, Item, Loss, Objective, Observer, OptimizerConfig, Pass, Paths, Phase, Schedule, Settings,
    StepRecord, Trainer,
};

use crate::error::{Error, Result};

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BiasTuning {
    /// Rate of SGD; a tenth of it in the second half.
    pub rate: f64,
    /// Passes over the images.
    pub epochs: usize,
    /// Images of a step.
    pub batch: usize,
    /// Names the order of the images.
    pub seed: u64,
}

impl Default for BiasTuning {
    fn default() -> Self {
        Self { rate: 0.1, epochs: 20, batch: 16, seed: 0 }
    }
}

/// Biases and what they are worth.
#[derive(Clone, Debug)]
pub struct TunedBiases {
    /// The new biases by the name of their tensor; empty if the old ones were best.
    pub biases: BTreeMap<String, Vec<f32>>,
    /// KL on the held-out images, nats an image, before.
    pub before: f64,
    /// The same with the new biases.
    pub after: f64,
}

/// Trains the biases of `treated`, a classifier of images, towards `original` on calibration images.
///
/// # Errors
/// Data that are no images, fewer than two of them, and what training refuses.
pub fn tune_biases(
    original: &Network,
    treated: &Network,
    batches: &[Batch],
    how: &BiasTuning,
) -> Result<TunedBiases> {
    let all = Images::of(original, batches)?;
    let n = all.images.dims()[0];
    if n < 2 {
        let message = "needs two images at least, one to train on and one to judge by".into();
        return Err(Error::Setting { what: "--tune-bias", message });
    }
    let held = n.div_ceil(8);
    let (trained, judged) = (all.part(0..n - held), all.part(n - held..n));
    let device = Device::flex();
    let gradients = device.clone().autodiff();
    let network = with_gradients(treated, &gradients);
    let logits = |network: &Network, images: Tensor<4>, ctx: &mut Ctx<'_>| {
        network.forward(Flow::Image(images), ctx)?.vector("biases")
    };
    let objective = ByStoredStatistics(Imitate { logits, temperature: 1.0 });
    let rule = OptimizerConfig::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let phase = Phase {
        steps: None,
        epochs: Some(how.epochs.max(1) as f64),
        schedule: Schedule::Steps { at: vec![0.5], factor: 0.1 },
        trainable: Paths(vec![".bias".into()]),
        ..Phase::new(1, how.rate, rule)
    };
    let batch = how.batch.clamp(1, n - held);
    let per_pass = (n - held).div_ceil(batch);
    let settings = Settings {
        seed: how.seed,
        heldout_every: per_pass,
        prefetch: 0,
        ..Settings::new(batch, vec![phase])
    };
    let mut trainer = Trainer::new(&trained, &objective, &settings, device);
    let before = trainer.heldout_loss(&network, &judged)?.loss;
    trainer.heldout = Some(&judged);
    let mut best = Best { loss: before, biases: BTreeMap::new() };
    trainer.run(network, &mut best)?;
    Ok(TunedBiases { biases: best.biases, before, after: best.loss })
}

/// A loss has to fall by more than this, nats per image, to be better: the rest is rounding.
const LEAST: f64 = 1e-4;

/// Keeps the biases that were best on the held-out images.
struct Best {
    loss: f64,
    biases: BTreeMap<String, Vec<f32>>,
}

impl Observer<Network> for Best {
    fn step(&mut self, record: &StepRecord, network: &Network) {
        if let Some(found) = record.heldout.filter(|found| found.loss < self.loss - LEAST) {
            self.loss = found.loss;
            self.biases = biases_of(network);
        }
    }
}

/// All biases by the name of their tensor.
fn biases_of(network: &Network) -> BTreeMap<String, Vec<f32>> {
    let mut found = BTreeMap::new();
    for mut stage in network.stages().iter().map(|stage| stage.boxed_clone()) {
        for (name, held) in stage.layers_mut().into_iter().flat_map(LayerMut::held) {
            if let (true, HeldMut::Vector(param)) = (name.ends_with(".bias"), held) {
                found.insert(name, host(param.val().without_autodiff()));
            }
        }
    }
    found
}

/// The network where gradients are kept, of its biases alone; codes are numbers there.
fn with_gradients(network: &Network, device: &Device) -> Network {
    let mut network = network.clone();
    for index in 0..network.stages().len() {
        let stage = network.stage_mut(index);
        for site in stage.sites_mut() {
            if !matches!(site.weight, Weight::Dense(_)) {
                site.weight = Weight::dense(site.weight.to_tensor(&Device::flex()));
            }
        }
        for (name, held) in stage.layers_mut().into_iter().flat_map(LayerMut::held) {
            match held {
                HeldMut::Vector(param) => *param = placed(param.val(), device, name.ends_with(".bias")),
                HeldMut::Matrix(param) => *param = placed(param.val(), device, false),
            }
        }
    }
    network
}

fn placed<const D: usize>(value: Tensor<D>, device: &Device, trained: bool) -> Param<Tensor<D>> {
    let value = Tensor::<D>::from_data(value.into_data(), device);
    match trained {
        true => Param::from_tensor(value),
        false => Param::initialized(ParamId::new(), value),
    }
}

/// Lets batch norms go by what they have stored, in training too.
struct ByStoredStatistics<O>(O);

impl<M, B, O: Objective<M, B>> Objective<M, B> for ByStoredStatistics<O> {
    fn loss(&self, model: &M, batch: &B, pass: &mut Pass) -> trimtab_train::Result<Loss> {
        let mut pass = Pass { training: false, step: pass.step, progress: pass.progress, ..Pass::default() };
        self.0.loss(model, batch, &mut pass)
    }
}

/// Images with what the original says of them.
struct Images {
    images: Tensor<4>,
    logits: Tensor<2>,
}

impl Images {
    fn of(original: &Network, batches: &[Batch]) -> Result<Self> {
        let (mut images, mut logits) = (Vec::new(), Vec::new());
        for batch in batches {
            let input = batch.input.clone();
            logits.push(original.forward(input.clone(), &mut batch.ctx())?.vector("biases")?);
            images.push(input.image("biases")?);
        }
        if images.is_empty() {
            return Err(Error::NeedsCalibration { what: "--tune-bias", example: "images.safetensors" });
        }
        Ok(Self { images: Tensor::cat(images, 0), logits: Tensor::cat(logits, 0) })
    }

    fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self {
            images: self.images.clone().slice([range.clone()]),
            logits: self.logits.clone().slice([range]),
        }
    }
}

impl Dataset for Images {
    type Batch = ImageBatch;

    fn len(&self) -> usize {
        self.images.dims()[0]
    }

    fn batch(&self, items: &[Item], device: &Device) -> trimtab_train::Result<ImageBatch> {
        let one = |item: &Item| item.index..item.index + 1;
        let images = Tensor::cat(items.iter().map(|i| self.images.clone().slice([one(i)])).collect(), 0);
        let logits = Tensor::cat(items.iter().map(|i| self.logits.clone().slice([one(i)])).collect(), 0);
        let images = Tensor::from_data(images.into_data(), device);
        let logits = Tensor::from_data(logits.into_data(), device);
        Ok(ImageBatch::new(images, Targets::Teacher(logits.into())))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use trimtab_calibrate::RangeRule;
    use trimtab_io::AffineScheme;
    use trimtab_math::random::Stream;
    use trimtab_models::{Model, Normalization, Zoo};
    use trimtab_plan::Selection;

    use super::*;
    use crate::activations::Activations;
    use crate::apply::{OutputSettings, apply};
    use crate::calibration::{Calibration, CalibrationSettings};
    use crate::form::Form;
    use crate::inventory::Inventory;
    use crate::monitor::Quiet;
    use crate::quantizer::{Method, Quantizer};
    use crate::scheme::Scheme;
    use crate::treating::{Assignment, Job};

    fn model() -> Model {
        let normalization = Normalization { mean: vec![0.5; 3], std: vec![0.25; 3] };
        let zoo = Zoo::ResnetCifar { depth: 20, width: 4, classes: 4, channels: 3 };
        Model::from_checkpoint(zoo.checkpoint(3, &normalization).unwrap(), None, Device::flex()).unwrap()
    }

    fn calibration(images: usize) -> Calibration {
        let mut stream = Stream::new(9, "test/tuning", 0, 0);
        let values: Vec<f32> = (0..images * 3 * 64).map(|_| stream.normal() as f32).collect();
        let input =
            Flow::Image(Tensor::from_data(TensorData::new(values, [images, 3, 8, 8]), &Device::flex()));
        Calibration {
            batches: vec![Batch { input, mask: None, row_weights: None }],
            samples: images,
            rows: images,
            description: "noise".into(),
            rest: None,
            fisher: Default::default(),
            rest_is: "",
        }
    }

    fn coarse(model: &Model) -> (Inventory, Assignment) {
        let inventory = Inventory::take(model, &Selection::default(), Form::Packed).unwrap();
        let scheme = Scheme::Affine(AffineScheme { bits: 2, group_size: None, symmetric: false });
        let all = inventory.sites.iter().map(|site| (site.meta.name.clone(), scheme.into())).collect();
        (inventory, all)
    }

    fn numbers(network: &Network, data: &Calibration, by_batch: bool) -> Vec<f32> {
        let mut seen = Vec::new();
        let mut ctx = Ctx { batch_statistics: by_batch.then_some(&mut seen), ..Ctx::default() };
        host(network.forward(data.batches[0].input.clone(), &mut ctx).unwrap().vector("test").unwrap())
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn tuned_norms_go_by_the_statistics_of_the_treated_network() {
        let (model, data) = (model(), calibration(24));
        let (inventory, assignment) = coarse(&model);
        let of = |tune_batch_norms: bool| -> (Network, usize) {
            let quantizer = &Quantizer { tune_batch_norms, ..Quantizer::plain(Method::Rtn) };
            let (model, inventory, assignment) = (&model, &inventory, &assignment);
            let job = Job { model, inventory, assignment, quantizer, form: Form::Packed };
            let treated = job.collected(Some(&data), &mut Quiet::default()).unwrap();
            let mut network = model.network().unwrap();
            let vectors = treated.0.values().map(|stage| stage.vectors.len()).sum();
            treated.put(&mut network, inventory).unwrap();
            (network, vectors)
        };
        let ((tuned, vectors), (plain, none)) = (of(true), of(false));
        // Nine blocks of two norms with two buffers each.
        assert_eq!((vectors, none), (36, 0));
        // The stem is not tuned, and goes by what it has stored in both.
        let stem = |network: &Network| {
            let mut seen = Vec::new();
            let mut ctx = Ctx { batch_statistics: Some(&mut seen), ..Ctx::default() };
            let flow =
                network.forward_range(0, 1, data.batches[0].input.clone(), &mut Ctx::default()).unwrap();
            host(network.forward_from(1, flow, &mut ctx).unwrap().vector("test").unwrap())
        };
        // Of one batch, stored and seen statistics are the same, but for n / (n - 1) in the variance.
        let (stored, seen) = (numbers(&tuned, &data, false), stem(&tuned));
        let size = seen.iter().map(|v| v.abs()).fold(0.0, f32::max);
        assert!(apart(&stored, &seen) < 0.05 * size, "{} of {size}", apart(&stored, &seen));
        assert!(apart(&numbers(&plain, &data, false), &stem(&plain)) > 0.1 * size, "control");
    }

    #[test]
    fn ranges_of_activations_are_those_of_the_tuned_norms() {
        let (model, data) = (model(), calibration(24));
        let (inventory, assignment) = coarse(&model);
        let treated = |tune_batch_norms: bool| {
            let activations = Some(Activations {
                range: RangeRule::MinMax,
                ..Activations::of("int8 tensor".parse().unwrap())
            });
            let quantizer = &Quantizer { tune_batch_norms, activations, ..Quantizer::plain(Method::Rtn) };
            let (model, inventory, assignment) = (&model, &inventory, &assignment);
            let job = Job { model, inventory, assignment, quantizer, form: Form::Packed };
            job.collected(Some(&data), &mut Quiet::default()).unwrap()
        };
        // The largest number of the images that reaches a map is what its step was made for.
        let off = |tuned: bool, made_with: bool| -> f32 {
            let steps: BTreeMap<String, f32> = treated(made_with)
                .0
                .into_values()
                .flat_map(|stage| stage.quantized.inputs)
                .map(|(site, quantizer)| (site, quantizer.steps()[0].scale))
                .collect();
            let mut network = model.network().unwrap();
            treated(tuned).put(&mut network, &inventory).unwrap();
            let site = "layer2.1.conv2";
            network.site_mut(site).unwrap().1.set_activation(None).unwrap();
            let seen = std::sync::Arc::new(std::sync::Mutex::new(Range(f32::MAX, f32::MIN)));
            let mut taps = trimtab_nn::TapSet::new();
            taps.attach(site, std::sync::Arc::clone(&seen));
            let mut ctx = Ctx { taps: Some(&mut taps), ..Ctx::default() };
            network.forward(data.batches[0].input.clone(), &mut ctx).unwrap();
            taps.finish().unwrap();
            let Range(low, high) = *seen.lock().unwrap();
            (steps[site] * 255.0 / (high.max(0.0) - low.min(0.0)) - 1.0).abs()
        };
        assert!(off(true, true) < 0.02, "{}", off(true, true));
        assert!(off(true, false) > 0.05, "control: {}", off(true, false));
    }

    /// The least and the largest number that enters a site.
    struct Range(f32, f32);

    impl trimtab_nn::Tap for Range {
        fn input(
            &mut self,
            _: &trimtab_nn::SiteMeta,
            rows: trimtab_nn::TapRows<'_>,
        ) -> std::result::Result<(), String> {
            for &x in rows.rows {
                (self.0, self.1) = (self.0.min(x), self.1.max(x));
            }
            Ok(())
        }
    }

    #[test]
    fn tuned_biases_bring_the_treated_network_nearer_on_images_that_it_was_not_trained_on() {
        let (model, data) = (model(), calibration(64));
        let (inventory, assignment) = coarse(&model);
        let quantizer = &Quantizer::plain(Method::Rtn);
        let job = Job {
            model: &model,
            inventory: &inventory,
            assignment: &assignment,
            quantizer,
            form: Form::Packed,
        };
        let treated = job.collected(None, &mut Quiet::default()).unwrap();
        let original = model.network().unwrap();
        let mut network = original.clone();
        crate::measure::put(&mut network, &treated.overlay(&inventory).unwrap()).unwrap();
        let how = BiasTuning { rate: 0.02, epochs: 6, ..BiasTuning::default() };
        let found = tune_biases(&original, &network, &data.batches, &how).unwrap();
        assert!(found.after < 0.95 * found.before, "{} {}", found.before, found.after);
        assert!(found.biases.keys().all(|name| name.ends_with(".bias")) && found.biases.len() == 20);
        let again = tune_biases(&original, &network, &data.batches, &how).unwrap();
        assert_eq!(again.biases, found.biases);
        // Control: where nothing was changed nothing is to be gained.
        let same = tune_biases(&original, &original, &data.batches, &how).unwrap();
        assert!(same.before < 1e-6 && same.biases.is_empty(), "{} {}", same.before, same.after);
        assert!(tune_biases(&original, &network, &calibration(1).batches, &how).is_err());
    }

    #[test]
    fn what_was_tuned_is_in_the_file_and_the_same_again() {
        let (model, data) = (model(), calibration(24));
        let (inventory, assignment) = coarse(&model);
        let dir = tempfile::tempdir().unwrap();
        let settings = CalibrationSettings::default();
        let write = |name: &str, tuned: bool| {
            let quantizer = &Quantizer {
                tune_batch_norms: tuned,
                tune_biases: tuned.then(|| BiasTuning { rate: 0.02, epochs: 4, ..BiasTuning::default() }),
                ..Quantizer::plain(Method::Rtn)
            };
            let (model, inventory, assignment) = (&model, &inventory, &assignment);
            let job = Job { model, inventory, assignment, quantizer, form: Form::Dense };
            let output = dir.path().join(name);
            let out = OutputSettings { output: output.clone(), form: Form::Dense, force: false };
            let (_, finished) =
                apply(job, Some((&data, &settings)), None, &out, &mut Quiet::default()).unwrap();
            finished.clear().unwrap();
            (std::fs::read(output.join("model.safetensors")).unwrap(), output)
        };
        let ((first, path), (second, _)) = (write("first", true), write("second", true));
        assert!(first == second, "the same bytes");
        assert!(first != write("plain", false).0, "control");
        let written = Model::open(&path.display().to_string(), None).unwrap();
        let changed = |name: &str| {
            let of = |model: &Model| model.checkpoint().tensor(name).unwrap().to_f32().unwrap();
            of(&written) != of(&model)
        };
        assert!(changed("layer1.0.bn1.running_mean") && changed("layer3.2.bn2.running_var"));
        assert!(changed("bn1.bias") && changed("linear.bias"), "biases of all stages");
        assert!(!changed("bn1.running_mean") && !changed("layer1.0.bn1.weight"));
        numbers(&written.network().unwrap(), &data, false);
    }
}
