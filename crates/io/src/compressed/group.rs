//! Modules that share a scheme.

use std::fmt;

use serde_json::Value;

use super::format::CompressedFormat;
use super::target::Target;
use crate::affine::AffineScheme;
use crate::float::{FloatScheme, ScaleFormat};

/// Modules that share a scheme.
#[derive(Clone, Debug)]
pub struct ConfigGroup {
    /// Name, `group_0` and so on.
    pub name: String,
    /// Which codes the weights have.
    pub scheme: GroupScheme,
    /// How the codes lie in the file.
    pub format: CompressedFormat,
    /// How an engine quantizes the inputs of these modules, as written. Only the weights are read by it.
    pub input_activations: Option<Value>,
    pub(super) targets: Vec<Target>,
}

/// The codes of the weights of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScheme {
    /// Integers.
    Affine(AffineGroup),
    /// Small floats. A configuration does not say of which float type the scales of FP8 are: F32 stands for all of them,
    /// and a matrix that is read has the type of its file.
    Float(FloatScheme),
}

/// Integer codes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffineGroup {
    /// Bits, groups and symmetry.
    pub scheme: AffineScheme,
    /// One scale for a whole matrix (`strategy: "tensor"`). Read as one scale a row.
    pub per_tensor: bool,
    /// Whether columns are grouped by `weight_g_idx` (`actorder: "group"`).
    pub act_order: bool,
}

impl ConfigGroup {
    /// Whether modules of both groups are stored alike.
    pub(super) fn codes_as(&self, other: &Self) -> bool {
        (self.scheme, self.format) == (other.scheme, other.format)
    }

    /// Module names, classes and `re:` patterns, as written.
    pub fn targets(&self) -> impl Iterator<Item = String> {
        self.targets.iter().map(Target::to_string)
    }
}

impl GroupScheme {
    /// The integers; `None` for floats.
    pub fn affine(&self) -> Option<AffineGroup> {
        match self {
            Self::Affine(group) => Some(*group),
            Self::Float(_) => None,
        }
    }

    /// The floats; `None` for integers.
    pub fn float(&self) -> Option<FloatScheme> {
        match self {
            Self::Affine(_) => None,
            Self::Float(scheme) => Some(*scheme),
        }
    }
}

/// The scheme as a configuration knows it: without the type of the scales of FP8.
impl From<FloatScheme> for GroupScheme {
    fn from(scheme: FloatScheme) -> Self {
        let scale = match scheme.scale {
            ScaleFormat::F16 | ScaleFormat::BF16 => ScaleFormat::F32,
            scale => scale,
        };
        Self::Float(FloatScheme { scale, ..scheme })
    }
}

impl fmt::Display for GroupScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine(group) => group.scheme.fmt(f),
            Self::Float(scheme) => scheme.fmt(f),
        }
    }
}
