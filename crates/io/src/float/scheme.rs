//! Which floats, who shares a scale, and how scales are stored.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::element::{FloatElement, decode_e8m0, encode_e8m0};
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Which elements of a matrix `[rows, cols]` share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleGrid {
    /// All.
    Tensor,
    /// Each row has its own.
    Channel,
    /// This many consecutive columns of a row; must divide the columns.
    Group(usize),
    /// Blocks of `[rows, cols]`; the last ones may be short.
    Block([usize; 2]),
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleFormat {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Brain floating point.
    BF16,
    /// E4M3, divided by one F32 scale of the whole matrix.
    E4M3,
    /// Powers of two, a byte each.
    E8M0,
}

impl ScaleFormat {
    /// Bytes of one scale.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::E4M3 | Self::E8M0 => 1,
        }
    }

    /// Whether a scale of the whole matrix divides these.
    pub const fn has_global(self) -> bool {
        matches!(self, Self::E4M3)
    }

    /// The type of a float scale.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another type.
    pub fn of(dtype: Dtype) -> Result<Self> {
        match dtype {
            Dtype::F32 => Ok(Self::F32),
            Dtype::F16 => Ok(Self::F16),
            Dtype::BF16 => Ok(Self::BF16),
            other => Err(Error::invalid("float scheme", format!("scales are F32, F16 or BF16, not {other}"))),
        }
    }

    /// The nearest scale of this type to `scale`, which is not NaN; E8M0: the largest power of two that is not above.
    /// What is too large becomes the largest, or in IEEE types infinity.
    pub fn round(self, scale: f32) -> f32 {
        match self {
            Self::F32 => scale,
            Self::F16 => half::f16::from_f32(scale).to_f32(),
            Self::BF16 => half::bf16::from_f32(scale).to_f32(),
            Self::E4M3 => FloatElement::E4M3.round(scale),
            Self::E8M0 => decode_e8m0(encode_e8m0(floor_log2(scale))),
        }
    }

    /// The type on disk.
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
            Self::E4M3 => Dtype::F8_E4M3,
            Self::E8M0 => Dtype::U8,
        }
    }
}

/// `floor(log2(x))` of a positive number, -127 for what is smaller than `2^-126` or not positive, 128 for infinity.
fn floor_log2(x: f32) -> i32 {
    if x > 0.0 { (x.to_bits() >> 23) as i32 - 127 } else { -127 }
}

/// How the numbers of a matrix are coded: element, sharing of scales, type of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FloatScheme {
    /// Type of the codes.
    pub element: FloatElement,
    /// Who shares a scale.
    pub grid: ScaleGrid,
    /// Type of the scales.
    pub scale: ScaleFormat,
}

impl FloatScheme {
    /// NVFP4: E2M1 in groups of 16 with E4M3 scales and one F32 scale of the matrix.
    pub const NVFP4: Self =
        Self { element: FloatElement::E2M1, grid: ScaleGrid::Group(16), scale: ScaleFormat::E4M3 };
    /// MXFP4: E2M1 in groups of 32 with power-of-two scales.
    pub const MXFP4: Self =
        Self { element: FloatElement::E2M1, grid: ScaleGrid::Group(32), scale: ScaleFormat::E8M0 };
    /// MXFP8: E4M3 in groups of 32 with power-of-two scales.
    pub const MXFP8: Self =
        Self { element: FloatElement::E4M3, grid: ScaleGrid::Group(32), scale: ScaleFormat::E8M0 };

    /// FP8: E4M3 with one scale a row.
    pub const fn fp8(scale: ScaleFormat) -> Self {
        Self { element: FloatElement::E4M3, grid: ScaleGrid::Channel, scale }
    }

    /// FP8: E4M3 with one scale a square block of 128.
    pub const fn fp8_block128(scale: ScaleFormat) -> Self {
        Self { element: FloatElement::E4M3, grid: ScaleGrid::Block([128, 128]), scale }
    }

