//! Operations of the framework whose values and gradients our own kernels compute: where tensors lie on the host and gradients
//! flow.
//!
//! Each has a trait of one method, which the framework calls for a tensor as it is: the plain one, or the one whose step back is
//! noted.

mod batch_norm;
mod conv;
mod frozen;
mod lsq;
mod relu;
#[cfg(test)]
mod tests;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};

pub(crate) use batch_norm::batch_norm;
pub(crate) use conv::conv2d;
pub(crate) use frozen::frozen;
pub(crate) use lsq::lsq;
pub(crate) use relu::relu;

/// Whether these operations can take the tensor.
pub(crate) fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    x.device() == Device::flex() && x.dtype() == DType::F32
}

/// A tensor without gradients, to be read where it lies.
///
/// # Panics
///
/// If it lies elsewhere than on the host.
pub(crate) fn plain<const D: usize>(x: Tensor<D>) -> FlexTensor {
    x.without_autodiff().try_into_primitive::<Flex>().expect("a tensor on the host").to_contiguous()
}

/// What holds of tensors from the moment that their shape was built.
const AGREE: &str = "the operands have the lengths of their shape";

/// The numbers of a contiguous tensor.
pub(crate) fn numbers(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous numbers of f32, as was asked for")
}

/// The numbers of a tensor that nobody else has, to be written over.
fn take(tensor: FlexTensor) -> Result<Vec<f32>, FlexTensor> {
    match tensor.is_unique() && tensor.is_contiguous() {
        true => Ok(tensor.into_data().try_into_vec().expect("the house computes in f32")),
        false => Err(tensor.to_contiguous()),
    }
}

fn tensor<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, dims))
}
