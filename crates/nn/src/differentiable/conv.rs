//! The convolution with its three gradients.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use super::{AGREE, numbers, tensor};
use crate::kernels::{self, ConvShape};

/// The convolution of `x` (`[B, C, H, W]`) with `weight` (`[rows, cols]`), which have `shape`: `[B, rows, H', W']`.
pub(crate) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    shape: ConvShape,
) -> Tensor<4> {
    let bias = bias.unwrap_or_else(|| Tensor::empty([0], &x.device()));
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::house_conv2d(x, weight, bias, shape))
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait ConvOps: Backend {
    /// A convolution; an empty `bias` is none.
    fn house_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;
}

impl ConvOps for Flex {
    fn house_conv2d(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, shape: ConvShape) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.to_contiguous());
        let mut y = vec![0.0f32; shape.batch * shape.rows * shape.positions()];
        let bias = Some(numbers(&bias)).filter(|bias| !bias.is_empty());
        kernels::conv2d(&shape, numbers(&weight), bias, numbers(&x), &mut y).expect(AGREE);
        let [h, w] = shape.output;
        tensor(y, [shape.batch, shape.rows, h, w])
    }
}

impl<C: CheckpointStrategy> ConvOps for Autodiff<Flex, C> {
    fn house_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self> {
        let prepared = Conv2d.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound();
        let [inputs, weights, biases] = [&x, &weight, &bias].map(|tensor| tensor.primitive().clone());
        match prepared.stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), shape);
                prepared.finish(state, Flex::house_conv2d(inputs, weights, biases, shape))
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(Flex::house_conv2d(inputs, weights, biases, shape))
            }
        }
    }
}

/// The step back through a convolution: to its input, its weight and its bias.
#[derive(Debug)]
struct Conv2d;

impl Backward<Flex, 3> for Conv2d {
    type State = (NodeId, NodeId, ConvShape);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x, weight, bias] = ops.parents;
        let (x_state, weight_state, shape) = ops.state;
        let inputs: FlexTensor = checkpointer.retrieve_node_output(x_state);
        let weights: FlexTensor = checkpointer.retrieve_node_output(weight_state);
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        if let Some(x) = x {
            let ([h, w], weights) = (shape.input, weights.to_contiguous());
            let mut dx = vec![0.0f32; shape.batch * shape.channels * h * w];
            kernels::conv2d_input_gradient(&shape, numbers(&weights), numbers(&dy), &mut dx).expect(AGREE);
            grads.register::<Flex>(x.id, tensor(dx, [shape.batch, shape.channels, h, w]));
        }
        if let Some(weight) = weight {
            let inputs = inputs.to_contiguous();
            let mut dw = vec![0.0f32; shape.rows * shape.cols()];
            kernels::conv2d_weight_gradient(&shape, numbers(&inputs), numbers(&dy), &mut dw).expect(AGREE);
            grads.register::<Flex>(weight.id, tensor(dw, [shape.rows, shape.cols()]));
        }
        if let Some(bias) = bias {
            grads
                .register::<Flex>(bias.id, tensor(kernels::channel_sums(&shape, numbers(&dy)), [shape.rows]));
        }
    }
}
