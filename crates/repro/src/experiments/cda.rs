//! Paper 17: dataset distillation via curriculum data synthesis in large data era (Yin and Shen, TMLR 2024,
//! arXiv:2311.18838).

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use trimtab::floors::io::ImageSet;
use trimtab::floors::io::augment::{Augment, Mixer, RandomResizedCrop};
use trimtab::floors::math::random::Stream;
use trimtab::floors::models::Zoo;
use trimtab::floors::models::zoo::BlockNorm;
use trimtab::floors::nn::{Ctx, Flow, Network};
use trimtab::floors::train::distil::{Curriculum, DistilledSet, Recovery, Replay, SoftLabels};
use trimtab::floors::train::objectives::{Classify, Imitate};
use trimtab::floors::train::{
    BatchTransform, Mix, Objective, OptimizerConfig, Phase, Schedule, Settings, Silent, Trainer,
};

use super::figures::{mean, percents};
use super::pictures::{self, Cause, side_by_side};
use crate::error::{Error, Result};
use crate::experiment::{Check, Experiment, Measurement, Scale, Table, Verdict};
use crate::lab::Lab;

const CLASSES: usize = 10;
const PER_CLASS: usize = 10;
const SEEDS: u64 = 3;
const TEMPERATURE: f64 = 20.0;
const MIX: Mixer = Mixer::CutMix { alpha: 1.0 };
const BATCH: usize = 25;
/// Images that the teacher is trained on, in passes.
const TEACHING: f64 = 3.0;

/// What a student is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Curriculum,
    Small,
    Whole,
    Real,
    Noise,
    Hard,
}

impl Arm {
    const ALL: [Self; 6] = [Self::Curriculum, Self::Small, Self::Whole, Self::Real, Self::Noise, Self::Hard];

    fn name(self) -> &'static str {
        match self {
            Self::Curriculum => "recovered, curriculum (CDA)",
            Self::Small => "recovered, crops from 8 % (SRe2L)",
            Self::Whole => "recovered, whole images",
            Self::Real => "real images",
            Self::Noise => "noise",
            Self::Hard => "CDA, hard labels",
        }
    }

    /// How its images are recovered, if they are.
    fn recovery(self, iterations: usize, seed: u64) -> Option<Recovery> {
        let how = Recovery {
            images_per_class: PER_CLASS,
            iterations,
            flip: false,
            shift: 2,
            block: CLASSES * PER_CLASS,
            seed,
            ..Recovery::default()
        };
        match self {
            Self::Curriculum => Some(how),
            Self::Small => Some(Recovery { milestone: 0.0, ..how }),
            Self::Whole => Some(Recovery { least_area: 1.0, ..how }),
            Self::Real | Self::Noise | Self::Hard => None,
        }
    }
}

/// How much is done.
#[derive(Clone, Copy)]
struct Size {
    iterations: usize,
    epochs: usize,
    seeds: u64,
}

/// The experiment.
pub struct Cda;

fn zoo(image: usize) -> Zoo {
    let (widths, norm) = (vec![16, 32, 64], BlockNorm::Batch);
    Zoo::Convnet { widths, norm, image, classes: CLASSES, channels: 1 }
}

fn logits(model: &Network, images: Tensor<4>, ctx: &mut Ctx<'_>) -> trimtab::floors::nn::Result<Tensor<2>> {
    model.forward(Flow::Image(images), ctx)?.vector("loss")
}

fn settings(epochs: f64, batch: usize, seed: u64) -> Settings {
    let optimizer = OptimizerConfig::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let schedule = Schedule::Cosine { warmup: 0.0, floor: 0.0 };
    let phase = Phase { steps: None, epochs: Some(epochs), schedule, ..Phase::new(1, 3e-3, optimizer) };
    Settings { seed, ..Settings::new(batch, vec![phase]) }
}

/// What the teacher loses on images as they are, nats.
fn entropy(teacher: &Network, images: Tensor<4>, classes: &[usize]) -> std::result::Result<f64, Cause> {
    let found = teacher.forward(Flow::Image(images), &mut Ctx::default())?.vector("teacher")?;
    let labels: Vec<i64> = classes.iter().map(|&class| class as i64).collect();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [classes.len(), 1]), &found.device());
    let mean = activation::log_softmax(found, 1).gather(1, labels).mean().neg();
    Ok(f64::from(mean.into_scalar::<f32>()))
}

