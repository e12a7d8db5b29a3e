//! `max(x, 0)`, in the memory of its input where nobody else needs that.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};

use super::{numbers, take};
use crate::kernels::channels;

/// `max(x, 0)`; NaN stays.
pub(crate) fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::house_relu(x.into_dispatch()))
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait ReluOps: Backend {
    /// `max(x, 0)`.
    fn house_relu(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl ReluOps for Flex {
    fn house_relu(x: FlexTensor) -> FlexTensor {
        let shape = x.layout().shape().clone();
        let mut values = take(x).unwrap_or_else(|shared| numbers(&shared).to_vec());
        channels::relu(&mut values);
        FlexTensor::from_data(TensorData::new(values, shape))
    }
}

impl<C: CheckpointStrategy> ReluOps for Autodiff<Flex, C> {
    fn house_relu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = Flex::house_relu(x);
        match Relu.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(y.clone(), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

/// The step back, by the sign of the output.
#[derive(Debug)]
struct Relu;

impl Backward<Flex, 1> for Relu {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([x], y) = (ops.parents, ops.state);
        let dy = grads.consume::<Flex>(&ops.node);
        let Some(x) = x else { return };
        let shape = y.layout().shape().clone();
        let mut dx = take(dy).unwrap_or_else(|shared| numbers(&shared).to_vec());
        channels::relu_back(numbers(&y), &mut dx);
        grads.register::<Flex>(x.id, FlexTensor::from_data(TensorData::new(dx, shape)));
    }
}
