//! Scaled dot-product attention with grouped heads, masks, windows and a cache.

use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Tensor, TensorData};

use crate::kernels::{self, attention::AttentionDims};
use crate::weight::{host, on_host};

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
/// `keep`: `[B, S]`, `true` where a key may be seen. Returns `[B, T, H * d]`.
pub fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    sight: Sight,
    keep: Option<Tensor<2, Bool>>,
) -> Tensor<3> {
    let [b, heads, t, d] = q.dims();
    let [_, kv_heads, s, _] = k.dims();
    let device = q.device();
    if on_host(&device) {
        let dims = AttentionDims { batch: b, heads, kv_heads, queries: t, keys: s, width: d };
        let keep: Option<Vec<bool>> = keep.map(|keep| keep.into_data().iter::<bool>().collect());
        let (q, k, v) = (host(q), host(k), host(v));
        let out = kernels::attention::attend(dims, [&q, &k, &v], sight, keep.as_deref());
        return Tensor::from_data(TensorData::new(out, [b, t, heads * d]), &device);
    }
    let hidden = hidden(&q, t, s, sight, keep);
    let options = AttentionModuleOptions { is_causal: sight.causal && t > 1, ..Default::default() };
    let mixed = attention(q, repeat_heads(k, heads), repeat_heads(v, heads), hidden, None, options);
    mixed.swap_dims(1, 2).reshape([b, t, heads * d])
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
        for (t, s) in [(1, 1), (1, 9), (70, 70), (5, 12)] {
            for sight in [(true, None), (false, None), (true, Some(4)), (true, Some(100))] {
                let sight = Sight { causal: sight.0, window: sight.1 };
                for masked in [false, true] {
                    let run = |device: &Device| {
                        let keep = (0..2 * s).map(|i| i % 5 != 2 || !masked).collect::<Vec<_>>();
                        let keep = Tensor::<2, Bool>::from_data(TensorData::new(keep, [2, s]), device);
                        let kv = |salt| build([2, 2, s, 6], salt, device);
                        host(attend(build([2, 4, t, 6], 3, device), kv(11), kv(29), sight, Some(keep)))
                    };
                    let (kernel, framework) = (run(&Device::flex()), run(&Device::flex().autodiff()));
                    let far = kernel.iter().zip(&framework).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(far < 1e-5, "{t} of {s}, {sight:?}, masked {masked}: {far}");
                }
            }
        }
    }
}
