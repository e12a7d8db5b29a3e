//! The affine quantizer of one slice: a few integer codes, a step and a zero.
//!
//! Codes are unsigned inside, `0 ..= 2^b − 1`, and mean `x̂ = s·(q − z)` with a step `s > 0` and an integer zero `z`
//! ([`Affine`]), or `x̂ = s·q + m` with a real offset ([`RealAffine`]; around the middle code, as it is stored, [`RealZero`]). Signed codes are `q − 2^(b−1)`. Rounding is half to even.
//! The range always contains 0, so 0 is represented exactly. Steps are rounded to their storage type *before* codes are
//! chosen: what is simulated is what is packed.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How steps are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleDtype {
    /// Single precision.
    F32,
    /// Half precision.
    #[default]
    F16,
    /// Brain floating point.
    Bf16,
}

impl ScaleDtype {
    /// Rounds a positive step to this type, up to its smallest positive value at least. Too large a step gives infinity.
    pub fn round(self, step: f32) -> f32 {
        match self {
            ScaleDtype::F32 => step.max(f32::from_bits(1)),
            ScaleDtype::F16 => f16::from_f32(step).to_f32().max(f16::from_bits(1).to_f32()),
            ScaleDtype::Bf16 => bf16::from_f32(step).to_f32().max(bf16::from_bits(1).to_f32()),
        }
    }

    /// Rounds any number to this type. Too large a one gives infinity.
    pub fn round_signed(self, x: f32) -> f32 {
        match self {
            ScaleDtype::F32 => x,
            ScaleDtype::F16 => f16::from_f32(x).to_f32(),
            ScaleDtype::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    /// Stored bits.
    pub fn bits(self) -> usize {
        match self {
            ScaleDtype::F32 => 32,
            ScaleDtype::F16 | ScaleDtype::Bf16 => 16,
        }
    }
}

/// How the step of a symmetric grid follows from the range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SymmetricScale {
    /// `absmax / (2^(b−1) − 1)`: both ends of the range are codes; the lowest code is spare.
    #[default]
    EndPoint,
    /// `2·absmax / (2^b − 1)`, the rule of compressed-tensors: all codes are used, the positive end is clipped by half a step.
    CompressedTensors,
    /// The rule of the GPTQ reference program: as [`CompressedTensors`](Self::CompressedTensors), but a slice without negative
    /// values gets `max / (2^b − 1)` although half its codes stay negative.
    Gptq,
}

/// The codes that a slice may use and the rules by which its step and zero are formed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grid {
    /// Bits of a code, 1 to 8 (symmetric: 2 to 8).
    pub bits: u8,
    /// Zero fixed at `2^(b−1)`.
    pub symmetric: bool,
    /// Symmetric only: the lowest code is never used, so that codes are symmetric too.
    pub narrow: bool,
    /// Symmetric only: the step.
    pub symmetric_scale: SymmetricScale,
    /// Storage type of the step.
    pub scale_dtype: ScaleDtype,
}

impl Default for Grid {
    fn default() -> Self {
        Grid {
            bits: 4,
            symmetric: false,
            narrow: false,
            symmetric_scale: SymmetricScale::default(),
            scale_dtype: ScaleDtype::default(),
        }
    }
}

impl Grid {
    /// Checks bits and flags.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        let least = if self.symmetric { 2 } else { 1 };
        if !(least..=8).contains(&self.bits) {
            let expected = if self.symmetric { "2 to 8 (symmetric)" } else { "1 to 8" };
            return Err(Error::Setting { what: "grid: bits", expected, found: self.bits.to_string() });
        }
        if self.narrow && !self.symmetric {
            let found = "narrow with an asymmetric grid".to_string();
            return Err(Error::Setting { what: "grid: narrow", expected: "false, or symmetric", found });
        }
        Ok(())
    }

    /// Lowest unsigned code in use.
    pub fn lowest(&self) -> u8 {
        u8::from(self.narrow)
    }

    /// Highest unsigned code, `2^b − 1`.
    pub fn highest(&self) -> u8 {
        ((1u32 << self.bits) - 1) as u8
    }

    /// Zero of a symmetric grid, `2^(b−1)`.
    pub fn middle(&self) -> u8 {
        1 << (self.bits - 1)
    }

    /// Step and zero for values between `low` and `high`. The range is extended to contain 0; a range of 0 alone becomes
    /// `[−1, 1]`.
    pub fn affine(&self, low: f32, high: f32) -> Affine {
        let (mut low, mut high) = (low.min(0.0), high.max(0.0));
        if low == 0.0 && high == 0.0 {
            (low, high) = (-1.0, 1.0);
        }
        let steps = f32::from(self.highest());
        if self.symmetric {
            let absmax = high.max(-low);
            let step = match self.symmetric_scale {
                SymmetricScale::EndPoint => absmax / f32::from(self.middle() - 1),
                SymmetricScale::Gptq if low == 0.0 => high / steps,
                SymmetricScale::CompressedTensors | SymmetricScale::Gptq => absmax / (0.5 * steps),
            };
            return Affine { scale: self.scale_dtype.round(step), zero: self.middle() };
        }
        let scale = self.scale_dtype.round((high - low) / steps);
        let zero = (-low / scale).round_ties_even().clamp(0.0, steps) as u8;
        Affine { scale, zero }
    }
}

