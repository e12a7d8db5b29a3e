//! Scaled dot-product attention with grouped heads, masks, windows and a cache.

use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Tensor, TensorData};

use crate::binary_attention::{BinaryAttention, attend_binary};
use crate::kernels::{
    self,
    attention::{AttentionDims, ScoreShape},
};
use crate::weight::{host, on_host};

mod quantizer;

pub use self::quantizer::{AttentionQuantizer, Operand, SoftmaxQuantizer};

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Whether later positions are hidden.
    pub causal: bool,
    /// Positions seen, the query's own included; `None` sees all.
    pub window: Option<usize>,
}

/// How the products of queries and keys become scores. The default is `Q K^T / sqrt(d)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scoring {
    /// Factor of the products, positive; `None` is `1 / sqrt(d)`.
    pub scale: Option<f32>,
    /// Scores are bent to `cap * tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// ALiBi (Press et al., arXiv:2108.12409): one slope a head, times how far the key stands after the query.
    pub slopes: Option<Arc<[f32]>>,
    /// What rounds queries, keys, values and the weights of values to few bits.
    pub quantizer: Option<Arc<AttentionQuantizer>>,
}

impl Scoring {
    /// Slopes of ALiBi: a geometric row for a power of two, and every second slope of the next one for the rest.
    pub fn alibi_slopes(heads: usize) -> Vec<f32> {
        let row = |n: usize| (1..=n).map(move |i| (-8.0 * i as f64 / n as f64).exp2() as f32);
        let whole = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
        row(whole.max(1)).chain(row(2 * whole.max(1)).step_by(2)).take(heads).collect()
    }
}

/// `softmax(scores) V`, the scores of `Q` and `K` as `scoring` says, plus `bias` (`[H, T, S]`).
///
/// `q`: `[B, H, T, d]`; `k`, `v`: `[B, H_kv, S, d]`, the last `T` of the `S` positions being those of the queries;
/// `keep`: `[B, S]`, `true` where a key may be seen; `seen`: `[B, T, S]`, `true` where a query may see a key, in place of
/// [`Sight::causal`]. A query that sees nothing gets zeros. Returns `[B, T, H * d]`.
pub fn attend(
    [q, k, v]: [Tensor<4>; 3],
    sight: Sight,
    keep: Option<Tensor<2, Bool>>,
    seen: Option<Tensor<3, Bool>>,
    scoring: &Scoring,
    bias: Option<Tensor<3>>,
) -> Tensor<3> {
    attend_and_weigh([q, k, v], sight, keep, seen, scoring, bias, None)
}

/// [`attend`], and how much attention each key gets: the sum of its column over heads and queries is added to `mass`, `[B * S]`,
/// which grows to that length. Padding gives and gets none. One block of queries of one head is in memory at a time.
pub fn attend_and_weigh(
    [q, k, v]: [Tensor<4>; 3],
    sight: Sight,
    keep: Option<Tensor<2, Bool>>,
    seen: Option<Tensor<3, Bool>>,
    scoring: &Scoring,
    bias: Option<Tensor<3>>,
    mass: Option<&mut Vec<f64>>,
) -> Tensor<3> {
    let [b, heads, t, d] = q.dims();
    let [_, kv_heads, s, _] = k.dims();
    let device = q.device();
    let sight = Sight { causal: sight.causal && seen.is_none(), ..sight };
    let quantizer = scoring.quantizer.clone();
    let [q, k, v] = match quantizer.as_ref().and_then(|quantizer| quantizer.operands.as_ref()) {
        Some([of_q, of_k, of_v]) => [of_q.heads(q), of_k.heads(k), of_v.heads(v)],
        None => [q, k, v],
    };
    // Only the kernel of the house passes by every column; elsewhere its input is brought to the host.
    if on_host(&device) || mass.is_some() {
        let dims = AttentionDims { batch: b, heads, kv_heads, queries: t, keys: s, width: d };
        let keep: Option<Vec<bool>> = keep.map(|keep| keep.into_data().iter::<bool>().collect());
        let seen: Option<Vec<bool>> = seen.map(|seen| seen.into_data().iter::<bool>().collect());
        let (q, k, v) = (host(q), host(k), host(v));
        let bias = bias.map(host);
        let shape = ScoreShape { scoring, bias: bias.as_deref() };
        let mass = mass.map(|mass| {
            mass.resize(b * s, 0.0);
            mass.as_mut_slice()
        });
        let (keep, seen) = (keep.as_deref(), seen.as_deref());
        let out = kernels::attention::attend(dims, [&q, &k, &v], sight, keep, seen, shape, mass);
        return Tensor::from_data(TensorData::new(out, [b, t, heads * d]), &device);
    }
    if let Some(of_weights) = quantizer.as_ref().and_then(|quantizer| quantizer.weights.as_ref()) {
        let weights = weights([q, k], sight, keep, seen, scoring, bias);
        let mixed = of_weights.round(weights).matmul(repeat_heads(v, heads));
        return mixed.swap_dims(1, 2).reshape([b, t, heads * d]);
    }
    let hidden = hidden(&q, t, s, sight, [keep.map(|keep| keep.reshape([b, 1, s])), seen]);
    let options = AttentionModuleOptions {
        scale: scoring.scale.map(f64::from),
        softcap: scoring.soft_cap.map(f64::from),
        is_causal: sight.causal && t > 1,
    };
    let bias = added(&q, s, scoring, bias);
    let mixed = attention(q, repeat_heads(k, heads), repeat_heads(v, heads), hidden, bias, options);
    mixed.swap_dims(1, 2).reshape([b, t, heads * d])
}

