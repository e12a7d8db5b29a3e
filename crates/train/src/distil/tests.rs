//! Labels and batches belong together; the gradient of a recovery is that of its loss.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use trimtab_io::ImageSet;
use trimtab_io::augment::{Augment, Mixer, Normalize, RandomResizedCrop};
use trimtab_nn::{Axis, BatchNorm, Ctx, Flow, Layer, LayerMut, Network, Stage};

use super::recover::objective;
use super::{Curriculum, DistilledSet, Recovery, Replay, SoftLabels};
use crate::objectives::{ImageBatch, Targets};
use crate::{BatchTransform, Loss, Mix, Objective, Pass, Phase, Pictures, Result, Settings, Trainer};

/// A teacher with a batch norm; the mean and the first pixel of each channel are its logits.
#[derive(Clone)]
pub(super) struct Look(BatchNorm);

impl Look {
    pub(super) fn network(device: &Device) -> Network {
        let vector = |values: [f32; 2]| Tensor::<1>::from_data(TensorData::from(values), device);
        let parts = [vector([1.0, 0.5]), vector([0.1, -0.2]), vector([0.3, 0.5]), vector([0.8, 0.3])];
        let norm = BatchNorm::new("bn", 1e-5, Axis::new("colours", 2), parts);
        Network::new(vec![Box::new(Self(norm))], None, 0)
    }
}

impl Stage for Look {
    fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> trimtab_nn::Result<Flow> {
        let x = self.0.forward(flow.image("look")?, ctx);
        let [b, c, h, w] = x.dims();
        let rows = x.reshape([b, c, h * w]);
        let first = rows.clone().narrow(2, 0, 1).reshape([b, c]);
        Ok(Flow::Vector(Tensor::cat(vec![rows.mean_dim(2).reshape([b, c]), first.tanh()], 1)))
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        vec![Layer::BatchNorm(&self.0)]
    }

    fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
        vec![LayerMut::BatchNorm(&mut self.0)]
    }

    fn boxed_clone(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}

fn colours() -> Normalize {
    Normalize { mean: vec![0.5, 0.25], std: vec![0.25, 0.5] }
}

fn images() -> ImageSet {
    let pixels: Vec<u8> = (0..5 * 2 * 6 * 6).map(|i| (i * 89 % 251) as u8).collect();
    ImageSet::new([5, 2, 6, 6], vec![0, 1, 2, 3, 0], pixels).unwrap()
}

fn replay() -> Replay {
    Replay {
        seed: 11,
        batch: 4,
        epochs: 3,
        augment: vec![Augment::RandomResizedCrop(RandomResizedCrop::new([6, 6]))],
        mix: Some(Mixer::CutMix { alpha: 1.0 }),
        normalize: colours(),
        top_k: None,
    }
}

/// Asks the teacher again, and loses what its answers differ from the labels.
struct Again<'a>(&'a Network);

impl Objective<Network, ImageBatch> for Again<'_> {
    fn loss(&self, model: &Network, batch: &ImageBatch, pass: &mut Pass) -> Result<Loss> {
        let Targets::Teacher(stored) = &batch.targets else { panic!("labels of a teacher") };
        let images = Tensor::from_data(batch.images.clone().into_data(), &Device::flex());
        let found = self.0.forward(Flow::Image(images), &mut Ctx::default())?.vector("again")?;
        let found = Tensor::<2>::from_data(found.into_data(), &stored.device());
        let apart = (found - (**stored).clone()).abs().max();
        // The network takes part, so that there is something to train.
        let own = model.forward(Flow::Image(batch.images.clone()), &mut pass.ctx())?.vector("own")?;
        Ok(Loss::new(apart + own.mean() * 0.0, 1))
    }
}

/// The largest difference between stored and repeated answers over a whole training.
fn apart(settings: &Settings) -> Result<f64> {
    let teacher = Look::network(&Device::flex());
    let labels = SoftLabels::of(&teacher, &images(), &replay(), &Device::flex(), &mut |_, _| true)?.unwrap();
    let Replay { seed, augment, mix, normalize, .. } = replay();
    let pipeline = trimtab_io::augment::Pipeline { augment, normalize: Some(normalize) };
    let data = Pictures::new(images(), pipeline, seed, 4)?.with_soft_labels(labels)?;
    let mix = mix.unwrap();
    let mix = Mix(&mix);
    let again = Again(&teacher);
    let mut trainer = Trainer::new(&data, &again, settings, Device::flex());
    trainer.transform = Some(&mix as &dyn BatchTransform<ImageBatch>);
    let mut largest = 0.0f64;
    struct Largest<'a>(&'a mut f64);
    impl<M> crate::Observer<M> for Largest<'_> {
        fn step(&mut self, record: &crate::StepRecord, _: &M) {
            *self.0 = self.0.max(record.loss);
        }
    }
    trainer.run(Look::network(&Device::flex().autodiff()), &mut Largest(&mut largest))?;
    Ok(largest)
}

