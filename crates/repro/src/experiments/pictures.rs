//! What experiments on images share: networks, runs side by side, a look at features, figures.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor};
use trimtab::floors::io::ImageSet;
use trimtab::floors::io::augment::{Augment, Normalize, Pipeline};
use trimtab::floors::models::{Model, Normalization, Zoo};
use trimtab::floors::nn::Network;
use trimtab::floors::train::objectives::{Classify, ViewBatch};
use trimtab::floors::train::{
    self, Dataset, Item, OptimizerConfig, Phase, Schedule, Settings, Silent, StepRecord, Trainer,
};
use trimtab::training::{Pictures, logits};

use crate::error::Result;

/// Why a step stopped, before it is known which experiment it belongs to.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Mean and standard deviation of each colour, about that of photographs and of digits.
pub fn colours(channels: usize) -> Normalize {
    match channels {
        1 => Normalize { mean: vec![0.13], std: vec![0.31] },
        _ => Normalize { mean: vec![0.49, 0.48, 0.45], std: vec![0.25, 0.24, 0.26] },
    }
}

/// A new network of the zoo, to be trained.
pub fn network(zoo: &Zoo, channels: usize, seed: u64) -> std::result::Result<Network, Cause> {
    let Normalize { mean, std } = colours(channels);
    let checkpoint = zoo.checkpoint(seed, &Normalization { mean, std })?;
    let device = Device::flex();
    Ok(Model::from_checkpoint(checkpoint, None, device.clone())?.trainable(&device.autodiff())?)
}

/// Images with ten classes as a data set.
pub fn pictures(images: &ImageSet, augment: &[Augment], seed: u64) -> std::result::Result<Pictures, Cause> {
    let normalize = Some(colours(images.shape[1]));
    Ok(Pictures::new(images.clone(), Pipeline { augment: augment.to_vec(), normalize }, seed, 10)?)
}

/// The first so many images, or all.
pub fn first(images: &ImageSet, count: usize) -> ImageSet {
    images.select(&(0..count.min(images.len())).collect::<Vec<_>>())
}

/// Settings of training for so many passes, one phase each, at rates that warm up over a twentieth and fall to 0 by half a cosine.
pub fn passes(seed: u64, batch: usize, epochs: &[f64], rate: f64, optimizer: &OptimizerConfig) -> Settings {
    let phase = |&epochs: &f64| {
        let schedule = Schedule::Cosine { warmup: 0.05, floor: 0.0 };
        Phase { steps: None, epochs: Some(epochs), schedule, ..Phase::new(1, rate, optimizer.clone()) }
    };
    Settings { seed, ..Settings::new(batch, epochs.iter().map(phase).collect()) }
}

/// A new network of the zoo, trained to classify; and its accuracy on the second set.
pub fn classifier(
    zoo: &Zoo,
    channels: usize,
    [train, test]: [&Pictures; 2],
    settings: &Settings,
) -> std::result::Result<(Network, f64), Cause> {
    let objective = Classify::new(logits);
    let mut trainer = Trainer::new(train, &objective, settings, Device::flex());
    trainer.heldout = Some(test);
    let outcome = trainer.run(network(zoo, channels, settings.seed)?, &mut Silent::default())?;
    Ok((outcome.module, accuracy(&outcome.last)))
}

/// The accuracy at the end of a run.
pub fn accuracy(last: &Option<StepRecord>) -> f64 {
    last.as_ref().and_then(|last| last.heldout?.accuracy).unwrap_or(0.0)
}

/// All images, `[n, C, H, W]`, as a data set gives them in its first pass.
pub fn all(data: &Pictures) -> train::Result<Tensor<4>> {
    let items: Vec<Item> = (0..data.len()).map(|index| Item { index, epoch: 0 }).collect();
    Ok(data.batch(&items, &Device::flex())?.images)
}

/// Two views of every image: the same images, changed by two streams.
pub struct Views([Pictures; 2]);

impl Views {
    /// Views that are drawn by these augmentations.
    pub fn new(images: &ImageSet, augment: &[Augment], seed: u64) -> std::result::Result<Self, Cause> {
        Ok(Self([pictures(images, augment, 2 * seed)?, pictures(images, augment, 2 * seed + 1)?]))
    }
}

impl Dataset for Views {
    type Batch = ViewBatch;

    fn len(&self) -> usize {
        self.0[0].len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> train::Result<ViewBatch> {
        let [first, second] = &self.0;
        Ok(ViewBatch {
            first: first.batch(items, device)?.images,
            second: second.batch(items, device)?.images,
        })
    }
}

/// Runs side by side, one on each core, and gives what they found in the order of `cells`. What a run does in parallel stays
/// on its own core: small runs lose more by handing work over than they gain.
pub fn side_by_side<T: Sync, R: Send>(cells: &[T], run: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some((i, cell)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, cells.get(i)?)))
        {
            let one = run(cell);
            // Nobody needs to begin another run after a failure.
            if one.is_err() {
                next.store(cells.len(), Ordering::Relaxed);
            }
            found.push((i, one));
        }
        found
    };
    let alone = || match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(work),
        Err(_) => work(),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(cells.len());
    let mut found: Vec<(usize, Result<R>)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(alone)).collect();
        let end = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        running.into_iter().flat_map(end).collect()
    });
    found.sort_by_key(|(i, _)| *i);
    found.into_iter().map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn runs_keep_their_order_and_stop_at_a_failure() {
        let cells: Vec<usize> = (0..20).collect();
        assert_eq!(side_by_side(&cells, |&i| Ok(i * i)).unwrap()[19], 361);
        let refuse = |&i: &usize| if i == 3 { Err(Error::Stopped) } else { Ok(i) };
        assert!(matches!(side_by_side(&cells, refuse), Err(Error::Stopped)));
    }
}