    /// Checks that there can be such a matrix of `rows` by `cols`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty group or block, a group that does not divide the columns, an odd number of columns
    /// of 4-bit codes, or a size beyond the address space.
    pub fn validate(&self, rows: usize, cols: usize) -> Result<()> {
        let wrong = |message: String| Err(Error::invalid(format!("float scheme {self}"), message));
        match self.grid {
            ScaleGrid::Group(0) => return wrong("group_size must be at least 1, found 0".into()),
            ScaleGrid::Block([0, _] | [_, 0]) => return wrong("a block must not be empty".into()),
            ScaleGrid::Group(size) if !cols.is_multiple_of(size) => {
                return wrong(format!("{cols} columns are no multiple of the group_size {size}"));
            }
            _ => {}
        }
        if self.element.bits() == 4 && !cols.is_multiple_of(2) {
            return wrong(format!("{cols} columns of 4-bit codes do not fill whole bytes"));
        }
        // Eight bytes a number bound every tensor of the matrix and its decoded form.
        match rows.checked_mul(cols.max(1)).and_then(|n| n.checked_mul(8)) {
            Some(_) => Ok(()),
            None => wrong(format!("[{rows}, {cols}] is more than the address space")),
        }
    }

    /// Rows and columns of the scales of a matrix `[rows, cols]`.
    pub fn scale_shape(&self, rows: usize, cols: usize) -> [usize; 2] {
        match self.grid {
            ScaleGrid::Tensor => [1, 1],
            ScaleGrid::Channel => [rows, 1],
            ScaleGrid::Group(size) => [rows, cols / size.max(1)],
            ScaleGrid::Block([height, width]) => [rows.div_ceil(height.max(1)), cols.div_ceil(width.max(1))],
        }
    }

    /// Consecutive rows that share a scale, and consecutive columns; at least 1.
    pub fn extent(&self, rows: usize, cols: usize) -> [usize; 2] {
        let [height, width] = match self.grid {
            ScaleGrid::Tensor => [rows, cols],
            ScaleGrid::Channel => [1, cols],
            ScaleGrid::Group(size) => [1, size],
            ScaleGrid::Block(block) => block,
        };
        [height.max(1), width.max(1)]
    }

    /// Bytes of the codes of a row.
    pub fn row_bytes(&self, cols: usize) -> usize {
        crate::bits::packed_len(cols, self.element.bits())
    }

    /// Bytes of a matrix on disk: codes, scales and the scale of the matrix.
    pub fn bytes(&self, rows: usize, cols: usize) -> u64 {
        let [height, width] = self.scale_shape(rows, cols);
        let scales = height as u64 * width as u64 * self.scale.size() as u64;
        rows as u64 * self.row_bytes(cols) as u64 + scales + if self.scale.has_global() { 4 } else { 0 }
    }
}

impl fmt::Display for FloatScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [(Self::NVFP4, "nvfp4"), (Self::MXFP4, "mxfp4"), (Self::MXFP8, "mxfp8")];
        if let Some((_, name)) = named.iter().find(|(scheme, _)| scheme == self) {
            return f.pad(name);
        }
        let mut text = String::from(match self.element {
            FloatElement::E4M3 => "fp8",
            FloatElement::E5M2 => "fp8-e5m2",
            FloatElement::E2M1 => "fp4",
        });
        match self.grid {
            ScaleGrid::Channel => {}
            ScaleGrid::Tensor => text += " tensor",
            ScaleGrid::Group(size) => text += &format!(" g{size}"),
            ScaleGrid::Block([height, width]) if height == width => text += &format!(" block{height}"),
            ScaleGrid::Block([height, width]) => text += &format!(" block{height}x{width}"),
        }
        text += match self.scale {
            ScaleFormat::F32 => "",
            ScaleFormat::F16 => " f16",
            ScaleFormat::BF16 => " bf16",
            ScaleFormat::E4M3 => " e4m3",
            ScaleFormat::E8M0 => " e8m0",
        };
        f.pad(&text)
    }
}

impl FromStr for FloatScheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            let message =
                "none of these; expected for example \"fp8\", \"fp8 block128 bf16\", \"nvfp4\" or \"mxfp4\"";
            Error::invalid(format!("float scheme \"{text}\""), message)
        })
    }
}

