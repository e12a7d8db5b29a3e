//! Types of the numbers in a tensor.

use std::fmt;

/// Type of the numbers in a tensor, under the names of the safetensors format.
///
/// 8-bit floats are codes that mean nothing without their scales: they are no float type here, and read by
/// [`FloatTensor`](crate::FloatTensor). Other floats of 8 bits or fewer and unsigned integers wider than a byte are
/// recognised when a file is opened, and refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::upper_case_acronyms, non_camel_case_types)]
pub enum Dtype {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    BF16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer; packed codes are stored as this.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed byte.
    I8,
    /// Byte.
    U8,
    /// One byte, 0 or 1.
    BOOL,
    /// 8-bit float with 4 exponent and 3 mantissa bits, without infinities.
    F8_E4M3,
    /// 8-bit float with 5 exponent and 2 mantissa bits.
    F8_E5M2,
    /// 8-bit power of two.
    F8_E8M0,
}

impl Dtype {
    /// Every type, widest first.
    pub const ALL: [Self; 13] = [
        Self::F64,
        Self::I64,
        Self::F32,
        Self::I32,
        Self::F16,
        Self::BF16,
        Self::I16,
        Self::I8,
        Self::U8,
        Self::BOOL,
        Self::F8_E4M3,
        Self::F8_E5M2,
        Self::F8_E8M0,
    ];

    /// Bytes of one number.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::BOOL | Self::F8_E4M3 | Self::F8_E5M2 | Self::F8_E8M0 => 1,
        }
    }

    /// Whether this is a floating-point type that stands for itself, without a scale.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Name in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::BOOL => "BOOL",
            Self::F8_E4M3 => "F8_E4M3",
            Self::F8_E5M2 => "F8_E5M2",
            Self::F8_E8M0 => "F8_E8M0",
        }
    }

    /// The type with this safetensors name; `None` for types that are not read.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        }
        for other in ["F8_E4M3FNUZ", "F4", "U64", "f32", ""] {
            assert_eq!(Dtype::from_name(other), None, "{other}");
        }
    }
}
