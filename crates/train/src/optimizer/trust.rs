//! The trust ratio: steps as long as the norm of what they change.

use burn::optim::{LambState, Optimizer};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Which LAMB. The versions in use differ in bias correction, clipping, and what they leave alone; each has its name here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LambVariant {
    /// That of the paper's authors (TensorFlow Addons): bias correction, no clipping, ratio `|w| / |u|`; what does not decay
    /// because it is a vector does not adapt either.
    #[default]
    Reference,
    /// That of NVIDIA's Apex and of timm: the whole gradient is first clipped to norm 1, and only what decays adapts. Of timm's
    /// settings, `always_adapt`, `trust_clip`, `decoupled_decay` and `caution` stay off.
    Nvlamb,
    /// That of the paper's first version and of early ports: no bias correction, the norm of the weight clamped to 10.
    PaperV1,
}

/// Largest norm of a weight in the ratio of [`LambVariant::PaperV1`].
const LARGEST_NORM: f64 = 10.0;

/// `direction` as long as `tensor`, or as it is where either has no length. The norm of the tensor counts up to `most`.
pub(super) fn scaled<const D: usize>(
    direction: Tensor<D>,
    tensor: &Tensor<D>,
    most: Option<f64>,
) -> Tensor<D> {
    let norm = |x: Tensor<D>| x.square().sum().sqrt();
    let (whole, own) = (norm(tensor.clone()), norm(direction.clone()));
    let none = whole.clone().lower_equal_scalar(0.0).bool_or(own.clone().lower_equal_scalar(0.0));
    let whole = most.map_or(whole.clone(), |most| whole.clamp_max(most));
    // The smallest divisor keeps 0 / 0 from being formed where the mask stands.
    let ratio = (whole / own.clamp_min(f32::MIN_POSITIVE)).mask_fill(none, 1.0);
    direction * ratio.unsqueeze()
}

/// [`LambVariant::PaperV1`].
#[derive(Clone, Debug)]
pub(super) struct EarlyLamb {
    pub beta_1: f32,
    pub beta_2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
    /// Whether the step is scaled by the norms.
    pub adapts: bool,
}

impl Optimizer for EarlyLamb {
    type State<const D: usize> = LambState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<LambState<D>>,
    ) -> (Tensor<D>, Option<LambState<D>>) {
        let first = gradient.clone() * (1.0 - self.beta_1);
        let second = gradient.square() * (1.0 - self.beta_2);
        let state = match state {
            Some(old) => LambState {
                time: old.time + 1,
                moment_1: old.moment_1 * self.beta_1 + first,
                moment_2: old.moment_2 * self.beta_2 + second,
            },
            None => LambState { time: 1, moment_1: first, moment_2: second },
        };
        let mut direction = state.moment_1.clone() / (state.moment_2.clone().sqrt() + self.epsilon);
        direction = direction + tensor.clone() * self.weight_decay;
        let step = match self.adapts {
            true => scaled(direction, &tensor, Some(LARGEST_NORM)),
            false => direction,
        };
        (tensor - step * rate, Some(state))
    }

    fn to_device<const D: usize>(mut state: LambState<D>, device: &Device) -> LambState<D> {
        state.moment_1 = state.moment_1.to_device(device);
        state.moment_2 = state.moment_2.to_device(device);
        state
    }
}
