//! Batches that are made ahead.

use std::sync::Mutex;
use std::thread::ThreadId;

use super::*;
use crate::ahead::{Course, Forecast};
use crate::position::Position;

/// Points that note who made each batch, and of which items.
struct Noted {
    points: Points,
    seen: Mutex<Vec<(ThreadId, Vec<Item>)>>,
    /// A batch with this number is made of other items.
    swapped: Option<usize>,
}

impl Dataset for Noted {
    type Batch = (Tensor<2>, Tensor<2>);

    fn len(&self) -> usize {
        self.points.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<Self::Batch> {
        let mut seen = self.seen.lock().unwrap();
        let is_swapped = self.swapped == Some(seen.len());
        seen.push((std::thread::current().id(), items.to_vec()));
        drop(seen);
        let other = |item: &Item| Item { index: (item.index + 1) % self.len(), ..*item };
        let others: Vec<Item> = items.iter().map(other).collect();
        self.points.batch(if is_swapped { &others } else { items }, device)
    }
}

/// Adds what is drawn for a batch to it.
struct Shift;

impl BatchTransform<(Tensor<2>, Tensor<2>)> for Shift {
    fn apply(
        &self,
        (x, y): (Tensor<2>, Tensor<2>),
        stream: &mut Stream,
        progress: f64,
    ) -> Result<(Tensor<2>, Tensor<2>)> {
        Ok((x + 0.1 * stream.normal() * (1.0 - progress), y))
    }
}

struct Ran {
    weights: Vec<f32>,
    items: Vec<Vec<Item>>,
    /// Batches that the loop did not make itself.
    ahead: usize,
}

/// A run with so many batches ahead, in a pool of two threads wherever the test runs.
fn run_ahead(settings: &Settings, prefetch: usize, swapped: Option<usize>) -> Ran {
    let data = Noted { points: Points::noisy(17), seen: Mutex::default(), swapped };
    let settings = Settings { prefetch, ..settings.clone() };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let (weights, here) = pool.install(|| {
        let mut trainer = Trainer::new(&data, &SquaredError, &settings, Device::flex());
        trainer.transform = Some(&Shift);
        trainer.heldout = settings.patience.map(|_| &data);
        let outcome = trainer.run(line([0.1, 0.2], 0.0), &mut Silent::default()).unwrap();
        (numbers(&outcome.module), std::thread::current().id())
    });
    let seen = data.seen.into_inner().unwrap();
    let ahead = seen.iter().filter(|(thread, _)| *thread != here).count();
    Ran { weights, items: seen.into_iter().map(|(_, items)| items).collect(), ahead }
}

#[test]
fn batches_made_ahead_are_those_of_the_loop() {
    let ramp = BatchSize::Ramp(Ramp { initial: 2, max: 9, growth: 1.2 });
    let samples = Phase { steps: None, samples: Some(50), ..phase(1, 0.05, sgd(0.9)) };
    let growing =
        Settings { batch: ramp, micro_batch: Some(3), ..settings(1, vec![samples.clone(), samples]) };
    for (name, settings) in [("one pass", long(1)), ("passes", long(2)), ("growing", growing)] {
        let plain = run_ahead(&settings, 0, None);
        assert_eq!(plain.ahead, 0, "{name}");
        for prefetch in [1, 2, 5] {
            let ran = run_ahead(&settings, prefetch, None);
            assert_eq!(ran.weights, plain.weights, "{name}, {prefetch}");
            assert_eq!(ran.items, plain.items, "{name}, {prefetch}: each batch once, in order");
            assert_eq!(ran.ahead, ran.items.len(), "{name}, {prefetch}");
        }
        // One wrong batch of many would be seen.
        assert_ne!(run_ahead(&settings, 1, Some(3)).weights, plain.weights, "{name}");
    }
}

#[test]
fn what_was_foreseen_wrongly_is_dropped() {
    // Impatience ends the first phase early: the next one comes sooner than foreseen, with other steps.
    let phases = vec![phase(40, 1e-9, sgd(0.0)), phase(3, 0.05, sgd(0.0))];
    let settings = Settings { heldout_every: 1, patience: Some(1), ..settings(4, phases) };
    let plain = run_ahead(&settings, 0, None);
    let ran = run_ahead(&settings, 3, None);
    assert_eq!(ran.weights, plain.weights);
    assert!(ran.ahead > 0);
}

#[test]
fn a_batch_size_that_is_found_is_not_foreseen() {
    let batch = BatchSize::Adaptive(Adaptive { interval: 3, ..adaptive() });
    let certain: Vec<Option<usize>> = (0..7).map(|step| batch.certain(step, 4, 4)).collect();
    let asks: Vec<bool> = (0..7).map(|step| batch.asks(step, 4)).collect();
    assert!(asks.contains(&true) && asks.contains(&false), "{asks:?}");
    assert!(certain.iter().zip(&asks).all(|(certain, asks)| certain.is_none() == *asks));
    // Every pass of every step is foreseen once, also where the size of the next step is found in between.
    let samples = Phase { steps: None, samples: Some(200), ..phase(1, 0.05, sgd(0.0)) };
    let settings = Settings { batch, micro_batch: Some(3), ..settings(1, vec![samples]) };
    let mut course = Course::new(&settings, 17, [0, 1]);
    let mut forecast = Forecast::new(course.clone());
    let mut position = Position::new(4);
    let (mut expected, mut foreseen) = (Vec::new(), Vec::new());
    for &asks in &asks {
        forecast.meet(&position);
        foreseen.extend(forecast.by_ref().take(5));
        let size = position.batch;
        expected.extend(course.passes(&position, size));
        position.advance(size, if asks { size + 2 } else { size });
    }
    foreseen.extend(forecast);
    assert!(foreseen.len() >= expected.len());
    assert_eq!(foreseen[..expected.len()], expected);
    assert_eq!(
        BatchSize::Fixed(5).certain(3, 2, 5),
        Some(5),
        "a short step at the end of a phase is the only one"
    );
}

#[test]
fn errors_come_from_the_pass_they_belong_to() {
    struct Broken;
    impl Dataset for Broken {
        type Batch = (Tensor<2>, Tensor<2>);
        fn len(&self) -> usize {
            8
        }
        fn batch(&self, _: &[Item], _: &Device) -> Result<Self::Batch> {
            Err(Error::setting("data", "cannot be read"))
        }
    }
    let settings = settings(2, vec![phase(4, 0.1, sgd(0.0))]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let error = pool.install(|| {
        let trainer = Trainer::new(&Broken, &SquaredError, &settings, Device::flex());
        trainer.run(line([0.0, 0.0], 0.0), &mut Silent::default()).unwrap_err().to_string()
    });
    assert!(error.contains("cannot be read"), "{error}");
}

#[test]
fn a_resumed_run_may_make_another_number_ahead() {
    let data = Points::noisy(17);
    let straight = trained(&data, &long(2));
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.safetensors");
    let none = Settings { prefetch: 0, ..long(2) };
    run(&data, &none, Some(&state), &mut StopAfter::new(7)).unwrap();
    let many = Settings { prefetch: 3, ..long(2) };
    let whole = run(&data, &many, Some(&state), &mut Silent::default()).unwrap();
    assert_eq!(numbers(&whole.module), straight);
}