/// Step and integer zero of one slice: `x̂ = scale·(q − zero)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Step, > 0, already a value of its storage type.
    pub scale: f32,
    /// The unsigned code of 0.
    pub zero: u8,
}

impl Affine {
    /// The code of `x`.
    pub fn code(&self, x: f32, grid: &Grid) -> u8 {
        let (low, high) = (f32::from(grid.lowest()), f32::from(grid.highest()));
        nearest_code(x, self.scale, f32::from(self.zero), low, high) as u8
    }

    /// The value of a code.
    pub fn decode(&self, code: u8) -> f32 {
        value_of_code(f32::from(code), self.scale, f32::from(self.zero))
    }

    /// The same quantizer with a real offset, `m = −scale·zero`.
    pub fn to_real(&self) -> RealAffine {
        RealAffine { scale: self.scale, offset: -self.scale * f32::from(self.zero) }
    }
}

/// `x.round_ties_even()` for what is clipped to codes afterwards: exact up to 2²², and beyond it on the same side of all codes.
/// Unlike that, no call of a function where the target has no instruction for it, so that loops become vectors.
#[inline(always)]
fn nearest_integer(x: f32) -> f32 {
    // From 2^23 to 2^24 floats are the integers.
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// `clip(⟨x / s⟩ + z)`: the integer-zero quantizer on floats, for vector loops.
#[inline(always)]
pub(crate) fn nearest_code(x: f32, scale: f32, zero: f32, lowest: f32, highest: f32) -> f32 {
    (nearest_integer(x / scale) + zero).max(lowest).min(highest)
}

/// `s·(q − z)`.
#[inline(always)]
pub(crate) fn value_of_code(code: f32, scale: f32, zero: f32) -> f32 {
    scale * (code - zero)
}

/// Step and real offset of one slice: `x̂ = scale·q + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RealAffine {
    /// Step, > 0.
    pub scale: f32,
    /// Value of code 0.
    pub offset: f32,
}

impl RealAffine {
    /// The code of `x`: `clip(⟨(x − m) / s⟩)`.
    pub fn code(&self, x: f32, grid: &Grid) -> u8 {
        let (low, high) = (f32::from(grid.lowest()), f32::from(grid.highest()));
        ((x - self.offset) / self.scale).round_ties_even().max(low).min(high) as u8
    }

    /// The value of a code.
    pub fn decode(&self, code: u8) -> f32 {
        self.scale * f32::from(code) + self.offset
    }

    /// The integer-zero quantizer with the same step and the nearest zero among the codes. Values move by half a step at
    /// most if the offset lies within them.
    pub fn to_integer_zero(&self, grid: &Grid) -> Affine {
        let zero = (-self.offset / self.scale).round_ties_even();
        Affine { scale: self.scale, zero: zero.clamp(0.0, f32::from(grid.highest())) as u8 }
    }
}

/// Step and real zero of one slice, as they are stored: `x̂ = scale·v + zero` with the signed code `v = q − 2^(b−1)`. A step
/// may be negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RealZero {
    /// Step, a value of its storage type.
    pub scale: f32,
    /// What the middle code stands for, a value of the same type.
    pub zero: f32,
}

