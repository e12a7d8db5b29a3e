//! Corrupted text for a decoder: a data set of the loop, its batches, and the loss on their targets.
//!
//! A row is read as UL2 reads it with a decoder alone: in both directions over the inputs, causally over the targets, with a
//! loss on the targets only. Rows do not count places anew for each example; with positions by distance (rotary, relative,
//! ALiBi) that is the same.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};
use trimtab_nn::Ctx;

use super::mixture::Mixture;
use super::render::Example;
use super::rows::Sequence;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::objective::{Loss, Objective, Pass};
use crate::sampler::Item;

/// A token stream whose windows are corrupted anew in every epoch.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    tokens: Vec<u32>,
    mixture: Mixture,
    window: usize,
    seed: u64,
}

impl Windows {
    /// Cuts `tokens` into windows of as many as a denoiser of the mixture takes at most.
    pub fn new(tokens: Vec<u32>, mixture: Mixture, vocab: usize, seed: u64, what: &str) -> Result<Self> {
        let window = mixture.longest();
        if tokens.len() < window {
            return Err(Error::TooShort { what: what.into(), found: tokens.len(), needed: window });
        }
        let vocabulary = mixture.vocabulary();
        let modes = super::Mode::ALL.iter().filter_map(|&mode| vocabulary.mode(mode));
        let special = vocabulary
            .sentinels()
            .iter()
            .copied()
            .chain(modes)
            .chain([vocabulary.eos(), vocabulary.padding()]);
        match tokens.iter().copied().chain(special).find(|&id| id as usize >= vocab) {
            Some(id) => Err(Error::Vocabulary { what: what.into(), id, vocab }),
            None => Ok(Self { tokens, mixture, window, seed }),
        }
    }

    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    pub fn len(&self) -> usize {
        self.tokens.len() / self.window
    }

    pub fn example(&self, item: &Item) -> Result<Example> {
        let start = item.index * self.window;
        let text = &self.tokens[start..start + self.window];
        Ok(self.mixture.example(text, self.seed, item.epoch, item.index as u64)?)
    }
}

/// A token stream whose windows are corrupted anew in every epoch, as rows of one sequence.
#[derive(Clone, Debug)]
pub struct DenoisedText {
    windows: Windows,
    places: usize,
}

impl DenoisedText {
    /// Cuts `tokens` into windows of as many as a denoiser of the mixture takes at most; rows have `places`, at least the
    /// [`super::Limits::sequence`] of the mixture. Ids must lie below `vocab`; `what` names the data in messages.
    ///
    /// # Errors
    /// [`Error::TooShort`] if not one window fits, [`Error::Vocabulary`].
    pub fn new(
        tokens: Vec<u32>,
        mixture: Mixture,
        places: usize,
        vocab: usize,
        seed: u64,
        what: &str,
    ) -> Result<Self> {
        Ok(Self { windows: Windows::new(tokens, mixture, vocab, seed, what)?, places })
    }

    /// Tokens of the stream.
    pub fn tokens(&self) -> usize {
        self.windows.tokens()
    }

    /// The corrupted text of an item.
    ///
    /// # Errors
    /// Those of [`Mixture::example`].
    pub fn example(&self, item: &Item) -> Result<Example> {
        self.windows.example(item)
    }
}

impl Dataset for DenoisedText {
    type Batch = DenoisedBatch;

