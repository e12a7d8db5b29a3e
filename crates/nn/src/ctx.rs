//! What belongs to one call of a network, and to nothing else.

use burn::tensor::{Bool, Int, Tensor};

use crate::attention::Operand;
use crate::binary_attention::BinaryAttention;
use crate::layer::Table;
use crate::samples::Capture;
use crate::site::Site;
use crate::tap::TapSet;

/// The context of one forward pass: masks, taps, cache, and the owner of a tied weight.
#[derive(Default)]
pub struct Ctx<'a> {
    /// `[B, T]`, `true` keeps a token; `None` keeps all.
    pub mask: Option<Tensor<2, Bool>>,
    /// `[B, T, S]`, `true` where a query may see a key: prefixes that are read in both directions, texts that share a row.
    /// Takes the place of a model's own causality; windows and [`Ctx::mask`] hide what they hide. For networks of one input.
    pub seen: Option<Tensor<3, Bool>>,
    /// `[B, T]`, segment of each token, for models with token types.
    pub token_types: Option<Tensor<2, Int>>,
    /// Keys and values of earlier positions.
    pub cache: Option<&'a mut KvCache>,
    /// Observers.
    pub taps: Option<&'a mut TapSet>,
    /// Only the taps matter: once all have seen their rows, zeros may stand for what is left to compute.
    pub taps_only: bool,
    /// Weight of each row of the batch for the taps, `[B * T]` (or one per image).
    pub row_weights: Option<&'a [f64]>,
    /// The owner of the tied weight; a tied head borrows it.
    pub tied: Option<Site>,
    /// The table of positions by distance that the blocks of one part of a network share.
    pub relative: Option<Table>,
    /// What belongs to the second input of a network of two parts.
    pub second: SecondInput<'a>,
    /// Where batch norms leave the statistics of the batch, by which they then normalize, as in training; without it they
    /// normalize by those that they have stored.
    pub batch_statistics: Option<&'a mut Vec<BatchStatistics>>,
    /// Where batch norms leave what they saw beside what they have stored, so that images can be made to agree with it.
    pub norm_inputs: Option<&'a mut Vec<NormInput>>,
    /// Attention of one bit in place of the softmax: set by the network that was trained for it.
    pub binary_attention: Option<BinaryAttention>,
    /// Where the attention of a block leaves how much each token gets, `[B * T]`, summed over heads and queries.
    pub attention_mass: Option<&'a mut Vec<f64>>,
    /// Where the attention of a block leaves the numbers of its operands, before they are rounded.
    pub attention_operands: Option<&'a mut Vec<(Operand, Vec<f32>)>>,
    /// Where layers leave what the gradients of single samples follow from.
    pub capture: Option<&'a mut Capture>,
}

/// What a batch norm saw of one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchStatistics {
    /// Module path of the norm in the checkpoint.
    pub norm: String,
    /// Mean of each channel, `[C]`.
    pub mean: Vec<f32>,
    /// Unbiased variance of each channel, `[C]`.
    pub variance: Vec<f32>,
}

/// What a batch norm is given beside the statistics that it has stored; the former has gradients.
#[derive(Clone, Debug)]
pub struct NormInput {
    /// Module path of the norm in the checkpoint.
    pub norm: String,
    /// What it is given, `[B, C, H, W]`.
    pub input: Tensor<4>,
    /// The mean that the norm has stored, `[C]`.
    pub running_mean: Tensor<1>,
    /// The variance that the norm has stored, `[C]`.
    pub running_variance: Tensor<1>,
}

impl NormInput {
    /// Mean and biased variance of each channel over batch and pixels, `[C]` each.
    pub fn of_batch(&self) -> [Tensor<1>; 2] {
        let [_, c, ..] = self.input.dims();
        let over = |x: Tensor<4>| {
            let [b, c, h, w] = x.dims();
            x.reshape([b, c, h * w]).mean_dim(2).mean_dim(0).reshape([1, c, 1, 1])
        };
        let mean = over(self.input.clone());
        let variance = over((self.input.clone() - mean.clone()).square());
        [mean, variance].map(|x| x.reshape([c]))
    }

    /// Mean and biased variance of each channel of each image over its pixels, `[B, C]` each.
    pub fn of_images(&self) -> [Tensor<2>; 2] {
        let [b, c, h, w] = self.input.dims();
        let rows = self.input.clone().reshape([b, c, h * w]);
        let mean = rows.clone().mean_dim(2);
        let variance = (rows - mean.clone()).square().mean_dim(2);
        [mean, variance].map(|x| x.reshape([b, c]))
    }
}

/// Mask and weights of the second input of a network of two parts.
#[derive(Clone, Default)]
pub struct SecondInput<'a> {
    /// `[B, T]`, `true` keeps a token; `None` keeps all.
    pub mask: Option<Tensor<2, Bool>>,
    /// Weight of each row for the taps.
    pub row_weights: Option<&'a [f64]>,
}

impl Ctx<'_> {
    /// Whether nobody needs what is still to be computed.
    pub fn is_done(&self) -> bool {
        self.taps_only && self.taps.as_ref().is_some_and(|taps| taps.are_satisfied())
    }

    /// Lets mask and weights of the two inputs change places: a stage sees those of its own input first.
    pub fn swap_inputs(&mut self) {
        std::mem::swap(&mut self.mask, &mut self.second.mask);
        std::mem::swap(&mut self.row_weights, &mut self.second.row_weights);
    }

    /// Position of the first token of this call.
    pub fn position(&self) -> usize {
        self.cache.as_ref().map_or(0, |cache| cache.len())
    }
}

/// Keys and values of the positions seen so far, one pair for each block.
#[derive(Default)]
pub struct KvCache {
    blocks: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    len: usize,
}

impl KvCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends keys and values (`[B, H_kv, T, d]`) of block `index` and returns all of them.
    pub fn append(&mut self, index: usize, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        if self.blocks.len() <= index {
            self.blocks.resize_with(index + 1, || None);
        }
        let (keys, values) = match self.blocks[index].take() {
            Some((k, v)) => (Tensor::cat(vec![k, keys], 2), Tensor::cat(vec![v, values], 2)),
            None => (keys, values),
        };
        self.blocks[index] = Some((keys.clone(), values.clone()));
        (keys, values)
    }

    /// Called once a whole pass is over: `n` positions were added.
    pub fn advance(&mut self, n: usize) {
        self.len += n;
    }
}
