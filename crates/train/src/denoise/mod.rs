//! UL2 denoisers: token sequences become `(inputs, targets)` to fill in, to continue, or both.
//!
//! Source: Tay et al., "UL2: Unifying Language Learning Paradigms", arXiv:2205.05131 (mixture and mode tokens); Raffel et
//! al., arXiv:1910.10683 (span corruption, sentinels, choice of length); Tay et al., arXiv:2210.11399 (UL2R).
//!
//! | file | holds |
//! |---|---|
//! | [`span`] | random compositions, and which spans of a sequence are masked |
//! | [`length`] | how many tokens a denoiser takes so that inputs and targets keep their limits |
//! | [`mixture`] | the denoisers of UL2 and UL2R, their weights, and the draw of one example |
//! | [`render`] | inputs and targets with sentinels, and the way back |
//! | [`data`] | a data set of the loop for a decoder, its batches, and the loss on their targets |
//! | [`pairs`] | the same for an encoder and a decoder |
//! | [`rows`] | rows for two stacks or for one, masks, packing |
//! | [`vocabulary`] | the ids of sentinels, mode tokens, end and padding |
//!
//! An example depends on `(seed, epoch, item)` and its tokens alone: neither the number of workers nor what was drawn
//! before changes it. Denoisers differ in length, so steps differ in tokens: count rates and budgets in *target* tokens.

pub mod data;
pub mod error;
pub mod length;
pub mod mixture;
pub mod pairs;
pub mod render;
pub mod rows;
pub mod span;
pub mod vocabulary;

pub use data::{Denoise, DenoisedBatch, DenoisedText};
pub use error::{Error, Result};
pub use length::Limits;
pub use mixture::{Denoiser, Mixture, MixtureConfig, Mode, Pivot, TooManySpans};
pub use pairs::{DenoisePairs, DenoisedPairs, PairBatch};
pub use render::Example;
pub use rows::{Sequence, TwoStacks};
pub use span::{SpanCorrupt, composition};
pub use vocabulary::Vocabulary;

#[cfg(test)]
mod tests;
