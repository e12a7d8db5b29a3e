//! Corrupted text for an encoder and a decoder: a data set of the loop, its batches, and the loss on their targets.
//!
//! The encoder reads the inputs, the decoder the targets one place later, after the padding token (T5). Every example is a
//! row of its own, as networks of two inputs know no segments; rows are as long as the longest of their batch. Padding of the
//! inputs is hidden from encoder and decoder. That of the targets stands behind all of them: a causal decoder sees none of
//! it, and it has no loss.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use trimtab_nn::Ctx;

use super::data::{Windows, at_places};
use super::mixture::Mixture;
use super::render::Example;
use super::rows::{IGNORED, TwoStacks};
use super::vocabulary::Vocabulary;
use crate::data::Dataset;
use crate::error::Result;
use crate::objective::{Loss, Objective, Pass};
use crate::sampler::Item;

/// A token stream whose windows are corrupted anew in every epoch, inputs and targets apart.
#[derive(Clone, Debug)]
pub struct DenoisedPairs(Windows);

impl DenoisedPairs {
    /// Cuts `tokens` into windows of as many as a denoiser of the mixture takes at most. Ids must lie below `vocab`; `what`
    /// names the data in messages.
    ///
    /// # Errors
    /// [`crate::Error::TooShort`] if not one window fits, [`crate::Error::Vocabulary`].
    pub fn new(tokens: Vec<u32>, mixture: Mixture, vocab: usize, seed: u64, what: &str) -> Result<Self> {
        Ok(Self(Windows::new(tokens, mixture, vocab, seed, what)?))
    }

    /// Tokens of the stream.
    pub fn tokens(&self) -> usize {
        self.0.tokens()
    }

    /// The corrupted text of an item.
    ///
    /// # Errors
    /// Those of [`Mixture::example`].
    pub fn example(&self, item: &Item) -> Result<Example> {
        self.0.example(item)
    }
}

impl Dataset for DenoisedPairs {
    type Batch = PairBatch;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<PairBatch> {
        let examples = items.iter().map(|item| self.example(item)).collect::<Result<Vec<_>>>()?;
        PairBatch::of(&examples, [0, 0], self.0.mixture().vocabulary(), device)
    }
}

/// Rows as a network of two parts takes them.
#[derive(Clone, Debug)]
pub struct PairBatch {
    /// What the encoder reads, `[B, S]`.
    pub inputs: Tensor<2, Int>,
    /// `true` where the encoder has a token, `[B, S]`.
    pub keep: Tensor<2, Bool>,
    /// What the decoder reads, `[B, T]`.
    pub decoder_inputs: Tensor<2, Int>,
    /// Places of the decoder with a target, counted through all rows, `[N]`.
    pub places: Tensor<1, Int>,
    /// The targets, `[N]`.
    pub targets: Tensor<1, Int>,
}

impl PairBatch {
    /// A row for each example, with at least so many places for inputs and for targets.
    ///
    /// # Errors
    /// None of examples that a mixture makes.
    pub fn of(
        examples: &[Example],
        [inputs, targets]: [usize; 2],
        vocabulary: &Vocabulary,
        device: &Device,
    ) -> Result<Self> {
        let s = examples.iter().map(|example| example.inputs.len()).fold(inputs, usize::max);
        let t = examples.iter().map(|example| example.targets.len()).fold(targets, usize::max);
        let mut rows = Vec::with_capacity(examples.len());
        for example in examples {
            rows.extend(TwoStacks::pack(std::slice::from_ref(example), s, t, vocabulary)?);
        }
        Ok(Self::new(&rows, device))
    }

    /// Rows of one length, each of one example.
    pub fn new(rows: &[TwoStacks], device: &Device) -> Self {
        let s = rows.first().map_or(0, |row| row.input_ids.len());
        let t = rows.first().map_or(0, |row| row.labels.len());
        let ids = |of: fn(&TwoStacks) -> &[u32], places: usize| {
            let ids: Vec<i64> = rows.iter().flat_map(|row| of(row).iter().map(|&id| i64::from(id))).collect();
            Tensor::<2, Int>::from_data(TensorData::new(ids, [rows.len(), places]), device)
        };
        let keep: Vec<bool> =
            rows.iter().flat_map(|row| row.attention_mask.iter().map(|&m| m == 1)).collect();
        let labels = rows.iter().flat_map(|row| &row.labels).enumerate();
        let (places, targets): (Vec<i64>, Vec<i64>) = labels
            .filter(|(_, label)| **label != IGNORED)
            .map(|(place, &label)| (place as i64, label))
            .unzip();
        let n = targets.len();
        Self {
            inputs: ids(|row| &row.input_ids, s),
            keep: Tensor::from_data(TensorData::new(keep, [rows.len(), s]), device),
            decoder_inputs: ids(|row| &row.decoder_input_ids, t),
            places: Tensor::from_data(TensorData::new(places, [n]), device),
            targets: Tensor::from_data(TensorData::new(targets, [n]), device),
        }
    }
}

