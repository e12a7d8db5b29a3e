//! The product with a matrix that is not trained: the way back decodes it again, tile by tile, and nothing dense is kept in between.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use super::{numbers, tensor};
use crate::frozen::Frozen;

/// `x W^T` for rows `x` (`[n, in]`).
pub(crate) fn frozen(x: Tensor<2>, matrix: Frozen) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::house_frozen(x.into_dispatch(), matrix))
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait FrozenOps: Backend {
    /// The product with a matrix that is not trained.
    fn house_frozen(x: FloatTensor<Self>, matrix: Frozen) -> FloatTensor<Self>;
}

impl FrozenOps for Flex {
    fn house_frozen(x: FlexTensor, matrix: Frozen) -> FlexTensor {
        let x = x.to_contiguous();
        let [out, cols] = matrix.dims();
        let n = numbers(&x).len() / cols.max(1);
        let mut y = vec![0.0f32; n * out];
        matrix.multiply(numbers(&x), n, &mut y);
        tensor(y, [n, out])
    }
}

impl<C: CheckpointStrategy> FrozenOps for Autodiff<Flex, C> {
    fn house_frozen(x: FloatTensor<Self>, matrix: Frozen) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = Flex::house_frozen(x, matrix.clone());
        match Product.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(matrix, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

/// The step back to the input; the codes alone were kept.
#[derive(Debug)]
struct Product;

impl Backward<Flex, 1> for Product {
    type State = Frozen;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([x], matrix) = (ops.parents, ops.state);
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let Some(x) = x else { return };
        let [out, cols] = matrix.dims();
        let n = numbers(&dy).len() / out.max(1);
        grads.register::<Flex>(x.id, tensor(matrix.multiply_back(numbers(&dy), n), [n, cols]));
    }
}
