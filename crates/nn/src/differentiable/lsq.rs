//! Rounding to a grid whose step is trained (LSQ, Esser et al., arXiv:1902.08153), in one pass and one back.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{numbers, tensor};

/// Numbers of a task; sums are taken task by task, in their order.
const PART: usize = 1 << 14;

/// `clip(round(x / step), low, high) * step` with one step for all numbers, whose gradient is multiplied by `factor`.
pub(crate) fn lsq<const D: usize>(x: Tensor<D>, step: Tensor<1>, ends: [f32; 2], factor: f32) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::house_lsq(x.into_dispatch(), step.into_dispatch(), ends, factor))
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait LsqOps: Backend {
    /// Rounds to the grid; `step` is `[1]`.
    fn house_lsq(
        x: FloatTensor<Self>,
        step: FloatTensor<Self>,
        ends: [f32; 2],
        factor: f32,
    ) -> FloatTensor<Self>;
}

impl LsqOps for Flex {
    fn house_lsq(x: FlexTensor, step: FlexTensor, [low, high]: [f32; 2], _: f32) -> FlexTensor {
        let (x, step) = (x.to_contiguous(), step.to_contiguous());
        let (shape, s) = (x.layout().shape().clone(), numbers(&step)[0]);
        let mut y = numbers(&x).to_vec();
        y.par_chunks_mut(PART).for_each(|part| {
            part.iter_mut().for_each(|v| *v = (*v / s).clamp(low, high).round_ties_even() * s);
        });
        FlexTensor::from_data(TensorData::new(y, shape))
    }
}

impl<C: CheckpointStrategy> LsqOps for Autodiff<Flex, C> {
    fn house_lsq(
        x: FloatTensor<Self>,
        step: FloatTensor<Self>,
        ends: [f32; 2],
        factor: f32,
    ) -> FloatTensor<Self> {
        let prepared = Lsq.prepare::<C>([x.node(), step.node()]).compute_bound();
        let [inputs, steps] = [&x, &step].map(|tensor| tensor.primitive().clone());
        let y = Flex::house_lsq(inputs.clone(), steps.clone(), ends, factor);
        match prepared.stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((inputs, steps, ends, factor), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

/// The step back: to the numbers between the ends, and to the step.
#[derive(Debug)]
struct Lsq;

impl Backward<Flex, 2> for Lsq {
    type State = (FlexTensor, FlexTensor, [f32; 2], f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, step_node] = ops.parents;
        let (x, step, [low, high], factor) = ops.state;
        let (x, step) = (x.to_contiguous(), step.to_contiguous());
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let s = numbers(&step)[0];
        if let Some(node) = step_node {
            let slope = |(x, dy): (&f32, &f32)| {
                let v = x / s;
                let code = v.clamp(low, high);
                let inside = if code == v { v } else { 0.0 };
                f64::from(dy * (code.round_ties_even() - inside))
            };
            let part = |(x, dy): (&[f32], &[f32])| x.iter().zip(dy).map(slope).sum::<f64>();
            let parts: Vec<f64> =
                numbers(&x).par_chunks(PART).zip(numbers(&dy).par_chunks(PART)).map(part).collect();
            let sum = parts.iter().sum::<f64>() as f32 * factor;
            grads.register::<Flex>(node.id, tensor(vec![sum], [1]));
        }
        if let Some(node) = x_node {
            let shape = dy.layout().shape().clone();
            let mut dx = numbers(&dy).to_vec();
            dx.par_chunks_mut(PART).zip(numbers(&x).par_chunks(PART)).for_each(|(dx, x)| {
                for (dx, x) in dx.iter_mut().zip(x) {
                    let v = x / s;
                    if v < low || v > high {
                        *dx = 0.0;
                    }
                }
            });
            grads.register::<Flex>(node.id, FlexTensor::from_data(TensorData::new(dx, shape)));
        }
    }
}