/// Cross-entropy of the targets; the field maps a model, the ids of encoder and decoder (`[B, S]`, `[B, T]`) and a context to
/// the logits of the decoder, `[B, T, V]`.
#[derive(Clone, Copy, Debug)]
pub struct DenoisePairs<F>(pub F);

impl<M, F> Objective<M, PairBatch> for DenoisePairs<F>
where
    F: Fn(&M, [Tensor<2, Int>; 2], &mut Ctx<'_>) -> trimtab_nn::Result<Tensor<3>>,
{
    fn loss(&self, model: &M, batch: &PairBatch, pass: &mut Pass) -> Result<Loss> {
        let mut ctx = Ctx { mask: Some(batch.keep.clone()), ..pass.ctx() };
        let ids = [batch.inputs.clone(), batch.decoder_inputs.clone()];
        let logits = (self.0)(model, ids, &mut ctx)?;
        Ok(at_places(logits, &batch.places, &batch.targets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoise::{Limits, MixtureConfig};

    fn data() -> DenoisedPairs {
        let vocabulary = Vocabulary::numbered(63, 20, Some([41, 42, 43]), 40, 39).unwrap();
        let limits = Limits { inputs: 40, targets: 24, sequence: None };
        let mixture = Mixture::new(MixtureConfig { limits, ..MixtureConfig::ul2() }, vocabulary).unwrap();
        DenoisedPairs::new((0..900).map(|i| (i * 7) % 39).collect(), mixture, 64, 3, "text").unwrap()
    }

    fn rows(ids: &Tensor<2, Int>) -> Vec<Vec<i64>> {
        let ids = ids.clone();
        let [_, width] = ids.dims();
        ids.into_data().iter::<i64>().collect::<Vec<_>>().chunks(width).map(<[i64]>::to_vec).collect()
    }

    #[test]
    fn inputs_go_to_the_encoder_and_targets_one_later_to_the_decoder() {
        let data = data();
        let items: Vec<Item> = (0..data.len()).map(|index| Item { index, epoch: 1 }).collect();
        let batch = data.batch(&items, &Device::flex()).unwrap();
        let ([b, s], [_, t]) = (batch.inputs.dims(), batch.decoder_inputs.dims());
        assert!(b == data.len() && s <= 40 && t <= 24, "{b} {s} {t}");
        let keep: Vec<bool> = batch.keep.clone().into_data().iter::<bool>().collect();
        let (inputs, decoder) = (rows(&batch.inputs), rows(&batch.decoder_inputs));
        let (mut targets, mut places, mut short) = (Vec::new(), Vec::new(), 0);
        for (number, item) in items.iter().enumerate() {
            let example = data.example(item).unwrap();
            let ids = |ids: &[u32]| ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>();
            let (read, written) = (ids(&example.inputs), ids(&example.targets));
            assert_eq!(inputs[number][..read.len()], read);
            assert!(inputs[number][read.len()..].iter().all(|&id| id == 39));
            let seen = &keep[number * s..(number + 1) * s];
            assert_eq!(seen.iter().filter(|&&seen| seen).count(), read.len());
            assert!(seen[..read.len()].iter().all(|&seen| seen), "padding is last");
            // Shifted right, behind the padding token.
            assert_eq!(decoder[number][0], 39);
            assert_eq!(decoder[number][1..written.len()], written[..written.len() - 1]);
            places.extend((0..written.len()).map(|place| (number * t + place) as i64));
            targets.extend(written);
            short += usize::from(read.len() < s);
        }
        assert!(short > 0, "there is padding");
        assert_eq!(batch.targets.into_data().iter::<i64>().collect::<Vec<_>>(), targets);
        assert_eq!(batch.places.into_data().iter::<i64>().collect::<Vec<_>>(), places);
    }

    #[test]
    fn the_longest_row_of_a_batch_decides() {
        let (data, device) = (data(), Device::flex());
        let width = |index: usize| {
            let batch = data.batch(&[Item { index, epoch: 0 }], &device).unwrap();
            (batch.inputs.dims()[1], batch.decoder_inputs.dims()[1])
        };
        let alone: Vec<_> = (0..data.len()).map(width).collect();
        let items: Vec<Item> = (0..data.len()).map(|index| Item { index, epoch: 0 }).collect();
        let batch = data.batch(&items, &device).unwrap();
        assert_eq!(Some(batch.inputs.dims()[1]), alone.iter().map(|of| of.0).max());
        assert_eq!(Some(batch.decoder_inputs.dims()[1]), alone.iter().map(|of| of.1).max());
        assert!(alone.iter().any(|of| *of != alone[0]), "denoisers differ in length");
    }
}
