//! Rules of the update, as recipes name them.

use std::sync::Arc;

use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdaGradConfig, AdamConfig, AdamWConfig, DynOptimizer, LambConfig, LionConfig, RmsPropConfig, SgdConfig,
};
use serde::{Deserialize, Serialize};

use super::lars::Lars;
use super::trust::{EarlyLamb, LambVariant};
use crate::error::{Error, Result};

/// Rule of the update. Defaults are those of PyTorch, except for AdamW's `beta_2` and decay, which are those in use for
/// language models. Vectors (gains, biases) do not decay, and rules with a trust ratio do not adapt to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam with decoupled decay (Loshchilov and Hutter, arXiv:1711.05101).
    #[serde(rename = "adamw")]
    AdamW {
        /// Weight of the old first moment.
        #[serde(default = "beta_1")]
        beta_1: f32,
        /// Weight of the old second moment.
        #[serde(default = "language_beta_2")]
        beta_2: f32,
        /// Added to the root of the second moment.
        #[serde(default = "epsilon")]
        epsilon: f32,
        /// Share of a matrix that a step of rate 1 removes.
        #[serde(default = "language_decay")]
        weight_decay: f32,
    },
    /// Adam (Kingma and Ba, arXiv:1412.6980); the decay is a gradient of `weight_decay / 2 * |w|^2`.
    Adam {
        /// Weight of the old first moment.
        #[serde(default = "beta_1")]
        beta_1: f32,
        /// Weight of the old second moment.
        #[serde(default = "beta_2")]
        beta_2: f32,
        /// Added to the root of the second moment.
        #[serde(default = "epsilon")]
        epsilon: f32,
        /// Coefficient of the decay.
        #[serde(default)]
        weight_decay: f32,
    },
    /// Stochastic gradient descent; with momentum `m`, `v <- m v + g`, `w <- w - rate v`.
    Sgd {
        /// Weight of the old velocity; 0 keeps none.
        #[serde(default)]
        momentum: f64,
        /// Coefficient of the decay.
        #[serde(default)]
        weight_decay: f32,
    },
    /// LAMB (You et al., arXiv:1904.00962): every matrix moves by `rate` times its norm, along Adam's direction.
    Lamb {
        /// Which of the versions in use.
        #[serde(default)]
        variant: LambVariant,
        /// Weight of the old first moment.
        #[serde(default = "beta_1")]
        beta_1: f32,
        /// Weight of the old second moment.
        #[serde(default = "beta_2")]
        beta_2: f32,
        /// Added to the root of the second moment.
        #[serde(default = "lamb_epsilon")]
        epsilon: f32,
        /// Share of the matrix that is added to the direction.
        #[serde(default = "lamb_decay")]
        weight_decay: f32,
    },
    /// LARS (You, Gitman and Ginsburg, arXiv:1708.03888) in the form of the LAMB paper: every matrix moves by `rate` times its
    /// norm along the mean of its gradients.
    Lars {
        /// Weight of the old mean.
        #[serde(default = "lars_momentum")]
        momentum: f32,
        /// Coefficient of the decay, which is part of the gradient.
        #[serde(default)]
        weight_decay: f32,
    },
    /// AdaGrad (Duchi, Hazan and Singer, JMLR 12, 2011): `v <- v + g^2`, `w <- w - rate g / (sqrt(v) + epsilon)`.
    Adagrad {
        /// Added to the root.
        #[serde(default = "adagrad_epsilon")]
        epsilon: f32,
        /// Coefficient of the decay.
        #[serde(default)]
        weight_decay: f32,
    },
    /// AdaGrad with one number for the whole model (Ward, Wu and Bottou, arXiv:1806.01811): `v <- v + |g|^2`,
    /// `w <- w - rate g / sqrt(v)`. As the rule of a group, the number and the norms are those of the group.
    AdagradNorm {
        /// `v` before the first step.
        #[serde(default = "adagrad_norm_initial")]
        initial: f64,
    },
    /// Lion (Chen et al., arXiv:2302.06675).
    Lion {
        /// Weight of the old moment in the direction.
        #[serde(default = "beta_1")]
        beta_1: f32,
        /// Weight of the old moment in the new one.
        #[serde(default = "lion_beta_2")]
        beta_2: f32,
        /// Share of a matrix that a step of rate 1 removes.
        #[serde(default)]
        weight_decay: f32,
    },
    /// RMSProp (Hinton, 2012), neither centred nor with momentum.
    Rmsprop {
        /// Weight of the old second moment.
        #[serde(default = "rmsprop_alpha")]
        alpha: f32,
        /// Added to the root of the second moment.
        #[serde(default = "epsilon")]
        epsilon: f32,
        /// Coefficient of the decay.
        #[serde(default)]
        weight_decay: f32,
    },
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::AdamW {
            beta_1: beta_1(),
            beta_2: language_beta_2(),
            epsilon: epsilon(),
            weight_decay: language_decay(),
        }
    }
}