/// The weights of the values, `[B, H, T, S]`, for the arguments of [`attend`]: all in memory at once.
pub fn weights(
    [q, k]: [Tensor<4>; 2],
    sight: Sight,
    keep: Option<Tensor<2, Bool>>,
    seen: Option<Tensor<3, Bool>>,
    scoring: &Scoring,
    bias: Option<Tensor<3>>,
) -> Tensor<4> {
    let ([b, heads, t, d], s) = (q.dims(), k.dims()[2]);
    let causal = sight.causal && seen.is_none() && t > 1;
    // What is causal sees as far back as the window, or to the beginning; a mask of its own for both.
    let later = causal.then(|| {
        let shown = (0..t).flat_map(|i| (0..s).map(move |j| j <= s - t + i)).collect::<Vec<_>>();
        Tensor::<3, Bool>::from_data(TensorData::new(shown, [1, t, s]), &q.device()).expand([b, t, s])
    });
    let seen = match (seen, later) {
        (Some(seen), Some(later)) => Some(seen.bool_and(later)),
        (one, other) => one.or(other),
    };
    let hidden = hidden(&q, t, s, sight, [keep.map(|keep| keep.reshape([b, 1, s])), seen]);
    let scale = scoring.scale.unwrap_or(1.0 / (d as f32).sqrt());
    let added = added(&q, s, scoring, bias);
    let mut scores = q.matmul(repeat_heads(k, heads).swap_dims(2, 3)) * scale;
    if let Some(cap) = scoring.soft_cap {
        scores = (scores / cap).tanh() * cap;
    }
    if let Some(added) = added {
        scores = scores + added;
    }
    let Some(hidden) = hidden else { return softmax(scores, 3) };
    let hidden = hidden.expand([b, heads, t, s]);
    let weights = softmax(scores.mask_fill(hidden.clone(), f32::MIN / 2.0), 3);
    // A query that sees nothing gets nothing.
    weights.mask_fill(hidden, 0.0)
}

/// [`attend`] with queries, keys, values and probabilities of one bit.
pub fn attend_in_bits(
    [q, k, v]: [Tensor<4>; 3],
    sight: Sight,
    keep: Option<Tensor<2, Bool>>,
    seen: Option<Tensor<3, Bool>>,
    scoring: &Scoring,
    binary: BinaryAttention,
) -> Tensor<3> {
    let [b, heads, t, _] = q.dims();
    let [_, _, s, _] = k.dims();
    let later = (sight.causal && seen.is_none() && t > 1).then(|| {
        let hide = (0..t).flat_map(|i| (0..s).map(move |j| j > s - t + i)).collect::<Vec<_>>();
        Tensor::<4, Bool>::from_data(TensorData::new(hide, [1, 1, t, s]), &q.device())
    });
    let hidden = hidden(&q, t, s, sight, [keep.map(|keep| keep.reshape([b, 1, s])), seen]);
    let hidden = match (hidden, later) {
        (Some(hidden), Some(later)) => Some(hidden.bool_or(later.expand([b, 1, t, s]))),
        (one, other) => one.or(other),
    };
    attend_binary([q, repeat_heads(k, heads), repeat_heads(v, heads)], binary, scoring, hidden)
}