/// The images of an arm, and what the teacher lost on the whole images after a quarter of their recovery.
fn images(
    arm: Arm,
    teacher: &Network,
    real: &ImageSet,
    size: Size,
    seed: u64,
    stop: &(dyn Fn() -> bool + Sync),
) -> std::result::Result<(ImageSet, Option<f64>), Cause> {
    let [_, c, h, w] = real.shape;
    let n = CLASSES * PER_CLASS;
    let labels: Vec<i64> = (0..n).map(|i| (i % CLASSES) as i64).collect();
    let mut stream = Stream::new(seed, "cda/images", 0, 0);
    if let Some(how) = arm.recovery(size.iterations, seed) {
        let mut early = Ok(f64::NAN);
        let mut watch = |step: &trimtab::floors::train::distil::RecoveryStep| {
            if step.step == size.iterations / 4 {
                early = entropy(teacher, step.images.clone(), &step.classes);
            }
            !stop()
        };
        let (colours, device) = (pictures::colours(c), Device::flex());
        let made = how.run(teacher, CLASSES, [h, w], &colours, &device, &mut watch)?;
        return Ok((made.ok_or_else(|| Box::new(Error::Stopped))?, Some(early?)));
    }
    if arm == Arm::Noise {
        let pixel = |_| (255.0 * (0.13 + 0.31 * stream.normal())).clamp(0.0, 255.0) as u8;
        return Ok((ImageSet::new([n, c, h, w], labels, (0..n * c * h * w).map(pixel).collect())?, None));
    }
    // So many of each class, drawn anew for every seed, in the order of the recovered ones.
    let mut order: Vec<usize> = (0..real.len()).collect();
    stream.shuffle(&mut order);
    let of_class =
        |class: i64| order.iter().copied().filter(move |&i| real.labels[i] == class).take(PER_CLASS);
    let by_class: Vec<Vec<usize>> = (0..CLASSES as i64).map(|class| of_class(class).collect()).collect();
    let chosen: Vec<usize> =
        (0..PER_CLASS).flat_map(|i| by_class.iter().filter_map(move |of| of.get(i))).copied().collect();
    Ok((real.select(&chosen), None))
}

/// Test accuracy of a student.
fn student(
    set: DistilledSet,
    hard: bool,
    test: &ImageSet,
    size: Size,
    seed: u64,
) -> std::result::Result<f64, Cause> {
    let replay = set.labels.replay().clone();
    let data = pictures::pictures(&set.images, &replay.augment, replay.seed)?;
    let data = if hard { data } else { data.with_soft_labels(set.labels)? };
    let test = pictures::pictures(test, &[], 0)?;
    let network = pictures::network(&zoo(set.images.shape[3]), 1, 1000 + seed)?;
    let settings = settings(size.epochs as f64, replay.batch, replay.seed);
    let mix = Mix(&MIX);
    fn run<O: Objective<Network, trimtab::floors::train::objectives::ImageBatch>>(
        objective: &O,
        data: &trimtab::training::Pictures,
        test: &trimtab::training::Pictures,
        settings: &Settings,
        mix: &Mix<'_>,
        network: Network,
    ) -> trimtab::floors::train::Result<f64> {
        let mut trainer = Trainer::new(data, objective, settings, Device::flex());
        trainer.heldout = Some(test);
        trainer.transform = Some(mix as &dyn BatchTransform<_>);
        let outcome = trainer.run(network, &mut Silent::default())?;
        Ok(outcome.last.and_then(|last| last.heldout?.accuracy).unwrap_or(0.0))
    }
    Ok(match hard {
        true => run(&Classify::new(logits), &data, &test, &settings, &mix, network)?,
        false => run(&Imitate { logits, temperature: TEMPERATURE }, &data, &test, &settings, &mix, network)?,
    })
}

/// What one seed gave: accuracy of each arm, and what the teacher lost early in the recoveries.
struct Found {
    accuracy: Vec<f64>,
    early: Vec<Option<f64>>,
    bytes: [usize; 2],
}

