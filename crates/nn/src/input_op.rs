//! What is done to the input of a site before it is multiplied.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::activation::ActivationQuantizer;
use crate::straight_through;

/// An operation on the input of a site.
#[derive(Module, Debug)]
pub enum InputOp {
    /// Multiplies channel `c` by `scale[c]` (`[in]`); the weight holds the inverse.
    Scale(Param<Tensor<1>>),
    /// Rounds to a grid.
    Grid(Grid),
    /// Rounds it to few bits.
    Quantize(ActivationQuantizer),
    /// Takes the signs.
    Signs(Signs),
}

/// `clip(round(x / step), low, high) * step`, with the gradients of LSQ where there are any.
#[derive(Module, Debug)]
pub struct Grid {
    /// `[1]`, positive.
    pub step: Param<Tensor<1>>,
    /// The smallest and the largest code.
    #[module(skip)]
    pub ends: [f32; 2],
}

/// `x < 0 ? -1 : 1`; a gradient passes where `|x| < 1`.
#[derive(Module, Debug)]
pub struct Signs {
    #[module(skip)]
    signed_zero: (),
}

impl Signs {
    /// The operation.
    pub fn new() -> Self {
        Self { signed_zero: () }
    }
}

impl Default for Signs {
    fn default() -> Self {
        Self::new()
    }
}

impl Grid {
    /// A grid of the codes `low ..= high`.
    pub fn new(step: Param<Tensor<1>>, [low, high]: [i32; 2]) -> Self {
        Self { step, ends: [low as f32, high as f32] }
    }

    fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        // LSQ counts the numbers of one item: the gradient is a mean over the batch already.
        let dims = x.dims();
        let factor = straight_through::lsq_factor(dims[1..].iter().product(), self.ends[1]);
        straight_through::lsq_whole(x, self.step.val(), self.ends, factor)
    }
}

impl InputOp {
    /// On rows `[n, in]`.
    pub(crate) fn rows(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Scale(scale) => x * scale.val().unsqueeze(),
            Self::Grid(grid) => grid.forward(x),
            Self::Quantize(quantizer) => quantizer.rows(x),
            Self::Signs(_) => straight_through::sign(x),
        }
    }

    /// On images `[B, C, H, W]`.
    pub(crate) fn planes(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Scale(scale) => x * scale.val().reshape([1, -1, 1, 1]),
            Self::Grid(grid) => grid.forward(x),
            Self::Quantize(quantizer) => quantizer.images(x),
            Self::Signs(_) => straight_through::sign(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::axis::Axis;
    use crate::conv::ConvGeometry;
    use crate::ctx::Ctx;
    use crate::site::{Site, SiteKind, SiteMeta};
    use crate::weight::{Weight, host};

    #[test]
    fn a_convolution_sees_its_input_through_the_operations() {
        let device = Device::flex();
        let tensor = |values: &[f32]| {
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
        };
        let meta = SiteMeta {
            name: "conv".into(),
            kind: SiteKind::Conv(ConvGeometry::same(1, 1)),
            rows: 1,
            cols: 2,
            transposed: false,
            input: Axis::new("image", 2),
            output: Axis::new("stage", 1),
            reads: "image".into(),
            fused: None,
        };
        let weight = Weight::dense(tensor(&[1.0, 10.0]).reshape([1, 2]));
        let mut site = Site::new(meta, weight, None).unwrap();
        let image = || tensor(&[0.3, -1.4]).reshape([1, 2, 1, 1]);
        let run = |site: &Site| host(site.convolve(image(), &mut Ctx::default()).unwrap())[0];
        assert!((run(&site) - (0.3 - 14.0)).abs() < 1e-5);
        site.input.push(InputOp::Grid(Grid::new(Param::from_tensor(tensor(&[0.5])), [-2, 1])));
        assert_eq!(run(&site), 0.5 - 10.0);
        site.input.push(InputOp::Signs(Signs::new()));
        assert_eq!(run(&site), 1.0 - 10.0);
        site.input.insert(0, InputOp::Scale(Param::from_tensor(tensor(&[-1.0, 1.0]))));
        assert_eq!(run(&site), -1.0 - 10.0, "0.3 became negative");
    }
}