fn settings(seed: u64, epochs: f64) -> Settings {
    let phase = Phase { steps: None, epochs: Some(epochs), ..Phase::new(1, 1e-3, Default::default()) };
    Settings { seed, ..Settings::new(4, vec![phase]) }
}

#[test]
fn a_training_sees_the_batches_that_its_labels_were_made_for() {
    let rounding = apart(&settings(11, 3.0)).unwrap();
    // Logits of up to four, in eleven bits.
    assert!(rounding < 4.0 / 2048.0, "{rounding}");
    assert!(apart(&settings(12, 3.0)).unwrap() > 0.01, "the control: another seed");
    // Phases of five images cut steps of four where the labels have none: other images are mixed.
    assert!(apart(&Settings { rounds: 2, ..settings(11, 1.0) }).unwrap() > 0.01, "the control: other steps");
    let error = apart(&settings(11, 4.0)).unwrap_err().to_string();
    assert!(error.contains("beyond the 3"), "{error}");
}

#[test]
fn a_distilled_set_comes_back_from_its_file() {
    let teacher = Look::network(&Device::flex());
    let labels = SoftLabels::of(&teacher, &images(), &replay(), &Device::flex(), &mut |_, _| true);
    let set = DistilledSet { images: images(), labels: labels.unwrap().unwrap() };
    assert_eq!(set.bytes(), [5 * 72, 2 * 3 * 5 * 4]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.safetensors");
    set.write(&path).unwrap();
    let read = DistilledSet::read(&path).unwrap();
    assert_eq!(read.labels, set.labels);
    assert_eq!(read.images.pixels(0..5), set.images.pixels(0..5));
    let stopped = SoftLabels::of(&teacher, &images(), &replay(), &Device::flex(), &mut |_, _| false);
    assert!(stopped.unwrap().is_none());
    // A file of images without labels of a teacher.
    let bare = dir.path().join("bare.safetensors");
    let tensors = ["train.images", "train.labels"]
        .map(|name| (name.to_string(), trimtab_io::Checkpoint::open(&path).unwrap().tensor(name).unwrap()));
    let bytes = trimtab_io::to_safetensors(&tensors, &Default::default()).unwrap();
    trimtab_io::write_atomic(&bare, &bytes).unwrap();
    assert!(DistilledSet::read(&bare).unwrap_err().to_string().contains("trimtab distil"));
}

#[test]
fn a_set_with_the_largest_logits_is_smaller_and_says_nearly_the_same() {
    let teacher = Look::network(&Device::flex());
    let set = |top_k: Option<usize>| -> Result<DistilledSet> {
        let replay = Replay { top_k, ..replay() };
        let labels = SoftLabels::of(&teacher, &images(), &replay, &Device::flex(), &mut |_, _| true)?;
        Ok(DistilledSet { images: images(), labels: labels.unwrap() })
    };
    let (whole, few) = (set(None).unwrap(), set(Some(2)).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let [long, short] = ["whole", "few"].map(|name| dir.path().join(name));
    whole.write(&long).unwrap();
    few.write(&short).unwrap();
    assert_eq!(DistilledSet::read(&short).unwrap().labels, few.labels);
    // Two logits and the shared one in two bytes each, two classes in one: 8 instead of 4 * 2 + 0 of a whole row.
    assert_eq!((whole.bytes()[1], few.bytes()[1]), (15 * 8, 15 * 8));
    assert_eq!(set(Some(1)).unwrap().bytes()[1], 15 * 5);
    let file = trimtab_io::Checkpoint::open(&short).unwrap();
    let stored = |name: &str| file.tensor(name).unwrap().bytes.len();
    assert_eq!(
        stored("train.logits") + stored("train.classes"),
        few.bytes()[1],
        "what is counted is in the file"
    );
    // The two largest have their probabilities, the other two the mean of theirs.
    let items: Vec<crate::Item> = (0..5).map(|index| crate::Item { index, epoch: 2 }).collect();
    let rows = |set: &DistilledSet| -> Vec<f32> {
        let rows = set.labels.rows(&items, &Device::flex()).unwrap();
        burn::tensor::activation::softmax(rows, 1).into_data().try_into_vec().unwrap()
    };
    let mut changed = 0.0f32;
    for (before, after) in rows(&whole).chunks(4).zip(rows(&few).chunks(4)) {
        let mut order = [0, 1, 2, 3];
        order.sort_by(|&a, &b| before[b].total_cmp(&before[a]));
        let mean = (before[order[2]] + before[order[3]]) / 2.0;
        for (at, expected) in [before[order[0]], before[order[1]], mean, mean].into_iter().enumerate() {
            // A shared logit in eleven bits.
            assert!((after[order[at]] - expected).abs() < 1e-3, "{before:?} {after:?}");
        }
        changed = changed.max((before[order[3]] - after[order[3]]).abs());
    }
    assert!(changed > 1e-2, "control: something was cut");
    let error = set(Some(4)).unwrap_err().to_string();
    assert!(error.contains("top_k") && error.contains("between 1 and 3"), "{error}");
    // Classes that are none, and files without them.
    let bytes = std::fs::read(&short).unwrap();
    let text = b"\"trimtab.classes\":\"4\"";
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    let mut damaged = bytes.clone();
    damaged[at + text.len() - 2] = b'2';
    std::fs::write(&short, damaged).unwrap();
    assert!(DistilledSet::read(&short).is_err());
}

#[test]
fn the_gradient_of_a_recovery_is_the_slope_of_its_loss() {
    let how = Recovery { norm_weight: 0.3, shift: 1, ..Recovery::default() };
    let device = Device::flex().autodiff();
    let teacher = Look::network(&Device::flex()).fork(&device).no_grad();
    let values: Vec<f32> = (0..4 * 2 * 25).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    let loss = |values: &[f32]| {
        let (loss, slope) = objective(&how, &teacher, &[0, 1, 2, 3], &colours(), values, [4, 2, 5, 5], 300);
        (f64::from(loss), slope)
    };
    let (_, slope) = loss(&values);
    let mut largest = 0.0f64;
    for at in [0, 7, 33, 60, 111, 150, 199] {
        let moved = |by: f32| {
            let mut values = values.clone();
            values[at] += by;
            loss(&values).0
        };
        let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        largest = largest.max((numeric - f64::from(slope[at])).abs());
    }
    let size = slope.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
    assert!(largest < 1e-3 && size > 1e-2, "{largest} of {size}");
}

#[test]
fn recovered_images_agree_with_the_statistics_that_a_teacher_remembers() {
    let teacher = Look::network(&Device::flex());
    let how =
        Recovery { images_per_class: 4, iterations: 60, norm_weight: 1.0, block: 16, ..Recovery::default() };
    // Whole images throughout: losses of views of other sizes are not to be compared.
    let whole = Recovery { least_area: 1.0, ..how.clone() };
    let mut losses = Vec::new();
    let mut watch = |step: &super::RecoveryStep| {
        losses.push(step.record.loss);
        true
    };
    let made = whole.run(&teacher, 4, [6, 6], &colours(), &Device::flex(), &mut watch).unwrap().unwrap();
    assert_eq!((made.shape, losses.len()), ([16, 2, 6, 6], 60));
    assert_eq!(made.labels[..5], [0, 1, 2, 3, 0]);
    assert!(losses[59] < 0.7 * losses[0], "{} {}", losses[0], losses[59]);
    let made = how.run(&teacher, 4, [6, 6], &colours(), &Device::flex(), &mut |_| true).unwrap().unwrap();
    let again = how.run(&teacher, 4, [6, 6], &colours(), &Device::flex(), &mut |_| true).unwrap().unwrap();
    assert_eq!(again.pixels(0..16), made.pixels(0..16));
    let other = Recovery { curriculum: Curriculum::Step, ..how.clone() };
    let other = other.run(&teacher, 4, [6, 6], &colours(), &Device::flex(), &mut |_| true).unwrap().unwrap();
    assert_ne!(other.pixels(0..16), made.pixels(0..16), "the curriculum is seen");
    assert!(how.run(&teacher, 4, [6, 6], &colours(), &Device::flex(), &mut |_| false).unwrap().is_none());
    let plain = Network::new(Vec::new(), None, 0);
    assert!(how.run(&plain, 4, [6, 6], &colours(), &Device::flex(), &mut |_| true).is_err());
    let wrong = Recovery { least_area: 0.0, ..how };
    let error = wrong.run(&teacher, 4, [6, 6], &colours(), &Device::flex(), &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("least_area"), "{error}");
}