impl RealZero {
    /// The quantizer whose lowest and highest code stand for both ends of a range, which is extended to contain 0. A range of 0
    /// alone gets the step 1. On a symmetric grid, the zero is 0 and the step follows its rule.
    pub fn of_range(low: f32, high: f32, grid: &Grid) -> RealZero {
        let (low, high) = (low.min(0.0), high.max(0.0));
        if low == 0.0 && high == 0.0 {
            return RealZero { scale: 1.0, zero: 0.0 };
        }
        if grid.symmetric {
            return RealZero { scale: grid.affine(low, high).scale, zero: 0.0 };
        }
        let scale = grid.scale_dtype.round((high - low) / f32::from(grid.highest()));
        RealZero { scale, zero: grid.scale_dtype.round_signed(low + scale * f32::from(grid.middle())) }
    }

    /// The nearest code of `x`, and the value that it stands for.
    pub fn nearest(&self, x: f32, grid: &Grid) -> (u8, f32) {
        let middle = f32::from(grid.middle());
        let (low, high) = (f32::from(grid.lowest()) - middle, f32::from(grid.highest()) - middle);
        let v = nearest_signed(x, self.scale, self.zero, low, high);
        ((v + middle) as u8, self.scale * v + self.zero)
    }
}

/// `clip(⟨(x − z) / s⟩)`: the real-zero quantizer on floats, for vector loops.
#[inline(always)]
pub(crate) fn nearest_signed(x: f32, scale: f32, zero: f32, lowest: f32, highest: f32) -> f32 {
    nearest_integer((x - zero) / scale).max(lowest).min(highest)
}

/// Unsigned code to two's complement: `q − 2^(b−1)`.
pub fn to_signed(code: u8, bits: u8) -> i8 {
    (i16::from(code) - (1i16 << (bits - 1))) as i8
}

