//! What a loop trains on: numbered items that become batches.

use burn::tensor::{Device, Int, Tensor, TensorData};
use trimtab_math::random::Stream;

use crate::error::{Error, Result};
use crate::sampler::Item;

/// Numbered items and how some of them become a batch, on whatever thread: the next batch is made while a step computes.
pub trait Dataset: Sync {
    /// What the objective takes.
    type Batch: Send;

    /// Number of items.
    fn len(&self) -> usize;

    /// Whether there is no item.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// These items in this order. The same items give the same batch, whenever and on whatever thread.
    ///
    /// # Errors
    /// What reading or changing them meets.
    fn batch(&self, items: &[Item], device: &Device) -> Result<Self::Batch>;
}

/// A change of a whole batch: mixed images, corrupted text. It depends on what it is given alone.
pub trait BatchTransform<B>: Sync {
    /// The changed batch of the step that `stream` belongs to; `progress` is the share of the run before it.
    ///
    /// # Errors
    /// A batch that it cannot change.
    fn apply(&self, batch: B, stream: &mut Stream, progress: f64) -> Result<B>;
}

/// A token stream cut into windows that touch: the last target of a window is the first input of the next.
#[derive(Clone, Debug)]
pub struct TokenWindows {
    tokens: Vec<u32>,
    window: usize,
}

impl TokenWindows {
    /// Cuts `tokens` into windows of `window` inputs. Ids must lie below `vocab`; what is left over at the end is not
    /// used. `what` names the data in messages.
    ///
    /// # Errors
    /// [`Error::TooShort`] if not one window fits, [`Error::Vocabulary`], [`Error::Setting`] for a window of 0.
    pub fn new(tokens: Vec<u32>, window: usize, vocab: usize, what: &str) -> Result<Self> {
        if window == 0 {
            return Err(Error::setting("window", "must be at least 1"));
        }
        if tokens.len() <= window {
            return Err(Error::TooShort { what: what.into(), found: tokens.len(), needed: window + 1 });
        }
        match tokens.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => Err(Error::Vocabulary { what: what.into(), id, vocab }),
            None => Ok(Self { tokens, window }),
        }
    }

    /// Tokens of the stream.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    fn ids(&self, items: &[Item], shift: usize, device: &Device) -> Tensor<2, Int> {
        let window = |item: &Item| {
            let start = item.index * self.window + shift;
            self.tokens[start..start + self.window].iter().map(|&id| i64::from(id))
        };
        let ids: Vec<i64> = items.iter().flat_map(window).collect();
        Tensor::from_data(TensorData::new(ids, [items.len(), self.window]), device)
    }
}

/// Windows of a token stream and what follows each of their tokens.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// `[B, T]`.
    pub inputs: Tensor<2, Int>,
    /// `[B, T]`, the token after each input.
    pub targets: Tensor<2, Int>,
}

impl Dataset for TokenWindows {
    type Batch = TokenBatch;

    fn len(&self) -> usize {
        (self.tokens.len() - 1) / self.window
    }

    fn batch(&self, items: &[Item], device: &Device) -> Result<TokenBatch> {
        Ok(TokenBatch { inputs: self.ids(items, 0, device), targets: self.ids(items, 1, device) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ids: Tensor<2, Int>) -> Vec<i64> {
        ids.into_data().iter::<i64>().collect()
    }

    #[test]
    fn windows_touch_and_targets_are_shifted() {
        let data = TokenWindows::new((0..8).collect(), 3, 8, "text").unwrap();
        assert_eq!(data.len(), 2, "7 targets make two windows of 3");
        let items = [1, 0].map(|index| Item { index, epoch: 0 });
        let batch = data.batch(&items, &Device::flex()).unwrap();
        assert_eq!(rows(batch.inputs), [3, 4, 5, 0, 1, 2]);
        assert_eq!(rows(batch.targets), [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn bad_streams_are_refused() {
        let error =
            |tokens: Vec<u32>, window| TokenWindows::new(tokens, window, 4, "text").unwrap_err().to_string();
        assert!(error(vec![0, 1, 2], 3).contains("has 3 tokens"));
        assert!(error(vec![0, 4], 1).contains("token id 4"));
        assert!(error(vec![0, 1], 0).contains("window"));
        assert_eq!(TokenWindows::new(vec![0, 1, 2, 3], 3, 4, "text").unwrap().len(), 1);
    }
}
