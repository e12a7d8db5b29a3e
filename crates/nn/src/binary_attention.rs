//! Attention whose queries, keys, values and probabilities are of one bit.
//!
//! Source: He et al., "BiViT: extremely compressed binary vision transformer", ICCV 2023, arXiv:2211.07091.
//!
//! Queries, keys and values are signs. A query keeps the keys whose probability is at least a share of its largest one; what is kept
//! counts 1, the rest 0. As `P_j >= lambda max P` says `S_j >= max S + ln lambda`, no exponential is needed to run it; training lets
//! gradients pass as if the kept ones were probabilities.

use burn::tensor::{Bool, Tensor, TensorData, activation};

use crate::attention::Scoring;
use crate::kernels::binary;
use crate::straight_through::{clip, kept, sign, through};
use crate::weight::{host, on_host};

/// Which keys a query keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// Those with at least this share of the largest probability, `(0, 1]`; the paper's share is 0.25.
    Share(f32),
    /// Those whose score is not negative: what is compared with.
    Positive,
}

/// Binary attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BinaryAttention {
    /// What is kept.
    pub keep: Keep,
    /// Whether each row of kept ones is multiplied with the mean probability of what it keeps, the best factor there is for them. In the
    /// paper it is not.
    pub scaled: bool,
}

impl BinaryAttention {
    /// The attention of the paper with this share.
    pub fn of_share(share: f32) -> Self {
        Self { keep: Keep::Share(share), scaled: false }
    }
}

