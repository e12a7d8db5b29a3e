//! The batch norm of training, as one step instead of a dozen.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use super::{numbers, plain, take, tensor};
use crate::kernels::channels::Moments;

/// Normalizes `x` (`[B, C, H, W]`) by its own mean and variance; `gain` and `bias` are `[C]`. With the moments.
pub(crate) fn batch_norm(
    x: Tensor<4>,
    gain: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> (Tensor<4>, Arc<Moments>) {
    let dims @ [_, c, h, w] = x.dims();
    let moments = Arc::new(Moments::of(numbers(&plain(x.clone())), c, h * w, eps));
    let (x, gain, bias) = (x.into_dispatch(), gain.into_dispatch(), bias.into_dispatch());
    let y = Dispatch::house_batch_norm(x, gain, bias, moments.clone(), dims);
    (Tensor::from_dispatch(y), moments)
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait BatchNormOps: Backend {
    /// `x` of `[B, C, H, W]`, normalized by its moments.
    fn house_batch_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        moments: Arc<Moments>,
        dims: [usize; 4],
    ) -> FloatTensor<Self>;
}

impl BatchNormOps for Flex {
    fn house_batch_norm(
        x: FlexTensor,
        gain: FlexTensor,
        bias: FlexTensor,
        moments: Arc<Moments>,
        dims: [usize; 4],
    ) -> FlexTensor {
        let [x, gain, bias] = [x, gain, bias].map(|tensor| tensor.to_contiguous());
        let mut y = vec![0.0f32; dims.iter().product()];
        moments.normalize(numbers(&x), numbers(&gain), numbers(&bias), &mut y);
        tensor(y, dims)
    }
}

impl<C: CheckpointStrategy> BatchNormOps for Autodiff<Flex, C> {
    fn house_batch_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        moments: Arc<Moments>,
        dims: [usize; 4],
    ) -> FloatTensor<Self> {
        let prepared = BatchNorm.prepare::<C>([x.node(), gain.node(), bias.node()]).compute_bound();
        let [inputs, gains, biases] = [&x, &gain, &bias].map(|tensor| tensor.primitive().clone());
        let y = Flex::house_batch_norm(inputs, gains, biases, moments.clone(), dims);
        match prepared.stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&gain), moments, dims);
                prepared.finish(state, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

/// The step back through a norm and through the moments, which are of its input.
#[derive(Debug)]
struct BatchNorm;

impl Backward<Flex, 3> for BatchNorm {
    type State = (NodeId, NodeId, Arc<Moments>, [usize; 4]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x, gain, bias] = ops.parents;
        let (x_state, gain_state, moments, dims) = ops.state;
        let inputs: FlexTensor = checkpointer.retrieve_node_output(x_state);
        let gains: FlexTensor = checkpointer.retrieve_node_output(gain_state);
        let (inputs, gains) = (inputs.to_contiguous(), gains.to_contiguous());
        let dy = take(grads.consume::<Flex>(&ops.node));
        let seen = dy.as_ref().map_or_else(numbers, |dy| &dy[..]);
        let (d_gain, d_bias) = moments.gradients(numbers(&inputs), seen);
        if let Some(x) = x {
            let mut dx = dy.unwrap_or_else(|shared| numbers(&shared).to_vec());
            moments.step_back(numbers(&inputs), numbers(&gains), [&d_gain, &d_bias], &mut dx);
            grads.register::<Flex>(x.id, tensor(dx, dims));
        }
        let channels = [d_gain.len()];
        for (parent, gradient) in [(gain, d_gain), (bias, d_bias)] {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, tensor(gradient, channels));
            }
        }
    }
}
