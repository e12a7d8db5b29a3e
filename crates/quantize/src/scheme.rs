//! The storage scheme of a quantized weight.

use serde::{Deserialize, Serialize};

use crate::affine::{Grid, ScaleDtype, SymmetricScale};
use crate::error::{Error, Result};

/// Bits, group size and symmetry of a weight quantized by rows or by groups of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightScheme {
    /// Bits of a code, 1 to 8 (symmetric: 2 to 8).
    pub bits: u8,
    /// Consecutive inputs that share a step; the last group of a row may be short. `None`: the whole row.
    pub group_size: Option<usize>,
    /// Zero fixed in the middle of the codes, and not stored.
    pub symmetric: bool,
    /// The zero is a real number of the type of the steps, and stored ([`crate::affine::RealZero`]); not with `symmetric`.
    pub real_zero: bool,
    /// Symmetric only: the lowest code is never used.
    pub narrow: bool,
    /// Symmetric only: how the step follows from the range.
    pub symmetric_scale: SymmetricScale,
    /// Storage type of the steps.
    pub scale_dtype: ScaleDtype,
}

impl Default for WeightScheme {
    fn default() -> Self {
        let grid = Grid::default();
        WeightScheme {
            bits: grid.bits,
            group_size: Some(128),
            symmetric: grid.symmetric,
            real_zero: false,
            narrow: grid.narrow,
            symmetric_scale: grid.symmetric_scale,
            scale_dtype: grid.scale_dtype,
        }
    }
}

impl WeightScheme {
    /// Checks bits, flags and group size.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        if self.group_size == Some(0) {
            let what = "weight scheme: group_size";
            return Err(Error::Setting {
                what,
                expected: "at least 1, or none for a row",
                found: "0".into(),
            });
        }
        if self.real_zero && self.symmetric {
            let found = "true with a symmetric grid".to_string();
            return Err(Error::Setting {
                what: "weight scheme: real_zero",
                expected: "false, or asymmetric",
                found,
            });
        }
        self.grid().check()
    }

    /// The codes of one group.
    pub fn grid(&self) -> Grid {
        Grid {
            bits: self.bits,
            symmetric: self.symmetric,
            narrow: self.narrow,
            symmetric_scale: self.symmetric_scale,
            scale_dtype: self.scale_dtype,
        }
    }

    /// Columns of a full group in rows of length `d_input`, at least 1.
    pub fn group_width(&self, d_input: usize) -> usize {
        self.group_size.unwrap_or(d_input).clamp(1, d_input.max(1))
    }

    /// Groups in a row of length `d_input`.
    pub fn groups(&self, d_input: usize) -> usize {
        d_input.div_ceil(self.group_width(d_input))
    }

    /// Stored bits of a weight `[d_output, d_input]`: codes, steps and, unless symmetric, zeros of the width of a code or,
    /// if they are real, of a step.
    pub fn stored_bits(&self, d_output: usize, d_input: usize) -> usize {
        let zero = match (self.symmetric, self.real_zero) {
            (true, _) => 0,
            (false, false) => usize::from(self.bits),
            (false, true) => self.scale_dtype.bits(),
        };
        let group = self.scale_dtype.bits() + zero;
        d_output * (d_input * usize::from(self.bits) + self.groups(d_input) * group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_groups_and_bits() {
        let scheme = WeightScheme::default();
        assert_eq!(
            (scheme.groups(256), scheme.groups(257), scheme.groups(3), scheme.groups(0)),
            (2, 3, 1, 0)
        );
        // 4 + (16 + 4) / 128 bits a weight.
        assert_eq!(scheme.stored_bits(10, 256), 10 * (256 * 4 + 2 * 20));
        let row = WeightScheme { group_size: None, symmetric: true, ..scheme };
        assert_eq!((row.groups(256), row.group_width(256)), (1, 256));
        assert_eq!(row.stored_bits(10, 256), 10 * (256 * 4 + 16));
        let real = WeightScheme { group_size: None, real_zero: true, ..scheme };
        assert_eq!(real.stored_bits(10, 256), 10 * (256 * 4 + 32));
        assert!(WeightScheme { symmetric: true, ..real }.check().is_err() && real.check().is_ok());
    }

    #[test]
    fn reads_partial_settings_and_rejects_unknown_ones() {
        let scheme: WeightScheme = serde_json::from_str(r#"{"bits": 3, "scale_dtype": "bf16"}"#).unwrap();
        assert_eq!(
            scheme,
            WeightScheme { bits: 3, scale_dtype: ScaleDtype::Bf16, ..WeightScheme::default() }
        );
        assert!(serde_json::from_str::<WeightScheme>(r#"{"bit": 3}"#).is_err());
        assert!(WeightScheme { group_size: Some(0), ..scheme }.check().is_err());
        assert!(WeightScheme { bits: 9, ..scheme }.check().is_err());
    }
}
