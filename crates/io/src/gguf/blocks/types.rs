//! The block types and their sizes.

use std::fmt;

use crate::error::{Error, Result};

/// Elements of a block of the K types.
pub(crate) const SUPER: usize = 256;
/// Elements of a block of the older types.
pub(crate) const SMALL: usize = 32;

/// How the numbers of a tensor are stored in a GGUF file: plain, or in blocks along its rows.
///
/// Source: ggml-org/ggml, `include/ggml.h` (ids), `src/ggml-common.h` (layouts).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub enum GgufType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    BF16,
    /// 32 signed bytes and a scale.
    Q8_0,
    /// 32 codes of 4 bits around 8 and a scale.
    Q4_0,
    /// 32 codes of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 codes of 5 bits around 16 and a scale.
    Q5_0,
    /// 32 codes of 5 bits, a scale and a minimum.
    Q5_1,
    /// 256 codes of 2 bits; 16 groups with scales and minima of 4 bits.
    Q2_K,
    /// 256 codes of 3 bits around 4; 16 groups with scales of 6 bits.
    Q3_K,
    /// 256 codes of 4 bits; 8 groups with scales and minima of 6 bits.
    Q4_K,
    /// 256 codes of 5 bits; 8 groups with scales and minima of 6 bits.
    Q5_K,
    /// 256 codes of 6 bits around 32; 16 groups with scales of 8 bits.
    Q6_K,
}

impl GgufType {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Name in messages and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// The type with this name, in any case; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// Number in a tensor's description.
    pub const fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// The type with this number; `None` for types that are not read.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.id() == id)
    }

    /// `general.file_type` of a model whose matrices have this type throughout (the "small" mixture of the K types, which
    /// adds nothing to them). Source: ggml-org/llama.cpp, `include/llama.h`, `llama_ftype`.
    pub const fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q5_0 => 8,
            Self::Q5_1 => 9,
            Self::Q2_K => 21,
            Self::Q3_K => 11,
            Self::Q4_K => 14,
            Self::Q5_K => 16,
            Self::Q6_K => 18,
            Self::BF16 => 32,
        }
    }

    /// Elements of a block; 1 for plain numbers.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => SMALL,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => SUPER,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bits a weight, scales included.
    pub const fn bits_per_weight(self) -> f64 {
        (self.block_bytes() * 8) as f64 / self.block_len() as f64
    }

    /// Whether numbers share scales in blocks, as opposed to being stored one by one.
    pub const fn is_blocks(self) -> bool {
        self.block_len() > 1
    }

    /// Whether rows of `cols` numbers can have this type: blocks must fill them exactly.
    pub const fn fits(self, cols: usize) -> bool {
        cols.is_multiple_of(self.block_len())
    }

    /// Bytes of a row of `cols` numbers; `None` if blocks do not fill it, or on overflow.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !self.fits(cols) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// [`Self::row_bytes`], or why not.
    pub(crate) fn expect_row(self, cols: usize) -> Result<usize> {
        self.row_bytes(cols).ok_or_else(|| {
            let message = format!(
                "rows of {cols} numbers cannot be {self}: its blocks have {} numbers and must fill a row\n\
                 hint: choose a type whose block divides {cols}",
                self.block_len()
            );
            Error::invalid("GGUF matrix", message)
        })
    }
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Name of a type that exists but is not read, for messages.
pub(crate) fn foreign_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for ty in GgufType::ALL {
            assert_eq!(GgufType::from_id(ty.id()), Some(ty));
            assert_eq!(GgufType::from_name(&ty.name().to_lowercase()), Some(ty));
            assert_eq!(foreign_name(ty.id()), None, "{ty}");
        }
        assert_eq!(GgufType::from_id(17), None);
        assert_eq!(foreign_name(17), Some("IQ2_XS"));
    }

    #[test]
    fn bits_of_the_format_description() {
        let expected = [
            (GgufType::BF16, 16.0),
            (GgufType::Q8_0, 8.5),
            (GgufType::Q4_0, 4.5),
            (GgufType::Q5_1, 6.0),
            (GgufType::Q2_K, 2.625),
            (GgufType::Q3_K, 3.4375),
            (GgufType::Q4_K, 4.5),
            (GgufType::Q5_K, 5.5),
            (GgufType::Q6_K, 6.5625),
        ];
        for (ty, bits) in expected {
            assert_eq!(ty.bits_per_weight(), bits, "{ty}");
        }
    }

    #[test]
    fn rows_that_blocks_do_not_fill_are_refused() {
        assert!(GgufType::Q4_K.fits(512) && !GgufType::Q4_K.fits(384) && GgufType::Q4_0.fits(384));
        assert_eq!(GgufType::Q6_K.row_bytes(512), Some(420));
        assert_eq!(GgufType::F16.row_bytes(usize::MAX), None, "too large");
        let message = GgufType::Q4_K.expect_row(384).unwrap_err().to_string();
        assert!(message.contains("384") && message.contains("256"), "{message}");
    }
}
