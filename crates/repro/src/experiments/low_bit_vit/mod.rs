//! What the experiments on activations of vision transformers share: trained networks with and without loud channels, ways to
//! quantize them, and how well they then classify.

pub(super) mod arms;

use burn::tensor::Device;
use trimtab::calibration::{Calibration, image_batch};
use trimtab::floors::calibrate::{Inputs, Stream, StreamSettings};
use trimtab::floors::io::augment::{Augment, HorizontalFlip, RandomCrop};
use trimtab::floors::io::{Checkpoint, Dtype, ImageSet, RawTensor, to_safetensors};
use trimtab::floors::models::{Model, Zoo};
use trimtab::floors::nn::Role;
use trimtab::floors::plan::Selection;
use trimtab::floors::rewrite::{Draft, Pass, PassSettings, Ranges, apply_passes};
use trimtab::floors::train::objectives::Classify;
use trimtab::floors::train::{OptimizerConfig, Phase, Schedule, Settings, Silent, Trainer};
use trimtab::form::Form;
use trimtab::inventory::Inventory;
use trimtab::judge::Judge;
use trimtab::monitor::Quiet;
use trimtab::training::logits;
use trimtab::treating::{Assignment, Job};

use super::pictures::{self, Cause};
use crate::error::{Error, Result};
use crate::experiment::Scale;
use crate::lab::Lab;
use arms::Arm;

/// Images that ranges are found on, as in the papers.
const CALIBRATION: usize = 32;
/// Loud channels of every norm, and by how much.
const OUTLIERS: (usize, f64) = (4, 20.0);
const BATCH: usize = 100;
const RATE: f64 = 2e-3;
const AUGMENT: &[Augment] =
    &[Augment::RandomCrop(RandomCrop { padding: 2 }), Augment::HorizontalFlip(HorizontalFlip { p: 0.5 })];

/// How much is done.
#[derive(Clone, Copy)]
pub struct Size {
    pub seeds: u64,
    images: usize,
    epochs: usize,
    tested: usize,
}

impl Size {
    pub fn of(scale: Scale) -> Self {
        match scale {
            Scale::Quick => Self { seeds: 1, images: 2000, epochs: 4, tested: 500 },
            Scale::Full => Self { seeds: 3, images: 12000, epochs: 12, tested: 1000 },
        }
    }

    pub fn describe(self) -> String {
        let Self { seeds, images, epochs, tested } = self;
        format!(
            "ViT of 4 blocks and width 64, CIFAR-10 at 16 x 16, {images} images, {epochs} epochs, {tested} test images, \
             {CALIBRATION} images to calibrate on, {seeds} seed(s)"
        )
    }
}

/// Shares of right answers of one network, by arm; first its own, unquantized.
#[derive(Clone, Debug)]
pub struct Found {
    pub loud: bool,
    pub original: f64,
    pub arms: Vec<(Arm, f64)>,
}

impl Found {
    pub fn at(&self, arm: Arm) -> f64 {
        self.arms.iter().find(|(known, _)| *known == arm).map_or(f64::NAN, |(_, right)| *right)
    }
}

/// Trains a network for each seed and quantizes it, as it is and with loud channels, in every way of `arms`.
pub fn measure(
    arms: &[Arm],
    scale: Scale,
    lab: &Lab<'_>,
    failed: impl Fn(&'static str) -> Box<dyn Fn(Cause) -> Error> + Sync,
) -> Result<Vec<Found>> {
    let size = Size::of(scale);
    let [train, test] = lab.images("vision/cifar10.safetensors", failed("data"))?;
    let shrunk = |set: ImageSet| set.shrunk(2).map_err(|error| failed("data")(Box::new(error)));
    let images =
        [shrunk(pictures::first(&train, size.images))?, shrunk(pictures::first(&test, size.tested))?];
    let seeds: Vec<u64> = (0..size.seeds).collect();
    let models = pictures::side_by_side(&seeds, |&seed| {
        lab.tell(&format!("seed {seed}: training"))?;
        trained(&images[0], size, seed).map_err(failed("training"))
    })?;
    let cells: Vec<(usize, bool)> = (0..seeds.len()).flat_map(|i| [(i, false), (i, true)]).collect();
    pictures::side_by_side(&cells, |&(i, loud)| {
        let seed = seeds[i];
        lab.tell(&format!("seed {seed}: quantizing{}", if loud { ", loud channels" } else { "" }))?;
        let run = || -> std::result::Result<Found, Cause> {
            let model = single(&models[i])?;
            let model = if loud { with_passes(&model, Pass::InjectOutliers, seed, None)? } else { model };
            quantized(&model, &images, arms, (seed, loud))
        };
        run().map_err(failed("quantizing"))
    })
}

/// The tensors of a trained network.
type Trained = (Vec<(String, RawTensor)>, Checkpoint);

fn trained(images: &ImageSet, size: Size, seed: u64) -> std::result::Result<Trained, Cause> {
    let [_, channels, image, _] = images.shape;
    let zoo = Zoo::Vit {
        image,
        patch: 4,
        width: 64,
        blocks: 4,
        heads: 4,
        hidden: Some(128),
        classes: 10,
        channels,
    };
    let data = pictures::pictures(images, AUGMENT, seed)?;
    let optimizer = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.05 };
    let phase = Phase {
        steps: None,
        epochs: Some(size.epochs as f64),
        schedule: Schedule::Cosine { warmup: 0.1, floor: 0.0 },
        ..Phase::new(1, RATE, optimizer)
    };
    let settings = Settings { seed, ..Settings::new(BATCH, vec![phase]) };
    let objective = Classify::new(logits);
    let trainer = Trainer::new(&data, &objective, &settings, Device::flex());
    let outcome = trainer.run(pictures::network(&zoo, channels, seed)?, &mut Silent::default())?;
    let tensors = outcome.module.tensors().into_iter();
    let tensors = tensors.map(|(name, shape, values)| -> std::result::Result<_, Cause> {
        Ok((name, RawTensor::from_f32(shape, &values, Dtype::F32)?))
    });
    let colours = pictures::colours(channels);
    let normalization = trimtab::floors::models::Normalization { mean: colours.mean, std: colours.std };
    Ok((tensors.collect::<std::result::Result<_, _>>()?, zoo.checkpoint(seed, &normalization)?))
}