/// Repeats every key-value head for the queries that share it.
fn repeat_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [b, kv_heads, s, d] = x.dims();
    if kv_heads == heads {
        return x;
    }
    let repeats = heads / kv_heads;
    x.reshape([b, kv_heads, 1, s, d]).expand([b, kv_heads, repeats, s, d]).reshape([b, heads, s, d])
}

/// What is added to the scores, `[B, H, T, S]`.
fn added(q: &Tensor<4>, s: usize, scoring: &Scoring, bias: Option<Tensor<3>>) -> Option<Tensor<4>> {
    let [b, heads, t, _] = q.dims();
    let alibi = scoring.slopes.as_ref().map(|slopes| {
        let distance = |i: usize, j: usize| j as f32 - (s - t + i) as f32;
        let all = slopes
            .iter()
            .flat_map(|&slope| (0..t).flat_map(move |i| (0..s).map(move |j| slope * distance(i, j))));
        Tensor::<3>::from_data(TensorData::new(all.collect::<Vec<f32>>(), [heads, t, s]), &q.device())
    });
    let sum = match (alibi, bias) {
        (Some(alibi), Some(bias)) => Some(alibi + bias),
        (one, other) => one.or(other),
    };
    sum.map(|sum| sum.reshape([1, heads, t, s]).expand([b, heads, t, s]))
}

