//! The formats of compressed-tensors that are read and written.

use std::fmt;

use super::group::GroupScheme;
use crate::affine::AffineScheme;
use crate::dtype::Dtype;
use crate::float::{FloatElement, FloatScheme, ScaleFormat, ScaleGrid};

/// How the codes of a group lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompressedFormat {
    /// Integer codes packed into words: `weight_packed`.
    PackQuantized,
    /// A signed byte an integer code: `weight`. The format of integer weights whose inputs are quantized too.
    IntQuantized,
    /// The tensors of `int-quantized` or `float-quantized`, under the name that the library uses where no other rule
    /// applies.
    NaiveQuantized,
    /// A byte an FP8 code: `weight`. The format of FP8 weights whose inputs are quantized too.
    FloatQuantized,
    /// NVFP4: two codes a byte, `weight_packed`, and a scale of the matrix.
    Nvfp4PackQuantized,
    /// MXFP4: two codes a byte, `weight_packed`, and powers of two.
    Mxfp4PackQuantized,
    /// MXFP8: a byte a code, `weight`, and powers of two.
    Mxfp8Quantized,
}

impl CompressedFormat {
    const ALL: [Self; 7] = [
        Self::PackQuantized,
        Self::IntQuantized,
        Self::NaiveQuantized,
        Self::FloatQuantized,
        Self::Nvfp4PackQuantized,
        Self::Mxfp4PackQuantized,
        Self::Mxfp8Quantized,
    ];

    /// Name in `format`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PackQuantized => "pack-quantized",
            Self::IntQuantized => "int-quantized",
            Self::NaiveQuantized => "naive-quantized",
            Self::FloatQuantized => "float-quantized",
            Self::Nvfp4PackQuantized => "nvfp4-pack-quantized",
            Self::Mxfp4PackQuantized => "mxfp4-pack-quantized",
            Self::Mxfp8Quantized => "mxfp8-quantized",
        }
    }

    /// The format of this name; `None` for one that is not read.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The format of weights in these floats, whose inputs are not quantized; `None` if there is none.
    pub fn of_floats(scheme: &FloatScheme) -> Option<Self> {
        let FloatScheme { element, grid, scale } = *scheme;
        match (element, scale, grid) {
            (FloatElement::E2M1, ScaleFormat::E4M3, ScaleGrid::Group(_)) => Some(Self::Nvfp4PackQuantized),
            (FloatElement::E2M1, ScaleFormat::E8M0, ScaleGrid::Group(32)) => Some(Self::Mxfp4PackQuantized),
            (FloatElement::E4M3, ScaleFormat::E8M0, ScaleGrid::Group(32)) => Some(Self::Mxfp8Quantized),
            (FloatElement::E4M3, ScaleFormat::F32 | ScaleFormat::F16 | ScaleFormat::BF16, _) => {
                Some(Self::NaiveQuantized)
            }
            _ => None,
        }
    }

    /// Whether this format holds codes of a scheme.
    pub fn holds(self, scheme: &GroupScheme) -> bool {
        match scheme {
            GroupScheme::Affine(_) => {
                matches!(self, Self::PackQuantized | Self::IntQuantized | Self::NaiveQuantized)
            }
            GroupScheme::Float(scheme) => match Self::of_floats(scheme) {
                Some(Self::NaiveQuantized) => matches!(self, Self::NaiveQuantized | Self::FloatQuantized),
                other => other == Some(self),
            },
        }
    }

    /// Whether codes share bytes or words, in `weight_packed`.
    pub(super) const fn is_packed(self) -> bool {
        matches!(self, Self::PackQuantized | Self::Nvfp4PackQuantized | Self::Mxfp4PackQuantized)
    }

    /// Bytes of the tensors of a matrix of integer codes; `None` for a format that holds floats only.
    pub fn integer_bytes(
        self,
        scheme: AffineScheme,
        rows: usize,
        cols: usize,
        scale_dtype: Dtype,
    ) -> Option<u64> {
        let groups = scheme.n_groups(cols) as u64;
        match self {
            Self::PackQuantized => Some(scheme.bytes(rows, cols, scale_dtype)),
            Self::IntQuantized | Self::NaiveQuantized => {
                let zero = u64::from(!scheme.symmetric);
                Some(rows as u64 * (cols as u64 + groups * (scale_dtype.size() as u64 + zero)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for CompressedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