impl Cda {
    fn failed(&self, step: &'static str) -> impl Fn(Cause) -> Error {
        let number = self.paper();
        move |source| match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Experiment { number, name: "cda", step, source },
        }
    }

    /// A teacher, on a device without gradients, and its test accuracy.
    fn teacher(&self, train: &ImageSet, test: &ImageSet) -> std::result::Result<(Network, f64), Cause> {
        let [data, heldout] = [pictures::pictures(train, &[], 0)?, pictures::pictures(test, &[], 0)?];
        let settings = settings(TEACHING, 64, 0);
        let objective = Classify::new(logits);
        let mut trainer = Trainer::new(&data, &objective, &settings, Device::flex());
        trainer.heldout = Some(&heldout);
        let outcome = trainer.run(pictures::network(&zoo(train.shape[3]), 1, 0)?, &mut Silent::default())?;
        let accuracy = outcome.last.and_then(|last| last.heldout?.accuracy).unwrap_or(0.0);
        Ok((outcome.module.valid(), accuracy))
    }

    fn seed(
        &self,
        teacher: &Network,
        [train, test]: [&ImageSet; 2],
        size: Size,
        seed: u64,
        lab: &Lab<'_>,
    ) -> Result<Found> {
        let [_, _, h, w] = train.shape;
        let replay = Replay {
            seed,
            batch: BATCH,
            epochs: size.epochs,
            augment: vec![Augment::RandomResizedCrop(RandomResizedCrop::new([h, w]))],
            mix: Some(MIX),
            normalize: pictures::colours(1),
            top_k: None,
        };
        let (mut accuracy, mut early, mut bytes) = (Vec::new(), Vec::new(), [0; 2]);
        let mut recovered = None;
        for arm in Arm::ALL {
            lab.tell(&format!("seed {seed}: {}", arm.name()))?;
            let stop = || lab.stops();
            let (set, lost) = match (arm, &recovered) {
                (Arm::Hard, Some(set)) => (ImageSet::clone(set), None),
                _ => images(arm, teacher, train, size, seed, &stop).map_err(self.failed("recovery"))?,
            };
            if arm == Arm::Curriculum {
                recovered = Some(set.clone());
            }
            let labels = SoftLabels::of(teacher, &set, &replay, &Device::flex(), &mut |_, _| !stop());
            let labels = labels.map_err(|e| self.failed("labels")(Box::new(e)))?.ok_or(Error::Stopped)?;
            let set = DistilledSet { images: set, labels };
            bytes = set.bytes();
            let right = student(set, arm == Arm::Hard, test, size, seed);
            accuracy.push(right.map_err(self.failed("a student"))?);
            early.push(lost);
        }
        Ok(Found { accuracy, early, bytes })
    }
}

impl Experiment for Cda {
    fn paper(&self) -> u8 {
        17
    }

    fn rule(&self) -> &'static str {
        "A convnet of three blocks with batch norms on MNIST (8,000 images) is the teacher; 10 images a class, the same soft \
         labels and students for all arms, 3 seeds. Reproduced if students of images recovered with the curriculum are better than those \
         of crops from 8 % throughout by 1 point or more in the mean and no seeds overlap; partly if only the teacher's loss on the \
         whole images after a quarter of the steps is lower with the curriculum, on every seed. Baselines: whole images throughout, 10 real images a \
         class with the same labels (if they do as well, the method saves nothing here, and it is said), noise, hard labels."
    }

    fn check(&self) -> Result<Vec<Check>> {
        let area = |step| Curriculum::Cosine.least_area(step, 1000, 1.0, 0.08);
        let ends = [(0, 1.0), (500, 0.54), (1000, 0.08)];
        let deviation = ends.iter().map(|&(step, area_)| (area(step) - area_).abs()).fold(0.0, f64::max);
        // Labels of a new network for noise, made twice.
        let replays = || -> std::result::Result<f64, Cause> {
            let pixels: Vec<u8> = (0..6 * 64).map(|i| (i * 37 % 256) as u8).collect();
            let set = ImageSet::new([6, 1, 8, 8], (0..6).collect(), pixels)?;
            let network = pictures::network(
                &Zoo::Convnet { widths: vec![4], norm: BlockNorm::Batch, image: 8, classes: 10, channels: 1 },
                1,
                0,
            )?
            .valid();
            let replay = Replay {
                seed: 3,
                batch: 4,
                epochs: 5,
                augment: vec![Augment::RandomResizedCrop(RandomResizedCrop::new([8, 8]))],
                mix: Some(MIX),
                normalize: pictures::colours(1),
                top_k: None,
            };
            let labels = || SoftLabels::of(&network, &set, &replay, &Device::flex(), &mut |_, _| true);
            Ok(if labels()? == labels()? { 0.0 } else { 1.0 })
        };
        Ok(vec![
            Check { identity: "the curriculum goes from 1 over 0.54 to 0.08", deviation, tolerance: 1e-12 },
            Check {
                identity: "batches come again, and with them the teacher's logits, bit by bit",
                deviation: replays().map_err(self.failed("labels"))?,
                tolerance: 0.0,
            },
        ])
    }

    fn measure(&self, scale: Scale, lab: &Lab<'_>) -> Result<Measurement> {
        let [train, test] = lab.images("vision/mnist10k.safetensors", self.failed("data"))?;
        let size = match scale {
            Scale::Quick => Size { iterations: 40, epochs: 10, seeds: 1 },
            Scale::Full => Size { iterations: 250, epochs: 60, seeds: SEEDS },
        };
        lab.tell("the teacher")?;
        let (teacher, taught) = self.teacher(&train, &test).map_err(self.failed("the teacher"))?;
        let seeds: Vec<u64> = (0..size.seeds).collect();
        let found = side_by_side(&seeds, |&seed| self.seed(&teacher, [&train, &test], size, seed, lab))?;
        Ok(judge(&found, taught, size))
    }

    fn recorded(&self) -> Option<Measurement> {
        let figure = "CDA 91.95 (89.8 .. 94.3) %, crops from 8 % 88.55 (88.2 .. 88.8) %, real images 96.98 (96.5 .. 97.7) %; real images \
                      do as well or better: nothing is saved here";
        let scale = "MNIST 8,000, teacher 99.05 % (convnet, 29,000 parameters), 250 recovery steps, 60 passes of a student, 3 seeds";
        Some(Measurement::new(Verdict::Reproduced, figure, scale))
    }
}

