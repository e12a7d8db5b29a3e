//! Attention on the CPU: blocks of queries against the keys they can see, so that a causal pass does half the work.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use trimtab_math::vector;

use crate::attention::{Scoring, Sight};

/// Queries that one task computes, for all heads.
const BLOCK: usize = 64;

/// Sizes of one call.
#[derive(Clone, Copy)]
pub(crate) struct AttentionDims {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Queries; the last ones of the positions.
    pub queries: usize,
    /// Keys.
    pub keys: usize,
    /// Channels of a head.
    pub width: usize,
}

/// What is done to a score between the product and the softmax.
#[derive(Clone, Copy)]
pub(crate) struct ScoreShape<'a> {
    pub scoring: &'a Scoring,
    /// Added, `[H, T, S]`.
    pub bias: Option<&'a [f32]>,
}

impl ScoreShape<'_> {
    /// Whether a score is a product times a factor and nothing else: the softmax then scales on its way.
    fn is_plain(&self) -> bool {
        self.scoring.soft_cap.is_none() && self.scoring.slopes.is_none() && self.bias.is_none()
    }

    /// Products of the query at `position` (row `query` of the call) with the keys from `from` on, for head `h`.
    fn apply(
        &self,
        row: &mut [f32],
        scale: f32,
        (h, query, position, from): (usize, usize, usize, usize),
        dims: AttentionDims,
    ) {
        match self.scoring.soft_cap {
            Some(cap) => row.iter_mut().for_each(|v| *v = cap * (*v * scale / cap).tanh()),
            None => row.iter_mut().for_each(|v| *v *= scale),
        }
        if let Some(slopes) = &self.scoring.slopes {
            for (j, v) in row.iter_mut().enumerate() {
                *v += slopes[h] * ((from + j) as f32 - position as f32);
            }
        }
        if let Some(bias) = self.bias {
            let start = (h * dims.queries + query) * dims.keys + from;
            row.iter_mut().zip(&bias[start..]).for_each(|(v, b)| *v += b);
        }
    }
}

/// What a block of queries gives the keys that it sees: their batch item, the first of them, and for each the sum of its column
/// over heads and queries.
type Columns = (usize, usize, Vec<f64>);

/// `softmax(scores) V` for `q [B, H, T, d]`, `k` and `v` `[B, H_kv, S, d]`, `keep [B, S]`, `seen [B, T, S]`; returns
/// `[B, T, H * d]`.
///
/// Adds to `mass` (`[B, S]`) how much attention each key gets, summed over heads and queries; queries that are masked as keys are
/// padding and give none. The sum has the same order at any number of threads.
pub(crate) fn attend(
    dims: AttentionDims,
    [q, k, v]: [&[f32]; 3],
    sight: Sight,
    keep: Option<&[bool]>,
    seen: Option<&[bool]>,
    shape: ScoreShape<'_>,
    mass: Option<&mut [f64]>,
) -> Vec<f32> {
    let AttentionDims { batch, heads, kv_heads, queries, keys, width } = dims;
    let mut out = vec![0.0f32; batch * queries * heads * width];
    if out.is_empty() {
        return out;
    }
    let weigh = mass.is_some();
    let quantizer = shape.scoring.quantizer.as_ref().and_then(|quantizer| quantizer.weights.as_ref());
    let sequence = queries * heads * width;
    let block = BLOCK * heads * width;
    let tasks = out.chunks_mut(sequence).enumerate().flat_map(|(b, sequence)| {
        sequence.chunks_mut(block).enumerate().map(move |(i, part)| (b, i * BLOCK, part))
    });
    let run = |scores: &mut Vec<f32>, (b, first, out): (usize, usize, &mut [f32])| -> Columns {
        let n = out.len() / (heads * width);
        // Position of the first query, and the keys that the last one sees.
        let position = (keys + first).saturating_sub(queries);
        let last = if sight.causal { position + n } else { keys };
        let from = sight.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let span = last - from;
        scores.resize(n * span, 0.0);
        let mut columns = vec![0.0f64; if weigh { span } else { 0 }];
        for h in 0..heads {
            let kv = (b * kv_heads + h / (heads / kv_heads)) * keys + from;
            let q = rows(q, (b * heads + h) * queries + first, n, width);
            let (k, v) = (rows(k, kv, span, width), rows(v, kv, span, width));
            let s = MatMut::from_row_major_slice_mut(scores.as_mut_slice(), n, span);
            matmul(s, Accum::Replace, q, k.transpose(), 1.0, Par::Seq);
            let scale = shape.scoring.scale.unwrap_or(1.0 / (width as f32).sqrt());
            for (i, row) in scores.chunks_exact_mut(span).enumerate() {
                let mut factor = scale;
                if !shape.is_plain() {
                    shape.apply(row, scale, (h, first + i, position + i, from), dims);
                    factor = 1.0;
                }
                let query = b * queries + first + i;
                let shown = [keep.map(|keep| (keep, b)), seen.map(|seen| (seen, query))];
                let shown = shown.map(|mask| mask.map(|(mask, row)| &mask[row * keys..(row + 1) * keys]));
                hide(row, position + i, from, sight, shown);
                vector::softmax(row, factor);
                // A query that is padding itself has nothing to say.
                if weigh && keep.is_none_or(|keep| keep[b * keys + position + i]) {
                    columns.iter_mut().zip(&*row).for_each(|(sum, &p)| *sum += f64::from(p));
                }
                if let Some(quantizer) = quantizer {
                    quantizer.round_row(row);
                }
            }
            let s = MatRef::from_row_major_slice(scores.as_slice(), n, span);
            // (The row-major constructor with a stride swaps its strides in faer 0.24.)
            let out = &mut out[h * width..];
            let out = MatMut::from_column_major_slice_with_stride_mut(out, width, n, heads * width);
            matmul(out.transpose_mut(), Accum::Replace, s, v, 1.0, Par::Seq);
        }
        (b, from, columns)
    };
    let parts: Vec<Columns> = if batch * queries * keys * heads * width < 1 << 16 {
        let mut scores = Vec::new();
        tasks.map(|task| run(&mut scores, task)).collect()
    } else {
        tasks
            .collect::<Vec<_>>()
            .into_par_iter()
            .map_init(Vec::new, |scores, task| run(scores, task))
            .collect()
    };
    if let Some(mass) = mass {
        for (b, from, columns) in parts {
            mass[b * keys + from..].iter_mut().zip(columns).for_each(|(sum, part)| *sum += part);
        }
    }
    out
}

/// Takes the keys out of a row that the query at `position` may not see; the row starts at key `from`.
fn hide(row: &mut [f32], position: usize, from: usize, sight: Sight, shown: [Option<&[bool]>; 2]) {
    if sight.causal {
        let seen = (position + 1 - from).min(row.len());
        row[seen..].fill(f32::NEG_INFINITY);
    }
    if let Some(window) = sight.window {
        let beyond = (position + 1).saturating_sub(window).saturating_sub(from).min(row.len());
        row[..beyond].fill(f32::NEG_INFINITY);
    }
    for shown in shown.into_iter().flatten() {
        for (score, _) in row.iter_mut().zip(&shown[from..]).filter(|(_, shown)| !**shown) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Rows `first .. first + n` of a row-major matrix.
fn rows(values: &[f32], first: usize, n: usize, width: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(&values[first * width..(first + n) * width], n, width)
}