/// `B V` with the kept ones `B` of the signs of `q`, `k` and `v` (`[B, H, T or S, d]`); keys that are `hidden` (`[B or 1, 1, T, S]`) are never
/// kept. Returns `[B, T, H * d]`.
pub(crate) fn attend_binary(
    [q, k, v]: [Tensor<4>; 3],
    binary: BinaryAttention,
    scoring: &Scoring,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<3> {
    let [b, heads, t, d] = q.dims();
    let scale = scoring.scale.unwrap_or_else(|| 1.0 / (d as f32).sqrt());
    let device = q.device();
    if let (true, None, Keep::Share(share), false) = (on_host(&device), &hidden, binary.keep, binary.scaled) {
        let s = k.dims()[2];
        let (q, k, v) = (host(q), host(k), host(v));
        let out = binary::attend([&q, &k, &v], [b * heads, t, s, d], binary::threshold(share, scale));
        let out = Tensor::<4>::from_data(TensorData::new(out, [b, heads, t, d]), &device);
        return out.swap_dims(1, 2).reshape([b, t, heads * d]);
    }
    let (q, k, v) = (sign(q), sign(k), sign(v));
    let mut scores = q.matmul(k.swap_dims(2, 3)) * scale;
    if let Some(hidden) = &hidden {
        scores = scores.clone().mask_fill(hidden.clone().expand(scores.dims()), f32::MIN / 2.0);
    }
    let p = activation::softmax(scores.clone(), 3);
    let plain = scores.clone().detach();
    let mut ones = match binary.keep {
        Keep::Share(share) => {
            // The same comparison as that of the integers: scores are whole numbers times the scale.
            let most = plain.clone().max_dim(3);
            let lowest = most - (share.ln().abs() + scale * 1e-3);
            kept(p.clone(), plain.greater_equal(lowest.expand(scores.dims())))
        }
        Keep::Positive => {
            let carrier = clip(scores, -1.0, 1.0) * 0.5;
            through(plain.greater_equal_elem(0.0).float(), carrier)
        }
    };
    if let Some(hidden) = hidden {
        ones = ones.clone().mask_fill(hidden.expand(ones.dims()), 0.0);
    }
    if binary.scaled {
        let b = ones.clone().detach();
        let factor = (p.detach() * b.clone()).sum_dim(3) / b.sum_dim(3).clamp_min(1.0);
        ones = ones * factor;
    }
    ones.matmul(v).swap_dims(1, 2).reshape([b, t, heads * d])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn drawn(shape: [usize; 4], salt: usize, device: &Device) -> Tensor<4> {
        let n: usize = shape.iter().product();
        let values = (0..n).map(|i| (((i * 7919 + salt * 104_729) % 1000) as f32 - 499.5) / 300.0);
        Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
    }

    fn qkv(device: &Device, d: usize) -> [Tensor<4>; 3] {
        [1, 2, 3].map(|salt| drawn([2, 3, 17, d], salt, device))
    }

    #[test]
    fn integers_with_bits_are_the_floats_exactly() {
        for d in [4, 16, 64, 70] {
            for share in [0.1, 0.25, 0.9, 1.0] {
                let binary = BinaryAttention::of_share(share);
                let run =
                    |device: &Device| host(attend_binary(qkv(device, d), binary, &Scoring::default(), None));
                assert_eq!(run(&Device::flex()), run(&Device::flex().autodiff()), "{d} {share}");
            }
        }
    }

    #[test]
    fn the_threshold_on_scores_is_that_on_probabilities() {
        let (device, share) = (Device::flex().autodiff(), 0.25f32);
        let [q, k, v] = qkv(&device, 16).map(sign);
        let p = activation::softmax(q.clone().matmul(k.clone().swap_dims(2, 3)) * 0.25, 3);
        let keep = p.clone().greater_equal((p.clone().max_dim(3) * share).expand(p.dims()));
        let kept_count = host(keep.clone().float()).iter().sum::<f32>();
        let [b, h, t, d] = q.dims();
        let expected = host(keep.float().matmul(v.clone()).swap_dims(1, 2).reshape([b, t, h * d]));
        let found =
            host(attend_binary([q, k, v], BinaryAttention::of_share(share), &Scoring::default(), None));
        assert_eq!(found, expected);
        assert!(
            kept_count > (b * h * t) as f32 && kept_count < (b * h * t * t) as f32,
            "some are dropped, some not"
        );
    }

    #[test]
    fn gradients_pass_as_if_probabilities_were_kept() {
        let device = Device::flex().autodiff();
        let [q, k, v] = qkv(&device, 8).map(|x| (x * 0.4).require_grad());
        let w = drawn([2, 17, 24, 1], 9, &device).reshape([2, 17, 24]);
        let hard = attend_binary(
            [q.clone(), k.clone(), v.clone()],
            BinaryAttention::of_share(0.25),
            &Scoring::default(),
            None,
        );
        let found = host(q.grad(&(hard * w.clone()).sum().backward()).unwrap());
        // With the probabilities themselves, of the same signs.
        let p = activation::softmax(sign(q.clone()).matmul(sign(k).swap_dims(2, 3)) * (1.0 / 8f32.sqrt()), 3);
        let soft = p.matmul(sign(v)).swap_dims(1, 2).reshape([2, 17, 24]);
        let expected = host(q.grad(&(soft * w).sum().backward()).unwrap());
        let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{apart}");
        assert!(expected.iter().any(|g| g.abs() > 1e-2));
    }

    #[test]
    fn hidden_keys_are_never_kept_and_factors_are_the_best_ones() {
        let device = Device::flex().autodiff();
        let [q, k, _] = qkv(&device, 8);
        let hide: Vec<bool> = (0..17 * 17).map(|i| i % 17 > i / 17).collect();
        let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hide, [1, 1, 17, 17]), &device);
        // Values +1 at even keys count what is kept; the first query sees one key alone.
        let ones = Tensor::<4>::ones([2, 3, 17, 8], &device);
        let out = host(attend_binary(
            [q.clone(), k.clone(), ones.clone()],
            BinaryAttention::of_share(0.25),
            &Scoring::default(),
            Some(hidden),
        ));
        assert!(out[..24].iter().all(|kept| *kept == 1.0), "{:?}", &out[..24]);
        let scaled = BinaryAttention { scaled: true, ..BinaryAttention::of_share(0.25) };
        let factors = host(attend_binary([q.clone(), k.clone(), ones], scaled, &Scoring::default(), None));
        // Kept probabilities add up to what is there: at most 1, at least the share of one row.
        assert!(factors.iter().all(|sum| *sum <= 1.0 + 1e-5 && *sum > 0.05));
    }
}