impl OptimizerConfig {
    /// The rule for matrices, or for vectors.
    pub(super) fn build(&self, matrix: bool) -> Arc<dyn DynOptimizer> {
        let decay = |decay: f32| if matrix { decay } else { 0.0 };
        let penalty = |coefficient: f32| {
            (decay(coefficient) != 0.0).then_some(WeightDecayConfig { penalty: coefficient })
        };
        match *self {
            Self::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                let config = AdamWConfig::new().with_beta_1(beta_1).with_beta_2(beta_2);
                Arc::new(config.with_epsilon(epsilon).with_weight_decay(decay(weight_decay)).build())
            }
            Self::Adam { beta_1, beta_2, epsilon, weight_decay } => {
                let config = AdamConfig::new().with_beta_1(beta_1).with_beta_2(beta_2).with_epsilon(epsilon);
                Arc::new(config.with_weight_decay(penalty(weight_decay)).build())
            }
            Self::Sgd { momentum, weight_decay } => {
                let momentum = (momentum != 0.0)
                    .then(|| MomentumConfig::new().with_momentum(momentum).with_dampening(0.0));
                let config = SgdConfig::new().with_momentum(momentum);
                Arc::new(config.with_weight_decay(penalty(weight_decay)).build())
            }
            Self::AdagradNorm { .. } => Arc::new(SgdConfig::new().build()),
            Self::Lamb { variant: LambVariant::PaperV1, beta_1, beta_2, epsilon, weight_decay } => {
                Arc::new(EarlyLamb {
                    beta_1,
                    beta_2,
                    epsilon,
                    weight_decay: decay(weight_decay),
                    adapts: matrix,
                })
            }
            Self::Lamb {
                variant: LambVariant::Reference | LambVariant::Nvlamb,
                beta_1,
                beta_2,
                epsilon,
                weight_decay,
            } => {
                let config = LambConfig::new().with_beta_1(beta_1).with_beta_2(beta_2).with_epsilon(epsilon);
                // Nvlamb adapts where it decays, and nowhere else.
                let adapts = matrix && (self.is_reference() || weight_decay != 0.0);
                Arc::new(config.with_weight_decay(decay(weight_decay)).with_use_trust_ratio(adapts).build())
            }
            Self::Lars { momentum, weight_decay } => {
                Arc::new(Lars { momentum, weight_decay: decay(weight_decay), adapts: matrix })
            }
            Self::Adagrad { epsilon, weight_decay } => {
                let config = AdaGradConfig::new().with_epsilon(epsilon);
                Arc::new(config.with_weight_decay(penalty(weight_decay)).build())
            }
            Self::Lion { beta_1, beta_2, weight_decay } => {
                let config = LionConfig::new().with_beta_1(beta_1).with_beta_2(beta_2);
                Arc::new(config.with_weight_decay(decay(weight_decay)).build())
            }
            Self::Rmsprop { alpha, epsilon, weight_decay } => {
                let config = RmsPropConfig::new().with_alpha(alpha).with_epsilon(epsilon).with_momentum(0.0);
                Arc::new(config.with_weight_decay(penalty(weight_decay)).build())
            }
        }
    }

    fn is_reference(&self) -> bool {
        matches!(self, Self::Lamb { variant: LambVariant::Reference, .. })
    }

    /// Largest norm of the whole gradient before the rule sees it, where the rule has one of its own.
    pub(crate) fn clips(&self) -> Option<f64> {
        matches!(self, Self::Lamb { variant: LambVariant::Nvlamb, .. }).then_some(1.0)
    }

    /// The sum of squared gradient norms before the first step, for the rule that keeps one.
    pub(super) fn initial_norm(&self) -> Option<f64> {
        match self {
            Self::AdagradNorm { initial } => Some(*initial),
            _ => None,
        }
    }

    /// Refuses what makes no sense.
    pub(crate) fn check(&self, place: &str) -> Result<()> {
        match *self {
            Self::AdagradNorm { initial } if !(initial > 0.0 && initial.is_finite()) => {
                Err(Error::setting(format!("{place}.initial"), format!("must be positive, found {initial}")))
            }
            _ => Ok(()),
        }
    }
}

fn beta_1() -> f32 {
    0.9
}

fn beta_2() -> f32 {
    0.999
}

fn language_beta_2() -> f32 {
    0.95
}

fn lion_beta_2() -> f32 {
    0.99
}

fn epsilon() -> f32 {
    1e-8
}

fn language_decay() -> f32 {
    0.1
}

fn lamb_epsilon() -> f32 {
    1e-6
}

fn lamb_decay() -> f32 {
    0.01
}

fn lars_momentum() -> f32 {
    0.9
}

fn adagrad_epsilon() -> f32 {
    1e-10
}

fn adagrad_norm_initial() -> f64 {
    0.01
}

fn rmsprop_alpha() -> f32 {
    0.99
}