/// A trained network as a model.
fn single((tensors, start): &Trained) -> std::result::Result<Model, Cause> {
    let weights = to_safetensors(tensors, start.metadata())?;
    let config = start.config().map(|config| config.to_string().into_bytes()).unwrap_or_default();
    let files =
        vec![("model.safetensors".to_string(), weights.into()), ("config.json".into(), config.into())];
    Ok(Model::from_checkpoint(Checkpoint::from_bytes(files)?, None, Device::flex())?)
}

fn with_passes(
    base: &Model,
    pass: Pass,
    seed: u64,
    ranges: Option<Ranges>,
) -> std::result::Result<Model, Cause> {
    let mut draft = Draft::new(base.checkpoint(), base.wiring());
    let (channels, factor) = OUTLIERS;
    let ranges = ranges.map(Into::into);
    let settings = PassSettings { seed, channels, factor, ranges, ..PassSettings::default() };
    apply_passes(&mut draft, &[pass], &settings)?;
    Ok(Model::from_checkpoint(draft.to_checkpoint()?, None, Device::flex())?)
}

/// The first images of the training set.
fn calibration(model: &Model, images: &ImageSet) -> std::result::Result<Calibration, Cause> {
    let n = CALIBRATION.min(images.len());
    let batches = vec![image_batch(images, &model.normalization()?, 0..n, model.device())?];
    Ok(Calibration {
        batches,
        samples: n,
        rows: n,
        description: format!("{n} images"),
        rest: None,
        rest_is: "",
        fisher: Default::default(),
    })
}

/// Largest magnitude of what each norm gives, by channel.
fn ranges(model: &Model, calibration: &Calibration) -> std::result::Result<Ranges, Cause> {
    let wiring = model.wiring();
    let settings = StreamSettings { inputs: Inputs::Original, ..StreamSettings::default() };
    let mut found = Ranges::new();
    let stream = Stream::new(model, &calibration.batches, model.device().clone(), settings);
    stream.run(|block| -> std::result::Result<(), trimtab::floors::calibrate::Error> {
        let sites = block.info().sites.clone();
        for norm in wiring.free_norms() {
            let Some(site) = sites.iter().find(|site| norm.seen_by.as_ref() == Some(&site.name)) else {
                continue;
            };
            let range = found.entry(norm.name.clone()).or_insert_with(|| vec![0.0; site.cols]);
            block.each_input(&[&site.name], |_, rows, _| {
                for row in rows.chunks_exact(site.cols) {
                    range.iter_mut().zip(row).for_each(|(m, x)| *m = m.max(f64::from(x.abs())));
                }
            })?;
        }
        Ok(())
    })?;
    Ok(found)
}

/// How well the model classifies in every way.
fn quantized(
    model: &Model,
    [train, test]: &[ImageSet; 2],
    arms: &[Arm],
    (seed, loud): (u64, bool),
) -> std::result::Result<Found, Cause> {
    let judge = Judge::Images { set: test.clone() };
    let right = |model: &Model, network: &_| -> std::result::Result<f64, Cause> {
        let quality = judge.score(model, network, &mut Quiet::default())?;
        Ok(quality.accuracy.ok_or("no accuracy")? / 100.0)
    };
    let original = right(model, &model.network()?)?;
    let mut of_arms = Vec::new();
    for &arm in arms {
        let data = calibration(model, train)?;
        let smoothed = match arm {
            Arm::Smooth => Some(with_passes(model, Pass::ScaleChannels, seed, Some(ranges(model, &data)?))?),
            _ => None,
        };
        let subject = smoothed.as_ref().unwrap_or(model);
        let inventory = Inventory::take(subject, &Selection::default(), Form::Packed)?;
        let scheme = arms::WEIGHTS.parse()?;
        let names = subject.sites(Role::Block).map(|site| (site.name.clone(), scheme));
        let assignment: Assignment = names.collect();
        let quantizer = arm.quantizer(seed)?;
        let job = Job {
            model: subject,
            inventory: &inventory,
            assignment: &assignment,
            quantizer: &quantizer,
            form: Form::Packed,
        };
        let treated = job.collected(Some(&data), &mut Quiet::default())?;
        let mut network = subject.network()?;
        treated.put(&mut network, &inventory)?;
        of_arms.push((arm, right(subject, &network)?));
        subject.checkpoint().release();
    }
    Ok(Found { loud, original, arms: of_arms })
}