/// Two's complement code to unsigned: `q + 2^(b−1)`.
pub fn to_unsigned(code: i8, bits: u8) -> u8 {
    (i16::from(code) + (1i16 << (bits - 1))) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_math::random::Stream;

    fn grid(bits: u8, symmetric: bool) -> Grid {
        Grid { bits, symmetric, scale_dtype: ScaleDtype::F32, ..Grid::default() }
    }

    #[test]
    fn hand_case_asymmetric() {
        // [-1, 2] in 2 bits: step 1, zero 1; codes of -1, 0, 1, 2 are 0, 1, 2, 3.
        let (g, a) = (grid(2, false), grid(2, false).affine(-1.0, 2.0));
        assert_eq!(a, Affine { scale: 1.0, zero: 1 });
        let codes: Vec<u8> = [-9.0, -1.0, 0.0, 0.5, 1.5, 2.0, 9.0].iter().map(|&x| a.code(x, &g)).collect();
        assert_eq!(codes, [0, 0, 1, 1, 3, 3, 3]); // 0.5 and 1.5 go to even multiples of the step
        assert_eq!((0..4).map(|q| a.decode(q)).collect::<Vec<_>>(), [-1.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn symmetric_rules() {
        let step = |rule, low, high| Grid { symmetric_scale: rule, ..grid(4, true) }.affine(low, high).scale;
        assert_eq!(step(SymmetricScale::EndPoint, -14.0, 3.0), 2.0);
        assert_eq!(step(SymmetricScale::CompressedTensors, -15.0, 3.0), 2.0);
        assert_eq!(step(SymmetricScale::Gptq, -15.0, 3.0), 2.0);
        assert_eq!(step(SymmetricScale::Gptq, 0.0, 15.0), 1.0);
        assert_eq!(step(SymmetricScale::CompressedTensors, 0.0, 15.0), 2.0);
        assert_eq!(grid(4, true).affine(-1.0, 0.5).zero, 8);
        let (full, narrow) = (grid(4, true), Grid { narrow: true, ..grid(4, true) });
        let a = full.affine(-7.0, 7.0);
        assert_eq!((a.code(-9.0, &full), a.code(-9.0, &narrow)), (0, 1));
        assert_eq!((a.decode(0), a.decode(1)), (-8.0, -7.0));
    }

    #[test]
    fn integers_are_those_of_the_library() {
        for i in -4096..=4096 {
            let x = i as f32 / 8.0;
            assert_eq!(nearest_integer(x), x.round_ties_even(), "{x}");
            assert_eq!(nearest_integer(8.0 * x * 1000.125), (8.0 * x * 1000.125).round_ties_even());
        }
        // Far away it is right on average only, which is as good: all of it is beyond the last code.
        for x in [5e6f32, 3e9, 1e38, f32::INFINITY] {
            assert!(nearest_integer(x) > 4e6 && nearest_integer(-x) < -4e6);
        }
        assert!(nearest_integer(f32::NAN).is_nan());
    }

    #[test]
    fn degenerate_slices() {
        for symmetric in [false, true] {
            for bits in 2..=8 {
                let g = grid(bits, symmetric);
                let zero = g.affine(0.0, 0.0);
                assert!(zero.scale > 0.0);
                assert_eq!(zero.decode(zero.code(0.0, &g)), 0.0);
                for constant in [3.0f32, -3.0, 1e-30, 1e30] {
                    let a = g.affine(constant, constant);
                    let error = (a.decode(a.code(constant, &g)) - constant).abs();
                    assert!(error <= 1e-6 * constant.abs(), "{constant} in {bits} bits, {symmetric}");
                    assert_eq!(a.decode(a.zero), 0.0);
                }
            }
        }
    }

    #[test]
    fn error_is_half_a_step_within_the_range_and_codes_are_the_nearest() {
        let mut stream = Stream::new(0, "test/affine", 0, 0);
        for bits in 1..=8 {
            for symmetric in [false, true] {
                let g = grid(bits, symmetric);
                if g.check().is_err() {
                    continue;
                }
                let (low, high) = (-(stream.uniform() as f32), stream.uniform() as f32 * 2.0);
                let a = g.affine(low, high);
                for _ in 0..200 {
                    let x = low + (high - low) * stream.uniform() as f32;
                    let found = (a.decode(a.code(x, &g)) - x).abs();
                    let best = (0..=g.highest()).map(|q| (a.decode(q) - x).abs()).fold(f32::MAX, f32::min);
                    assert!(found <= best + 1e-6, "{bits} {symmetric} {x}");
                    // The integer zero moves both ends by up to half a step.
                    assert!(found <= if symmetric { 0.5001 } else { 1.0001 } * a.scale);
                }
            }
        }
    }

    #[test]
    fn real_and_integer_zero_are_the_same_quantizer() {
        let g = grid(4, false);
        let a = g.affine(-0.5, 1.0);
        let real = a.to_real();
        // 0.017 i + 0.0035 stays clear of the middle between two codes, where rounding errors would decide.
        for i in -40..80 {
            let x = i as f32 * 0.017 + 0.0035;
            assert_eq!(a.code(x, &g), real.code(x, &g));
        }
        for q in 0..16 {
            assert!((a.decode(q) - real.decode(q)).abs() < 1e-6);
        }
        assert_eq!(real.to_integer_zero(&g), a);
        let between = RealAffine { scale: 1.0, offset: -3.4 };
        assert_eq!(between.to_integer_zero(&g).zero, 3);
        assert!((between.decode(5) - between.to_integer_zero(&g).decode(5)).abs() > 0.3);
    }

    #[test]
    fn signed_codes_round_trip() {
        for bits in 1..=8u8 {
            for q in 0..=((1u32 << bits) - 1) as u8 {
                assert_eq!(to_unsigned(to_signed(q, bits), bits), q);
            }
        }
        assert_eq!((to_signed(0, 4), to_signed(8, 4), to_signed(255, 8)), (-8, 0, 127));
    }

    #[test]
    fn steps_are_values_of_their_storage_type() {
        // 0.1 = 1.6 / 16: the fraction rounds to 1638/1024 with 10 bits and to 205/128 with 7.
        for (dtype, exact) in [(ScaleDtype::F16, 1638.0 / 16384.0), (ScaleDtype::Bf16, 205.0 / 2048.0)] {
            let step = dtype.round(0.1);
            assert_eq!((step, dtype.round(step)), (exact, exact));
        }
        assert_eq!(ScaleDtype::F32.round(0.1), 0.1);
        assert!(ScaleDtype::F16.round(1e-20) > 0.0 && ScaleDtype::Bf16.round(0.0) > 0.0);
        assert_eq!(ScaleDtype::F16.round(1e6), f32::INFINITY);
    }

    #[test]
    fn bad_grids_are_errors() {
        assert!(grid(0, false).check().is_err() && grid(9, false).check().is_err());
        assert!(grid(1, true).check().is_err() && grid(1, false).check().is_ok());
        assert!(Grid { narrow: true, ..grid(4, false) }.check().is_err());
    }
}
