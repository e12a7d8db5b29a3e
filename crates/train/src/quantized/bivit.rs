//! BiViT (paper 75): vision transformers whose weights, inputs and attention are of one bit.
//!
//! Source: He et al., "BiViT: extremely compressed binary vision transformer", ICCV 2023, arXiv:2211.07091.
//!
//! A weight is the sign of what is left of it without the mean of its row, times a scale of the row that is trained; it begins at the mean
//! magnitude of the row. Inputs are signs, the gradients of both pass where magnitudes are below 1. Attention keeps the keys with at
//! least a share of the largest probability ([`trimtab_nn::binary_attention`]). Attention and the rest are not made binary at once
//! but in two phases of the run: with both, a trained network collapses.
//!
//! Signs are never 0; the released code has 0 at 0. What order the two phases have is not stated; it is a setting.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use trimtab_io::{AffineScheme, AffineTensor, Coded, Dtype, RealTensor};
use trimtab_nn::straight_through::sign;
use trimtab_nn::{
    BinaryAttention, InputOp, Keep, LayerMut, Network, Signs, SiteKind, SiteMeta, Weight, host,
};

use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::objective::{Loss, Objective, Pass, StepInfo};

/// What the scales of weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scales {
    /// One for each row, trained.
    #[default]
    Rows,
    /// The mean magnitude of the matrix, as it is at every step.
    Matrix,
}

/// What is binary from the first phase on; the second phase and all later ones make all of it binary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stages {
    /// Attention and its four matrices.
    #[default]
    AttentionFirst,
    /// The other matrices.
    RestFirst,
    /// Both.
    Together,
}

/// How attention becomes binary.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// What has at least this share of the largest probability of its row is kept.
    Share(f32),
    /// What has a score that is not negative is kept: what is compared with.
    Positive,
}

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bivit {
    /// Binary attention.
    pub attention: Attention,
    /// Scales of weights.
    pub scales: Scales,
    /// What comes first.
    pub stages: Stages,
    /// Whether the inputs of the matrices outside of attention are signs, too; those of attention always are.
    pub rest_inputs: bool,
}

impl Default for Bivit {
    fn default() -> Self {
        Self {
            attention: Attention::Share(0.25),
            scales: Scales::Rows,
            stages: Stages::AttentionFirst,
            rest_inputs: true,
        }
    }
}

