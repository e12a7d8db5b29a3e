//! LARS: layer-wise adaptive rates on the mean of the gradients.

use burn::optim::{Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor};

use super::trust::scaled;

/// `m <- b m + (1 - b) (g + decay w)`, `w <- w - rate |w| / |m| m`; the ratio is 1 where either norm is 0.
///
/// Source: You et al., arXiv:1904.00962, algorithm 1 (the form that LAMB is compared with), with the identity for `phi`.
#[derive(Clone, Debug)]
pub(super) struct Lars {
    pub momentum: f32,
    pub weight_decay: f32,
    /// Whether the step is scaled by the norms.
    pub adapts: bool,
}

/// Mean of the gradients.
#[derive(Clone)]
pub(super) struct LarsState<const D: usize> {
    mean: Tensor<D>,
}

/// By hand: the derive of the framework works in its own crates only.
impl<const D: usize> RecordState for LarsState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, "mean", self.mean.to_data());
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        let mean = source.take_tensor(prefix, "mean")?;
        Some(Self { mean: Tensor::from_data(mean, device) })
    }
}

impl Optimizer for Lars {
    type State<const D: usize> = LarsState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<LarsState<D>>,
    ) -> (Tensor<D>, Option<LarsState<D>>) {
        let gradient = (gradient + tensor.clone() * self.weight_decay) * (1.0 - self.momentum);
        let mean = match state {
            Some(state) => state.mean * self.momentum + gradient,
            None => gradient,
        };
        let step = if self.adapts { scaled(mean.clone(), &tensor, None) } else { mean.clone() };
        (tensor - step * rate, Some(LarsState { mean }))
    }

    fn to_device<const D: usize>(mut state: LarsState<D>, device: &Device) -> LarsState<D> {
        state.mean = state.mean.to_device(device);
        state
    }
}
