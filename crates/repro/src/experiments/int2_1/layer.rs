//! Single layers: gradients through packed codes, and the memory that they hold.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use trimtab::floors::io::{AffineScheme, AffineTensor, Coded, Dtype};
use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::site::LowRank;
use trimtab::floors::nn::{Branch, Ctx, Site, SiteMeta, Weight, host};
use trimtab::system;

use crate::experiment::Check;
use crate::experiments::wikilm::Attempt;

const TOKENS: usize = 24;
/// Layers and their side, of the stack whose memory is looked at.
const LAYERS: usize = 8;
const SIDE: usize = 1024;

/// Anonymous memory that a stack of layers holds on the way forward with gradients, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Codes, scales and zero points.
    pub packed: u64,
    /// Beyond them, with packed codes.
    pub coded: u64,
    /// Beyond them, with the numbers that they stand for.
    pub decoded: u64,
}

fn codes(rows: usize, cols: usize, stream: &mut Stream) -> Attempt<AffineTensor> {
    let scheme = AffineScheme { bits: 2, group_size: Some(64), symmetric: false };
    let codes: Vec<u8> = (0..rows * cols).map(|_| (stream.uniform() * 4.0) as u8 & 3).collect();
    let groups = rows * scheme.n_groups(cols);
    let scales = (0..groups).map(|_| 0.02 + 0.02 * stream.uniform() as f32).collect();
    let zeros = (0..groups).map(|i| (i % 3) as u8).collect();
    Ok(AffineTensor::from_codes(rows, cols, scheme, &codes, scales, Some(zeros), None, Dtype::F32)?)
}

fn site(weight: Weight, rank: usize, stream: &mut Stream) -> Attempt<Site> {
    let [rows, cols] = weight.dims();
    let meta = SiteMeta::linear("up", rows, cols);
    let mut site = Site::new(meta, weight, None)?;
    let mut factor = |dims: [usize; 2]| {
        let values: Vec<f32> = (0..dims[0] * dims[1]).map(|_| 0.05 * stream.normal() as f32).collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, dims), &Device::flex().autodiff()))
    };
    let (a, b) = (factor([rank, cols]), factor([rows, rank]));
    site.set_branches(vec![Branch::LowRank(LowRank { a, b, scale: 0.5 })])?;
    Ok(site)
}

/// Gradients of the input and of both factors through a layer, for the sum of its outputs times `pull`.
fn gradients(site: &Site, x: &[f32], pull: &[f32]) -> Attempt<[Vec<f32>; 3]> {
    let device = Device::flex().autodiff();
    let (rows, cols) = (site.meta().rows, site.meta().cols);
    let x = Tensor::<2>::from_data(TensorData::new(x.to_vec(), [TOKENS, cols]), &device).require_grad();
    let pull = Tensor::<2>::from_data(TensorData::new(pull.to_vec(), [TOKENS, rows]), &device);
    let y = site.forward(x.clone(), &mut Ctx::default());
    let backward = (y * pull).sum().backward();
    let Some(Branch::LowRank(branch)) = site.branches.first() else { return Err("a branch".into()) };
    let of = |tensor: Option<Tensor<2>>| tensor.map(host).ok_or("a gradient");
    let (a, b) = (branch.a.val().grad(&backward), branch.b.val().grad(&backward));
    Ok([of(x.grad(&backward))?, of(a)?, of(b)?])
}

/// Gradients through codes against those through the numbers, and against differences.
pub fn checks() -> Attempt<Vec<Check>> {
    let (rows, cols) = (200, 192);
    let mut stream = Stream::new(34, "int2.1/layer", 0, 0);
    let matrix = codes(rows, cols, &mut stream)?;
    let coded = site(Weight::coded(Coded::Affine(matrix)), 8, &mut stream)?;
    let mut dense = coded.clone();
    dense.set_weight(Weight::dense(coded.weight.to_tensor(&Device::flex()).autodiff()))?;
    let x: Vec<f32> = (0..TOKENS * cols).map(|_| stream.normal() as f32).collect();
    let pull: Vec<f32> = (0..TOKENS * rows).map(|_| stream.normal() as f32).collect();
    let (found, expected) = (gradients(&coded, &x, &pull)?, gradients(&dense, &x, &pull)?);
    let size = |values: &[f32]| values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let apart = |a: &[f32], b: &[f32]| {
        let far = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        f64::from(far / size(b))
    };
    let far = found.iter().zip(&expected).map(|(a, b)| apart(a, b)).fold(0.0, f64::max);
    // In double precision from the numbers of the whole map.
    let whole: Vec<f64> = coded.to_f32().iter().map(|&w| f64::from(w)).collect();
    let loss = |x: &[f64]| -> f64 {
        let of_token = |(x, pull): (&[f64], &[f32])| -> f64 {
            let rows = whole.chunks(cols).zip(pull);
            rows.map(|(w, &p)| f64::from(p) * w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()).sum()
        };
        x.chunks(cols).zip(pull.chunks(rows)).map(of_token).sum()
    };
    let start: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let mut difference = 0.0f64;
    for i in (0..start.len()).step_by(401) {
        let at = |by: f64| {
            let mut moved = start.clone();
            moved[i] += by;
            loss(&moved)
        };
        let expected = (at(1e-3) - at(-1e-3)) / 2e-3;
        difference = difference.max((f64::from(found[0][i]) - expected).abs() / f64::from(size(&found[0])));
    }
    Ok(vec![
        Check {
            identity: "gradients of input and factors through packed codes are those through the numbers",
            deviation: far,
            tolerance: 1e-6,
        },
        Check {
            identity: "the gradient of the input is that of differences",
            deviation: difference,
            tolerance: 1e-3,
        },
    ])
}

/// What a stack of square layers with branches holds between the way forward and the way back.
pub fn memory() -> Attempt<Memory> {
    let mut stream = Stream::new(34, "int2.1/memory", 0, 0);
    let matrices = (0..LAYERS).map(|_| codes(SIDE, SIDE, &mut stream)).collect::<Attempt<Vec<_>>>()?;
    let packed = matrices.iter().map(AffineTensor::bytes).sum();
    let mut held = [0, 0];
    for (at, decode) in [false, true].into_iter().enumerate() {
        let begun = system::anonymous_memory_bytes().unwrap_or(0);
        let make = |matrix: &AffineTensor| -> Attempt<Site> {
            let weight = Weight::coded(Coded::Affine(matrix.clone()));
            let weight = match decode {
                true => Weight::dense(weight.to_tensor(&Device::flex()).autodiff()),
                false => weight,
            };
            site(weight, 8, &mut Stream::new(34, "int2.1/branch", 0, 0))
        };
        let sites = matrices.iter().map(make).collect::<Attempt<Vec<_>>>()?;
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::ones([TOKENS, SIDE], &device);
        let y = sites.iter().fold(x, |x, site| site.forward(x, &mut Ctx::default()));
        held[at] = system::anonymous_memory_bytes().unwrap_or(0).saturating_sub(begun);
        // Held until here: the graph of the way back.
        drop(y.sum().backward());
    }
    Ok(Memory { packed, coded: held[0], decoded: held[1] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hold() {
        for check in checks().unwrap() {
            assert!(check.holds(), "{check:?}");
        }
    }
}
