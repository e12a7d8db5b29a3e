//! Sentence embeddings: pooling, cosine, and Spearman correlation with human scores.

use burn::tensor::{Bool, Tensor};
use serde::Serialize;
use trimtab_math::stats::spearman;
use trimtab_nn::{Ctx, Flow, Network, host};

use crate::error::{Error, Result};

/// Correlation of an encoder's cosines with human scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairScore {
    /// Spearman's rank correlation times 100.
    pub spearman: f64,
    /// Pairs.
    pub pairs: usize,
}

/// Mean of the hidden states `[B, T, C]` over the tokens that `mask` keeps: `[B, C]`.
pub fn pool(x: Tensor<3>, mask: Option<Tensor<2, Bool>>) -> Tensor<2> {
    let [b, t, c] = x.dims();
    let Some(mask) = mask else { return x.mean_dim(1).reshape([b, c]) };
    let keep = mask.float();
    let count = keep.clone().sum_dim(1);
    (x * keep.reshape([b, t, 1])).sum_dim(1).reshape([b, c]) / count
}

/// Cosine of two vectors, f64 inside.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Embeddings of one batch of token ids.
pub fn embed(network: &Network, input: Flow, ctx: &mut Ctx<'_>) -> Result<Vec<Vec<f32>>> {
    match network.forward_range(0, network.features(), input, ctx)? {
        Flow::Hidden(x) => {
            let pooled = pool(x, ctx.mask.clone());
            let [_, width] = pooled.dims();
            let values: Vec<f32> = host(pooled);
            Ok(values.chunks(width).map(<[f32]>::to_vec).collect())
        }
        other => Err(Error::Output { expected: "hidden states", found: other.kind() }),
    }
}

/// Spearman correlation between the cosines of embedded pairs and their scores.
pub fn correlate(left: &[Vec<f32>], right: &[Vec<f32>], scores: &[f64]) -> Result<PairScore> {
    if scores.is_empty() {
        return Err(Error::Empty("the list of pairs"));
    }
    let cosines: Vec<f64> = left.iter().zip(right).map(|(a, b)| cosine(a, b)).collect();
    match cosines.iter().position(|c| !c.is_finite()) {
        Some(row) => Err(Error::NotFinite { row }),
        None => Ok(PairScore { spearman: 100.0 * spearman(&cosines, scores)?, pairs: scores.len() }),
    }
}