/// What is hidden besides the causal part, `[B or 1, 1, T, S]`; `shown` are `[B, T or 1, S]`.
fn hidden(
    q: &Tensor<4>,
    t: usize,
    s: usize,
    sight: Sight,
    shown: [Option<Tensor<3, Bool>>; 2],
) -> Option<Tensor<4, Bool>> {
    let b = q.dims()[0];
    let beyond = sight.window.filter(|&window| window < s).map(|window| {
        let hide = (0..t).flat_map(|i| (0..s).map(move |j| j + window <= s - t + i)).collect::<Vec<_>>();
        Tensor::<4, Bool>::from_data(TensorData::new(hide, [1, 1, t, s]), &q.device())
    });
    let shown = shown.into_iter().flatten().map(|shown| {
        let queries = shown.dims()[1];
        shown.bool_not().reshape([b, 1, queries, s]).expand([b, 1, t, s])
    });
    beyond.into_iter().chain(shown).reduce(|one, other| other.bool_or(one.expand([b, 1, t, s])))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_kernel_equals_the_framework() {
        let value = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) / 300.0;
        let build = |shape: [usize; 4], salt: usize, device: &Device| {
            let n = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|i| value(i + salt)).collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), device)
        };
        let bent = Scoring {
            scale: Some(0.3),
            soft_cap: Some(1.5),
            slopes: Some(Scoring::alibi_slopes(4).into()),
            quantizer: None,
        };
        for ((t, s), scoring) in [(1, 1), (1, 9), (70, 70), (5, 12)]
            .into_iter()
            .flat_map(|sizes| [(sizes, Scoring::default()), (sizes, bent.clone())])
        {
            for sight in [(true, None), (false, None), (true, Some(4)), (true, Some(100))] {
                let sight = Sight { causal: sight.0, window: sight.1 };
                for (masked, chosen) in [(false, false), (true, false), (false, true), (true, true)] {
                    let run = |device: &Device| {
                        let keep = (0..2 * s).map(|i| i % 5 != 2 || !masked).collect::<Vec<_>>();
                        let keep = Tensor::<2, Bool>::from_data(TensorData::new(keep, [2, s]), device);
                        let seen = (0..2 * t * s).map(|i| i % 3 != 1 && (i / s) % 7 != 6).collect::<Vec<_>>();
                        let seen = Tensor::<3, Bool>::from_data(TensorData::new(seen, [2, t, s]), device);
                        let kv = |salt| build([2, 2, s, 6], salt, device);
                        let bias = scoring.scale.map(|_| {
                            let bias = build([1, 4, t, s], 5, device);
                            bias.reshape([4, t, s])
                        });
                        let qkv = [build([2, 4, t, 6], 3, device), kv(11), kv(29)];
                        host(attend(qkv, sight, Some(keep), chosen.then_some(seen), &scoring, bias))
                    };
                    let (kernel, framework) = (run(&Device::flex()), run(&Device::flex().autodiff()));
                    let far = kernel.iter().zip(&framework).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(
                        far < 1e-5,
                        "{t} of {s}, {sight:?}, masked {masked}, chosen {chosen}, {scoring:?}: {far}"
                    );
                }
            }
        }
    }

    #[test]
    fn columns_add_up_to_the_attention_that_keys_get() {
        // Equal scores: query i gives each of the keys that it sees one over their number, in each of two heads.
        for (t, causal, window, masked) in [
            (5, true, None, None),
            (5, false, None, Some(4)),
            (70, true, Some(9), None),
            (130, true, None, Some(3)),
        ] {
            let device = Device::flex();
            let flat = |heads: usize| Tensor::<4>::zeros([2, heads, t, 4], &device);
            let keep: Vec<bool> = (0..2 * t).map(|at| Some(at % t) != masked).collect();
            let mask = masked.map(|_| Tensor::from_data(TensorData::new(keep.clone(), [2, t]), &device));
            let mut mass = Vec::new();
            let sight = Sight { causal, window };
            let qkv = [flat(2), flat(1), flat(1)];
            attend_and_weigh(qkv, sight, mask, None, &Scoring::default(), None, Some(&mut mass));
            for b in 0..2 {
                let sees = |i: usize, j: usize| {
                    keep[b * t + j] && (j <= i || !causal) && window.is_none_or(|window| j + window > i)
                };
                for j in 0..t {
                    let given = |i: usize| -> f64 {
                        let count = (0..t).filter(|&j| sees(i, j)).count();
                        if sees(i, j) && keep[b * t + i] { 2.0 / count as f64 } else { 0.0 }
                    };
                    let expected: f64 = (0..t).map(given).sum();
                    let found = mass[b * t + j];
                    assert!((found - expected).abs() < 1e-5, "{t} {b} {j}: {found}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn a_prefix_is_seen_from_everywhere_and_the_rest_is_causal() {
        // Values are one-hot and scores equal: what comes out is the mean over what is seen.
        let (t, prefix) = (5, 3);
        let sees = |i: usize, j: usize| j <= i || j < prefix;
        let seen: Vec<bool> = (0..t * t).map(|at| sees(at / t, at % t)).collect();
        let values: Vec<f32> = (0..t * t).map(|at| f32::from(u8::from(at / t == at % t))).collect();
        let sight = Sight { causal: true, window: None };
        for device in [Device::flex(), Device::flex().autodiff()] {
            let flat = Tensor::<4>::zeros([1, 1, t, t], &device);
            let v = Tensor::<4>::from_data(TensorData::new(values.clone(), [1, 1, t, t]), &device);
            let seen = Tensor::<3, Bool>::from_data(TensorData::new(seen.clone(), [1, t, t]), &device);
            let found =
                host(attend([flat.clone(), flat, v], sight, None, Some(seen), &Scoring::default(), None));
            for (i, row) in found.chunks(t).enumerate() {
                let count = (0..t).filter(|&j| sees(i, j)).count() as f32;
                for (j, found) in row.iter().enumerate() {
                    let expected = if sees(i, j) { 1.0 / count } else { 0.0 };
                    assert!((found - expected).abs() < 1e-6, "{i} {j}: {found}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn slopes_of_heads_that_are_no_power_of_two() {
        // Press et al.: 2^-2, 2^-4, 2^-6, 2^-8 for four heads, then every second of the eight: 2^-1, 2^-3.
        let expected = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125];
        assert_eq!(Scoring::alibi_slopes(6), expected);
        assert_eq!(Scoring::alibi_slopes(1), [0.00390625]);
    }
}
