//! The formats of compressed-tensors that hold integer codes.

use std::fmt;

use crate::affine::AffineScheme;
use crate::dtype::Dtype;

/// How the codes of a group lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompressedFormat {
    /// Codes packed into words: `weight_packed`.
    PackQuantized,
    /// A signed byte a code: `weight`. The format of integer weights whose inputs are quantized too.
    IntQuantized,
    /// The same tensors under the name that the library uses where no other rule applies.
    NaiveQuantized,
}

impl CompressedFormat {
    const ALL: [Self; 3] = [Self::PackQuantized, Self::IntQuantized, Self::NaiveQuantized];

    /// Name in `format`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PackQuantized => "pack-quantized",
            Self::IntQuantized => "int-quantized",
            Self::NaiveQuantized => "naive-quantized",
        }
    }

    /// The format of this name; `None` for one that is not read.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Bytes of the tensors of a matrix.
    pub fn bytes(self, scheme: AffineScheme, rows: usize, cols: usize, scale_dtype: Dtype) -> u64 {
        let groups = scheme.n_groups(cols) as u64;
        match self {
            Self::PackQuantized => scheme.bytes(rows, cols, scale_dtype),
            Self::IntQuantized | Self::NaiveQuantized => {
                let zero = u64::from(!scheme.symmetric);
                rows as u64 * (cols as u64 + groups * (scale_dtype.size() as u64 + zero))
            }
        }
    }
}

impl fmt::Display for CompressedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