/// The verdict by the rule.
fn judge(found: &[Found], taught: f64, size: Size) -> Measurement {
    let of = |arm: Arm| -> Vec<f64> {
        let at = Arm::ALL.iter().position(|&other| other == arm).unwrap_or_default();
        found.iter().map(|seed| seed.accuracy[at]).collect()
    };
    let early = |arm: Arm| -> Vec<f64> {
        let at = Arm::ALL.iter().position(|&other| other == arm).unwrap_or_default();
        found.iter().filter_map(|seed| seed.early[at]).collect()
    };
    let (with, without, real) = (of(Arm::Curriculum), of(Arm::Small), of(Arm::Real));
    let least = with.iter().copied().fold(f64::INFINITY, f64::min);
    let most = without.iter().copied().fold(0.0, f64::max);
    let better = mean(&with) - mean(&without) >= 0.01 && least > most;
    let outlined = early(Arm::Curriculum).iter().zip(early(Arm::Small)).all(|(a, b)| *a < b);
    let verdict = match (better, outlined) {
        (true, _) => Verdict::Reproduced,
        (false, true) => Verdict::Partly,
        (false, false) => Verdict::NotReproduced,
    };
    let [images, labels] = found.first().map_or([0; 2], |seed| seed.bytes);
    let row = |arm: Arm| {
        let lost = early(arm);
        let lost = if lost.is_empty() { String::new() } else { format!("{:.3}", mean(&lost)) };
        let labels = if arm == Arm::Hard { CLASSES * PER_CLASS } else { labels };
        let mut row = vec![arm.name().to_string(), percents(&of(arm)), lost];
        row.extend([images, labels].map(|bytes| format!("{:.1}", bytes as f64 / 1000.0)));
        row
    };
    let table = Table {
        title: format!(
            "Students of {} images, test accuracy in %, mean (least..most) over {} seeds",
            CLASSES * PER_CLASS,
            found.len()
        ),
        columns: ["", "accuracy", "early loss", "images, kB", "labels, kB"].map(String::from).into(),
        rows: Arm::ALL.into_iter().map(row).collect(),
    };
    let saves = if mean(&real) >= mean(&with) {
        "; real images do as well or better: nothing is saved here"
    } else {
        ""
    };
    let figure = format!(
        "CDA {} %, crops from 8 % {} %, real images {} %{saves}",
        percents(&with),
        percents(&without),
        percents(&real)
    );
    let scale = format!(
        "MNIST 8,000, teacher {:.2} % (convnet, 29,000 parameters), {} recovery steps, {} passes of a student, {} seeds",
        100.0 * taught,
        size.iterations,
        size.epochs,
        found.len()
    );
    Measurement { tables: vec![table], ..Measurement::new(verdict, figure, scale) }
}
