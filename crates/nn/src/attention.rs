//! Scaled dot-product attention with grouped heads, masks, windows and a cache.

use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Tensor, TensorData};

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Whether later positions are hidden.
    pub causal: bool,
    /// Positions seen, the query's own included; `None` sees all.
    pub window: Option<usize>,
}

/// `softmax(Q K^T / sqrt(d)) V`.
///
/// `q`: `[B, H, T, d]`; `k`, `v`: `[B, H_kv, S, d]`, the last `T` of the `S` positions being those of the queries;
/// `keep`: `[B, S]`, `true` where a key may be seen. Returns `[B, H, T, d]`.
pub fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    sight: Sight,
    keep: Option<Tensor<2, Bool>>,
) -> Tensor<4> {
    let [_, heads, t, _] = q.dims();
    let s = k.dims()[2];
    let hidden = hidden(&q, t, s, sight, keep);
    let options = AttentionModuleOptions { is_causal: sight.causal && t > 1, ..Default::default() };
    attention(q, repeat_heads(k, heads), repeat_heads(v, heads), hidden, None, options)
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

/// What is hidden besides the causal part, `[B or 1, 1, T, S]`.
fn hidden(
    q: &Tensor<4>,
    t: usize,
    s: usize,
    sight: Sight,
    keep: Option<Tensor<2, Bool>>,
) -> Option<Tensor<4, Bool>> {
    let beyond = sight.window.filter(|&window| window < s).map(|window| {
        let hide = (0..t).flat_map(|i| (0..s).map(move |j| j + window <= s - t + i)).collect::<Vec<_>>();
        Tensor::<4, Bool>::from_data(TensorData::new(hide, [1, 1, t, s]), &q.device())
    });
    let padding = keep.map(|keep| {
        let [b, s] = keep.dims();
        keep.bool_not().reshape([b, 1, 1, s]).expand([b, 1, t, s])
    });
    match (beyond, padding) {
        (Some(beyond), Some(padding)) => {
            let b = padding.dims()[0];
            Some(padding.bool_or(beyond.expand([b, 1, t, s])))
        }
        (one, other) => one.or(other),
    }
}