    fn len(&self) -> usize {
        self.windows.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<DenoisedBatch> {
        let examples = items.iter().map(|item| self.example(item)).collect::<Result<Vec<_>>>()?;
        let rows = Sequence::pack(&examples, self.places, self.windows.mixture().vocabulary())?;
        Ok(DenoisedBatch::new(&rows, device))
    }
}

/// Rows as a network takes them.
#[derive(Clone, Debug)]
pub struct DenoisedBatch {
    /// `[R, T]`.
    pub inputs: Tensor<2, Int>,
    /// Which places see which, `[R, T, T]`, queries first.
    pub seen: Tensor<3, Bool>,
    /// Places before a target, counted through all rows, `[N]`.
    pub places: Tensor<1, Int>,
    /// The targets, `[N]`.
    pub targets: Tensor<1, Int>,
}

impl DenoisedBatch {
    /// Rows of one length.
    pub fn new(rows: &[Sequence], device: &Device) -> Self {
        let (r, t) = (rows.len(), rows.first().map_or(0, |row| row.input_ids.len()));
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (number, row) in rows.iter().enumerate() {
            for (place, _) in row.loss_mask.iter().enumerate().filter(|(_, counts)| **counts) {
                places.push((number * t + place) as i64);
                targets.push(i64::from(row.input_ids[place + 1]));
            }
        }
        let n = targets.len();
        let ids: Vec<i64> =
            rows.iter().flat_map(|row| row.input_ids.iter().map(|&id| i64::from(id))).collect();
        let seen: Vec<bool> = rows.iter().flat_map(Sequence::mask).collect();
        Self {
            inputs: Tensor::from_data(TensorData::new(ids, [r, t]), device),
            seen: Tensor::from_data(TensorData::new(seen, [r, t, t]), device),
            places: Tensor::from_data(TensorData::new(places, [n]), device),
            targets: Tensor::from_data(TensorData::new(targets, [n]), device),
        }
    }
}

/// Cross-entropy of the targets; the field maps a model, token ids `[B, T]` and a context to logits `[B, T, V]`.
#[derive(Clone, Copy, Debug)]
pub struct Denoise<F>(pub F);

impl<M, F> Objective<M, DenoisedBatch> for Denoise<F>
where
    F: Fn(&M, Tensor<2, Int>, &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<3>>,
{
    fn loss(&self, model: &M, batch: &DenoisedBatch, pass: &mut Pass) -> Result<Loss> {
        let mut ctx = Ctx { seen: Some(batch.seen.clone()), ..pass.ctx() };
        let logits = (self.0)(model, batch.inputs.clone(), &mut ctx)?;
        Ok(at_places(logits, &batch.places, &batch.targets))
    }
}

/// Mean cross-entropy of `targets` (`[N]`) by the logits (`[R, T, V]`) at `places`, which count through all rows.
pub(super) fn at_places(logits: Tensor<3>, places: &Tensor<1, Int>, targets: &Tensor<1, Int>) -> Loss {
    let ([r, t, v], [n]) = (logits.dims(), targets.dims());
    let logits = logits.reshape([r * t, v]).select(0, places.clone());
    let chosen = activation::log_softmax(logits, 1).gather(1, targets.clone().reshape([n, 1]));
    Loss::new(chosen.mean().neg(), n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoise::{Limits, MixtureConfig, Vocabulary};

    fn data() -> DenoisedText {
        let vocabulary = Vocabulary::numbered(63, 20, Some([41, 42, 43]), 40, 40).unwrap();
        let limits = Limits { sequence: Some(48), ..Limits::default() };
        let mixture = Mixture::new(MixtureConfig { limits, ..MixtureConfig::ul2() }, vocabulary).unwrap();
        let tokens = (0..500).map(|i| (i * 7) % 39).collect();
        DenoisedText::new(tokens, mixture, 48, 64, 3, "text").unwrap()
    }

    #[test]
    fn the_loss_is_that_of_the_targets_of_every_example() {
        let data = data();
        let items: Vec<Item> = (0..8).map(|index| Item { index, epoch: 1 }).collect();
        let batch = data.batch(&items, &Device::flex()).unwrap();
        let [r, t] = batch.inputs.dims();
        // A model whose logit of token v at place p of a row is a fixed function of both.
        let logit = |place: usize, v: usize| ((place * 31 + v * 17) % 23) as f32 / 7.0;
        let all = move |_: &(), ids: Tensor<2, Int>, _: &mut Ctx<'_>| {
            let [r, t] = ids.dims();
            let values = (0..r * t * 64).map(|i| logit(i / 64 % t, i % 64)).collect::<Vec<f32>>();
            Ok::<_, trimtab_nn::Error>(Tensor::<3>::from_data(
                TensorData::new(values, [r, t, 64]),
                &ids.device(),
            ))
        };
        let found = Denoise(all).loss(&(), &batch, &mut Pass::default()).unwrap();
        let (mut sum, mut count) = (0.0f64, 0);
        for item in &items {
            // Every row holds one example here, from its first place on.
            let Example { inputs, targets, .. } = data.example(item).unwrap();
            for (i, &target) in targets.iter().enumerate() {
                let place = inputs.len() + i - 1;
                let norm: f64 = (0..64).map(|v| f64::from(logit(place, v)).exp()).sum();
                sum -= f64::from(logit(place, target as usize)) - norm.ln();
                count += 1;
            }
        }
        assert_eq!((found.terms, r, t), (count, 8, 48), "a loss on every target and on nothing else");
        let found = f64::from(found.mean.into_scalar::<f32>());
        assert!((found - sum / f64::from(count as u32)).abs() < 1e-5, "{found}");
    }

    #[test]
    fn epochs_differ_and_what_does_not_fit_is_refused() {
        let data = data();
        let of = |epoch| data.example(&Item { index: 2, epoch }).unwrap();
        assert_eq!(of(1), of(1));
        assert!((2..9).any(|epoch| of(epoch) != of(1)));
        let refused = |tokens: Vec<u32>, vocab| {
            let made = DenoisedText::new(tokens, data.windows.mixture().clone(), 48, vocab, 0, "text");
            made.unwrap_err().to_string()
        };
        assert!(refused(vec![1; 5], 64).contains("5 tokens"));
        assert!(refused(vec![1; 500], 63).contains("token id 63"));
    }
}