fn parse(text: &str) -> Option<FloatScheme> {
    let mut words = text.split_whitespace().peekable();
    let element = match words.next()? {
        "nvfp4" => return words.next().is_none().then_some(FloatScheme::NVFP4),
        "mxfp4" => return words.next().is_none().then_some(FloatScheme::MXFP4),
        "mxfp8" => return words.next().is_none().then_some(FloatScheme::MXFP8),
        "fp8" => FloatElement::E4M3,
        "fp8-e5m2" => FloatElement::E5M2,
        "fp4" => FloatElement::E2M1,
        _ => return None,
    };
    let grid = words.peek().and_then(|word| parse_grid(word));
    if grid.is_some() {
        words.next();
    }
    let scale = match words.next() {
        None => ScaleFormat::F32,
        Some("f16") => ScaleFormat::F16,
        Some("bf16") => ScaleFormat::BF16,
        Some("e4m3") => ScaleFormat::E4M3,
        Some("e8m0") => ScaleFormat::E8M0,
        Some(_) => return None,
    };
    let grid = grid.unwrap_or(ScaleGrid::Channel);
    words.next().is_none().then_some(FloatScheme { element, grid, scale })
}

fn parse_grid(word: &str) -> Option<ScaleGrid> {
    let size = |text: &str| text.parse::<usize>().ok().filter(|&size| size > 0);
    if word == "tensor" {
        return Some(ScaleGrid::Tensor);
    }
    if let Some(block) = word.strip_prefix("block") {
        let (height, width) = block.split_once('x').unwrap_or((block, block));
        return Some(ScaleGrid::Block([size(height)?, size(width)?]));
    }
    word.strip_prefix('g').and_then(size).map(ScaleGrid::Group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let texts = [
            "fp8",
            "fp8 bf16",
            "fp8 tensor",
            "fp8 block128",
            "fp8 block64x32 f16",
            "fp8 block128 e8m0",
            "fp8-e5m2 g64",
            "fp4 g16 e8m0",
            "nvfp4",
            "mxfp4",
            "mxfp8",
        ];
        for text in texts {
            assert_eq!(text.parse::<FloatScheme>().unwrap().to_string(), text);
        }
        for text in ["", "fp9", "fp8 g0", "fp8 block", "fp8 blockx8", "nvfp4 g16", "fp8 bf16 tensor", "int4"]
        {
            assert!(text.parse::<FloatScheme>().is_err(), "{text}");
        }
        assert_eq!(format!("{:>6}|", FloatScheme::NVFP4), " nvfp4|");
    }

    #[test]
    fn sizes_by_hand() {
        // 32 codes of 4 bits a row, and two scales of a byte; NVFP4 four bytes more.
        assert_eq!(FloatScheme::NVFP4.bytes(3, 32), 3 * (16 + 2) + 4);
        assert_eq!(FloatScheme::MXFP4.bytes(3, 64), 3 * (32 + 2));
        assert_eq!(FloatScheme::MXFP8.bytes(3, 64), 3 * (64 + 2));
        assert_eq!(FloatScheme::fp8(ScaleFormat::BF16).bytes(3, 7), 3 * (7 + 2));
        // 130 x 200 in blocks of 128: two by two scales.
        assert_eq!(FloatScheme::fp8_block128(ScaleFormat::F32).bytes(130, 200), 130 * 200 + 4 * 4);
    }

    #[test]
    fn impossible_matrices_are_refused() {
        assert!(FloatScheme::NVFP4.validate(3, 48).is_ok());
        assert!(FloatScheme::NVFP4.validate(3, 40).unwrap_err().to_string().contains("no multiple"));
        let grid = |grid| FloatScheme { grid, ..FloatScheme::NVFP4 };
        assert!(grid(ScaleGrid::Group(0)).validate(1, 4).is_err());
        assert!(grid(ScaleGrid::Block([0, 4])).validate(1, 4).is_err());
        assert!(grid(ScaleGrid::Channel).validate(1, 3).unwrap_err().to_string().contains("whole bytes"));
        assert!(grid(ScaleGrid::Channel).validate(usize::MAX, 2).is_err());
    }

    #[test]
    fn scales_round_to_their_type() {
        assert_eq!(ScaleFormat::E8M0.round(1.99), 1.0);
        assert_eq!(ScaleFormat::E8M0.round(0.0), 2f32.powi(-127));
        assert_eq!(ScaleFormat::E4M3.round(1.06), 1.0);
        assert_eq!(ScaleFormat::BF16.round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(ScaleFormat::F16.round(1e6), f32::INFINITY);
    }
}
