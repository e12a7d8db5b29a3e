//! What a pass is, which there are, and how several follow one another.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trimtab_math::rotation::RotationKind;

use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::passes::{
    CenterLayerNorm, FoldBatchNorm, FoldLayerScale, FoldNormGain, InjectOutliers, Rotate, RotateHeads,
    ScaleChannels, Untie,
};

/// A rewrite that leaves the function of a network as it is.
pub trait EquivalentRewrite {
    /// Which pass it is.
    fn pass(&self) -> Pass;

    /// Passes that have to come first on this network, in order.
    ///
    /// # Errors
    /// Tensors that cannot be read.
    fn needs(&self, _draft: &Draft<'_>) -> Result<Vec<Pass>> {
        Ok(Vec::new())
    }

    /// Changes the draft.
    ///
    /// # Errors
    /// [`Error::Refused`] where the network is not wired for it; the draft is then of no more use.
    fn apply(&self, draft: &mut Draft<'_>) -> Result<Applied>;
}

/// What a pass did.
#[derive(Serialize)]
pub struct Applied {
    /// The pass.
    pub pass: Pass,
    /// The pass that needed it, where it was not asked for.
    pub needed_by: Option<Pass>,
    /// Edges, streams or heads that it changed.
    pub changed: usize,
    /// What to know of the result, and of what it left alone.
    pub notes: Vec<String>,
    /// The way back, where there is one.
    #[serde(skip)]
    pub inverse: Option<Box<dyn EquivalentRewrite>>,
}

impl Applied {
    pub(crate) fn new(pass: Pass, changed: usize, notes: Vec<String>) -> Self {
        Self { pass, needed_by: None, changed, notes, inverse: None }
    }
}

/// The passes by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// [`FoldBatchNorm`].
    FoldBatchNorm,
    /// [`FoldNormGain`].
    FoldNormGain,
    /// [`FoldLayerScale`].
    FoldLayerScale,
    /// [`CenterLayerNorm`].
    CenterLayerNorm,
    /// [`Rotate`].
    Rotate,
    /// [`RotateHeads`].
    RotateHeads,
    /// [`ScaleChannels`].
    ScaleChannels,
    /// [`Untie`].
    Untie,
    /// [`InjectOutliers`].
    InjectOutliers,
}

impl Pass {
    /// All passes.
    pub const ALL: [Self; 9] = [
        Self::FoldBatchNorm,
        Self::FoldNormGain,
        Self::FoldLayerScale,
        Self::CenterLayerNorm,
        Self::Rotate,
        Self::RotateHeads,
        Self::ScaleChannels,
        Self::Untie,
        Self::InjectOutliers,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::FoldBatchNorm => "fold-batch-norm",
            Self::FoldNormGain => "fold-norm-gain",
            Self::FoldLayerScale => "fold-layer-scale",
            Self::CenterLayerNorm => "center-layer-norm",
            Self::Rotate => "rotate",
            Self::RotateHeads => "rotate-heads",
            Self::ScaleChannels => "scale-channels",
            Self::Untie => "untie",
            Self::InjectOutliers => "inject-outliers",
        }
    }

    /// What it does, in one line.
    pub fn about(self) -> &'static str {
        match self {
            Self::FoldBatchNorm => "batch norms into the convolutions before them; a shift is left",
            Self::FoldNormGain => {
                "gains of norms (and biases, where there is room) into the maps that read them"
            }
            Self::FoldLayerScale => "factors of channels (LayerScale) into the maps before them",
            Self::CenterLayerNorm => "the residual stream gets the mean zero: its layer norms are RMS norms",
            Self::Rotate => "the residual stream and the heads' values are rotated: no channel stands out",
            Self::RotateHeads => "the values of every head are rotated, and the output map back",
            Self::ScaleChannels => "scales move between norms and the maps that read them (SmoothQuant)",
            Self::Untie => "the head gets a copy of the embedding that it borrows",
            Self::InjectOutliers => "some channels of every norm are made loud: for experiments",
        }
    }

    /// The pass with these settings.
    pub fn build(self, settings: &PassSettings) -> Box<dyn EquivalentRewrite> {
        let &PassSettings { seed, rotation, heads, alpha, channels, factor, .. } = settings;
        match self {
            Self::FoldBatchNorm => Box::new(FoldBatchNorm),
            Self::FoldNormGain => Box::new(FoldNormGain),
            Self::FoldLayerScale => Box::new(FoldLayerScale),
            Self::CenterLayerNorm => Box::new(CenterLayerNorm),
            Self::Rotate => Box::new(Rotate { kind: rotation, seed, heads, back: false }),
            Self::RotateHeads => Box::new(RotateHeads { kind: rotation, seed, back: false }),
            Self::ScaleChannels => Box::new(ScaleChannels { alpha, ranges: settings.ranges.clone() }),
            Self::Untie => Box::new(Untie),
            Self::InjectOutliers => Box::new(InjectOutliers { channels, factor, seed }),
        }
    }

    /// Whether the pass has to do with the last norm before a head that borrows the embedding.
    fn meets_the_head(self) -> bool {
        matches!(self, Self::FoldNormGain | Self::CenterLayerNorm | Self::Rotate | Self::ScaleChannels)
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Pass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let pass = Self::ALL.into_iter().find(|pass| pass.name() == text);
        pass.ok_or_else(|| format!("\"{text}\" is no pass; expected one of {}", known()))
    }
}

/// Largest magnitude of what each norm gives, channel by channel, by the norm's name.
pub type Ranges = BTreeMap<String, Vec<f64>>;

/// Settings of all passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PassSettings {
    /// Seed of what is drawn.
    pub seed: u64,
    /// Which rotations.
    pub rotation: RotationKind,
    /// Whether `rotate` rotates the heads' values too.
    pub heads: bool,
    /// Whether a head that borrows the embedding gets a copy where a pass needs it.
    pub untie: bool,
    /// How much of the range moves from what a norm gives into the maps, from 0 to 1.
    pub alpha: f64,
    /// Ranges of what the norms give, for `scale-channels`.
    #[serde(skip)]
    pub ranges: Option<Arc<Ranges>>,
    /// Channels of every norm that `inject-outliers` makes loud.
    pub channels: usize,
    /// By how much.
    pub factor: f64,
}

impl Default for PassSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            rotation: RotationKind::Hadamard,
            heads: true,
            untie: false,
            alpha: 0.5,
            ranges: None,
            channels: 4,
            factor: 30.0,
        }
    }
}

/// Applies passes in order, each with those that it needs before it.
///
/// # Errors
/// The first refusal; [`Error::Needs`] where a pass that another one needs does not fit.
pub fn apply_passes(draft: &mut Draft<'_>, passes: &[Pass], settings: &PassSettings) -> Result<Vec<Applied>> {
    let mut done = Vec::new();
    for &pass in passes {
        let rewrite = pass.build(settings);
        let borrows = draft.wiring.norms.iter().any(|norm| norm.tied);
        let untie = (settings.untie && borrows && pass.meets_the_head()).then_some(Pass::Untie);
        if let Some(first) = untie {
            done.push(Applied { needed_by: Some(pass), ..first.build(settings).apply(draft)? });
        }
        for first in rewrite.needs(draft)? {
            let applied = first.build(settings).apply(draft).map_err(|source| Error::Needs {
                pass: pass.name(),
                needed: first.name(),
                source: Box::new(source),
            })?;
            done.push(Applied { needed_by: Some(pass), ..applied });
        }
        done.push(rewrite.apply(draft)?);
    }
    Ok(done)
}