impl Bivit {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Setting`] for a share outside of (0, 1].
    pub fn check(&self) -> Result<()> {
        match self.attention {
            Attention::Share(share) if !(share > 0.0 && share <= 1.0) => Err(Error::setting(
                "quantization.attention.share",
                format!("must lie in (0, 1], found {share}"),
            )),
            _ => Ok(()),
        }
    }

    /// Whether attention and the rest are binary in a phase.
    fn binary(&self, phase: usize) -> [bool; 2] {
        match self.stages {
            _ if phase > 0 => [true; 2],
            Stages::AttentionFirst => [true, false],
            Stages::RestFirst => [false, true],
            Stages::Together => [true; 2],
        }
    }
}

/// A transformer in full precision with what makes it binary.
#[derive(Module, Debug)]
pub struct Binary {
    /// Weights in full precision, and all that stays so.
    pub network: Network,
    /// A scale for each row of every matrix that becomes binary, in the order of the network.
    scales: Vec<Param<Tensor<1>>>,
    /// The phase of the last step: what is binary when the network is looked at.
    phase: Param<Tensor<1>>,
    #[module(skip)]
    plan: Arc<Plan>,
}

#[derive(Clone, Debug)]
struct Plan {
    settings: Bivit,
    sites: BTreeMap<String, usize>,
    metas: Vec<SiteMeta>,
}

/// A matrix of signs with a scale for each row.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSigns {
    /// The site.
    pub meta: SiteMeta,
    /// Whether a number is positive, `[rows, cols]`.
    pub positive: Vec<bool>,
    /// `[rows]`.
    pub scales: Vec<f32>,
    /// Whether inputs are signs.
    pub inputs: bool,
}

impl SiteSigns {
    /// Codes of one bit: a value is `2 a (u - 1) + a`, which is `-a` or `a`.
    ///
    /// # Errors
    /// A scale that is not finite.
    pub fn packed(&self) -> Result<RealTensor> {
        let scheme = AffineScheme { bits: 1, group_size: None, symmetric: true };
        let codes: Vec<u8> = self.positive.iter().map(|positive| u8::from(*positive)).collect();
        let scales = self.scales.iter().map(|scale| 2.0 * scale).collect();
        let SiteMeta { rows, cols, .. } = self.meta;
        let codes = AffineTensor::from_codes(rows, cols, scheme, &codes, scales, None, None, Dtype::F32)?;
        Ok(RealTensor::new(codes, self.scales.clone())?)
    }
}

fn of_attention(name: &str) -> bool {
    name.contains("attention") || name.contains("attn")
}

impl Binary {
    /// A transformer, on a device with gradients, whose linear maps become binary, but for the last one, which reads out.
    ///
    /// # Errors
    /// [`Error::Setting`] for senseless settings, and for a network without attention.
    pub fn new(network: Network, settings: &Bivit) -> Result<Self> {
        settings.check()?;
        let mut metas: Vec<SiteMeta> = network
            .sites()
            .map(|site| site.meta())
            .filter(|meta| meta.kind == SiteKind::Linear)
            .cloned()
            .collect();
        metas.pop();
        if !metas.iter().any(|meta| of_attention(&meta.name)) {
            let message = "is for transformers: no site before the last has \"attention\" in its name";
            return Err(Error::setting("quantization.method", message));
        }
        let mut scales = Vec::new();
        for meta in &metas {
            let site = network.sites().find(|site| site.name() == meta.name);
            let Some(Weight::Dense(weight)) = site.map(|site| &site.weight) else {
                return Err(Error::setting(
                    "quantization",
                    format!("the weight of \"{}\" is no parameter", meta.name),
                ));
            };
            let numbers = host(weight.val().without_autodiff());
            let mean = |row: &[f32]| row.iter().map(|w| w.abs()).sum::<f32>() / row.len().max(1) as f32;
            let rows: Vec<f32> = numbers.chunks(meta.cols.max(1)).map(mean).collect();
            scales.push(Param::from_tensor(Tensor::from_data(
                TensorData::new(rows, [meta.rows]),
                &weight.val().device(),
            )));
        }
        let device = scales[0].val().device();
        let phase = Param::initialized(ParamId::new(), Tensor::zeros([1], &device).set_require_grad(false));
        let sites = metas.iter().enumerate().map(|(i, meta)| (meta.name.clone(), i)).collect();
        Ok(Self { network, scales, phase, plan: Arc::new(Plan { settings: *settings, sites, metas }) })
    }

    /// Settings.
    pub fn settings(&self) -> &Bivit {
        &self.plan.settings
    }

    /// The phase of the last step.
    pub fn phase(&self) -> usize {
        host(self.phase.val())[0] as usize
    }

    /// The network as it is in a phase. Without gradients its matrices are packed: what is measured is what a file does.
    pub fn at(&self, phase: usize) -> Network {
        let binary = self.settings().binary(phase);
        let mut network = self.network.clone();
        let attention = match self.settings().attention {
            Attention::Share(share) => BinaryAttention::of_share(share),
            Attention::Positive => BinaryAttention { keep: Keep::Positive, scaled: false },
        };
        network.set_attention(binary[0].then_some(attention));
        for stage in 0..network.stages().len() {
            for layer in network.stage_mut(stage).layers_mut() {
                let LayerMut::Site(site) = layer else { continue };
                let Some(&i) = self.plan.sites.get(site.name()) else { continue };
                let rest = !of_attention(site.name());
                if !binary[usize::from(rest)] {
                    continue;
                }
                let Weight::Dense(weight) = &site.weight else { continue };
                let packed = match weight.val().device().is_autodiff() {
                    true => None,
                    false => self.signs_of(i, weight.val()).packed().ok(),
                };
                site.weight = match packed {
                    Some(packed) => Weight::coded(Coded::Real(packed)),
                    None => Weight::Dense(Param::initialized(ParamId::new(), self.weight(i, weight.val()))),
                };
                if !rest || self.settings().rest_inputs {
                    site.input.push(InputOp::Signs(Signs::new()));
                }
            }
        }
        network
    }

    /// `a_row * sign(W - mean of the row)`.
    fn weight(&self, site: usize, weight: Tensor<2>) -> Tensor<2> {
        let [rows, _] = weight.dims();
        let signs = sign(weight.clone() - weight.clone().mean_dim(1));
        match self.settings().scales {
            Scales::Rows => signs * self.scales[site].val().reshape([rows, 1]),
            Scales::Matrix => signs * weight.abs().mean().detach().reshape([1, 1]),
        }
    }

    fn signs_of(&self, i: usize, weight: Tensor<2>) -> SiteSigns {
        let meta = &self.plan.metas[i];
        let numbers = host(sign(weight.clone() - weight.clone().mean_dim(1)));
        let scales = match self.settings().scales {
            Scales::Rows => host(self.scales[i].val()),
            Scales::Matrix => vec![host(weight.abs().mean())[0]; meta.rows],
        };
        let inputs = of_attention(&meta.name) || self.settings().rest_inputs;
        SiteSigns { meta: meta.clone(), positive: numbers.iter().map(|x| *x > 0.0).collect(), scales, inputs }
    }

    /// The matrices that are binary in the phase of the last step, as signs and scales; without gradients.
    pub fn signs(&self) -> Vec<SiteSigns> {
        let binary = self.settings().binary(self.phase());
        let of = |(i, meta): (usize, &SiteMeta)| {
            let site = self.network.sites().find(|site| site.name() == meta.name)?;
            let Weight::Dense(weight) = &site.weight else { return None };
            binary[usize::from(!of_attention(&meta.name))].then(|| self.signs_of(i, weight.val()))
        };
        self.plan.metas.iter().enumerate().filter_map(of).collect()
    }

    /// Whether attention is binary in the phase of the last step.
    pub fn attends_in_bits(&self) -> bool {
        self.settings().binary(self.phase())[0]
    }
}

/// An objective of networks for a [`Binary`] one.
#[derive(Clone, Debug)]
pub struct InBits<O>(pub O);

impl<B, O: Objective<Network, B>> Objective<Binary, B> for InBits<O> {
    fn loss(&self, model: &Binary, batch: &B, pass: &mut Pass) -> Result<Loss> {
        let phase = if pass.training { pass.phase } else { model.phase() };
        let loss = self.0.loss(&model.at(phase), batch, pass)?;
        for statistics in &mut pass.statistics {
            statistics.norm = format!("network.{}", statistics.norm);
        }
        Ok(loss)
    }

    fn before_update(&self, mut model: Binary, _: &mut Gradients, step: &StepInfo) -> Result<Binary> {
        if model.phase() != step.phase {
            let device = model.phase.val().device();
            let phase = Tensor::from_data(TensorData::new(vec![step.phase as f32], [1]), &device);
            model.phase = Param::initialized(ParamId::new(), phase.set_require_grad(false));
        }
        Ok(model)
    }
}
