//! Floats of 8 and 4 bits: rounding, codes and tables.

/// A float of a few bits.
///
/// | type | bits | largest | smallest > 0 | infinities | NaN |
/// |---|---|---|---|---|---|
/// | `E4M3` ("fn", as in OCP and `torch.float8_e4m3fn`) | 8 | 448 | 2^-9 | none | `0x7f`, `0xff` |
/// | `E5M2` (`torch.float8_e5m2`) | 8 | 57344 | 2^-16 | `0x7c`, `0xfc` | above them |
/// | `E2M1` (`torch.float4_e2m1fn_x2`) | 4 | 6 | 0.5 | none | none |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatElement {
    /// One sign, four exponent, three mantissa bits; finite but for one NaN of each sign.
    E4M3,
    /// One sign, five exponent, two mantissa bits; the upper byte of an IEEE half.
    E5M2,
    /// One sign, two exponent, one mantissa bit; ±0, 0.5, 1, 1.5, 2, 3, 4, 6.
    E2M1,
}

static E4M3_VALUES: [f32; 256] = FloatElement::E4M3.build_values();
static E5M2_VALUES: [f32; 256] = FloatElement::E5M2.build_values();
static E2M1_VALUES: [f32; 256] = FloatElement::E2M1.build_values();

impl FloatElement {
    /// Every element type.
    pub const ALL: [Self; 3] = [Self::E4M3, Self::E5M2, Self::E2M1];

    /// Bits of a code.
    pub const fn bits(self) -> u8 {
        match self {
            Self::E4M3 | Self::E5M2 => 8,
            Self::E2M1 => 4,
        }
    }

    /// The largest finite number.
    pub const fn max(self) -> f32 {
        match self {
            Self::E4M3 => 448.0,
            Self::E5M2 => 57344.0,
            Self::E2M1 => 6.0,
        }
    }

    /// Mantissa bits that are stored.
    const fn mantissa(self) -> u32 {
        match self {
            Self::E4M3 => 3,
            Self::E5M2 => 2,
            Self::E2M1 => 1,
        }
    }

    /// What is added to the exponent of a normal number.
    const fn bias(self) -> u32 {
        match self {
            Self::E4M3 => 7,
            Self::E5M2 => 15,
            Self::E2M1 => 1,
        }
    }

    /// The smallest normal number, `2^(1 - bias)`.
    const fn least_normal(self) -> f32 {
        f32::from_bits((128 - self.bias()) << 23)
    }

    /// The nearest number of this type, half to even, for an `x` that is not NaN. What is too large becomes the largest.
    ///
    /// Arithmetic without branches, for vector loops. The sign of `x` stays, also where the result is 0.
    #[inline(always)]
    pub fn round(self, x: f32) -> f32 {
        let magnitude = x.abs().min(self.max());
        // The power of two at or below the number; all below the least normal one are spaced like it.
        let power = f32::from_bits(magnitude.to_bits() & 0x7f80_0000).max(self.least_normal());
        let (mantissa, power) = (self.mantissa() << 23, power.to_bits());
        let (quantum, inverse) =
            (f32::from_bits(power - mantissa), f32::from_bits((254 << 23) + mantissa - power));
        ((magnitude * inverse).round_ties_even() * quantum).copysign(x)
    }

    /// The code of a number of this type, as [`Self::round`] gives it.
    #[inline(always)]
    pub fn code_of(self, value: f32) -> u8 {
        let magnitude = value.abs();
        let normal = (magnitude.to_bits() >> (23 - self.mantissa()))
            .wrapping_sub((127 - self.bias()) << self.mantissa());
        let subnormal = (magnitude / self.least_normal() * (1 << self.mantissa()) as f32) as u32;
        let code = if magnitude < self.least_normal() { subnormal } else { normal };
        (code | (value.to_bits() >> 31) << (self.bits() - 1)) as u8
    }

    /// The code of the nearest number: half to even, what is too large becomes the largest, as compressed-tensors clamps
    /// before it casts. NaN becomes NaN where the type has one, else 0.
    pub fn encode(self, x: f32) -> u8 {
        if x.is_nan() {
            return if self == Self::E2M1 { 0 } else { 0x7f | (x.to_bits() >> 24) as u8 & 0x80 };
        }
        self.code_of(self.round(x))
    }

    /// The number of a code; bits above [`Self::bits`] do not count.
    #[inline(always)]
    pub fn decode(self, code: u8) -> f32 {
        self.values()[usize::from(code)]
    }

    /// The numbers of all bytes; a 4-bit code is repeated through the upper bits.
    pub fn values(self) -> &'static [f32; 256] {
        match self {
            Self::E4M3 => &E4M3_VALUES,
            Self::E5M2 => &E5M2_VALUES,
            Self::E2M1 => &E2M1_VALUES,
        }
    }

    /// Whether there are codes of infinities or NaN among packed codes.
    pub(super) fn any_special(self, codes: &[u8]) -> bool {
        let least = match self {
            Self::E4M3 => 0x7f,
            Self::E5M2 => 0x7c,
            Self::E2M1 => return false,
        };
        // Chunks without an exit are vector loops.
        codes.chunks(4096).any(|chunk| chunk.iter().fold(false, |any, code| any | (code & 0x7f >= least)))
    }

    const fn build_values(self) -> [f32; 256] {
        let mut values = [0.0; 256];
        let mut byte = 0;
        while byte < 256 {
            values[byte] = self.value_of(byte as u32);
            byte += 1;
        }
        values
    }

    const fn value_of(self, code: u32) -> f32 {
        let (bits, mantissa_bits) = (self.bits() as u32, self.mantissa());
        let sign = if code >> (bits - 1) & 1 == 1 { -1.0 } else { 1.0 };
        let code = code & ((1 << (bits - 1)) - 1);
        let (exponent, mantissa) = (code >> mantissa_bits, code & ((1 << mantissa_bits) - 1));
        let special = match self {
            Self::E4M3 => code == 0x7f,
            Self::E5M2 => exponent == 31,
            Self::E2M1 => false,
        };
        if special {
            let infinite = matches!(self, Self::E5M2) && mantissa == 0;
            return if infinite { sign * f32::INFINITY } else { f32::NAN };
        }
        let quantum = self.least_normal() / (1 << mantissa_bits) as f32;
        if exponent == 0 {
            return sign * mantissa as f32 * quantum;
        }
        let scaled = ((1 << mantissa_bits) + mantissa) as f32 * quantum;
        sign * scaled * f32::from_bits((126 + exponent) << 23)
    }
}

/// The scale of an E8M0 code, `2^(code - 127)`; 255 is NaN.
pub const fn decode_e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// The E8M0 code of `2^exponent`, as near to it as codes go (`-127..=127`).
pub const fn encode_e8m0(exponent: i32) -> u8 {
    let clamped = if exponent < -127 {
        -127
    } else if exponent > 127 {
        127
    } else {
        exponent
    };
    (clamped + 127) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted finite numbers with their codes, positive zero included, negative zero not.
    fn finite(element: FloatElement) -> Vec<(f32, u8)> {
        let codes = 0..=u8::MAX >> (8 - element.bits());
        let mut all: Vec<(f32, u8)> = codes.map(|code| (element.decode(code), code)).collect();
        all.retain(|(value, code)| value.is_finite() && (*value != 0.0 || *code == 0));
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    }

    #[test]
    fn known_numbers() {
        let [e4m3, e5m2, e2m1] = FloatElement::ALL;
        assert_eq!(
            [0x00, 0x01, 0x08, 0x38, 0x7e].map(|c| e4m3.decode(c)),
            [0.0, 1.0 / 512.0, 1.0 / 64.0, 1.0, 448.0]
        );
        assert!(e4m3.decode(0x7f).is_nan() && e4m3.decode(0xff).is_nan());
        assert_eq!(
            [0x01, 0x04, 0x3c, 0x7b].map(|c| e5m2.decode(c)),
            [2f32.powi(-16), 2f32.powi(-14), 1.0, 57344.0]
        );
        assert_eq!((e5m2.decode(0x7c), e5m2.decode(0xfc)), (f32::INFINITY, f32::NEG_INFINITY));
        let known = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|c| e2m1.decode(c)), known);
        assert_eq!([8, 9, 10, 11, 12, 13, 14, 15].map(|c| e2m1.decode(c)), known.map(|x: f32| -x));
        assert_eq!(
            [0, 1, 127, 254].map(decode_e8m0),
            [2f32.powi(-127), 2f32.powi(-126), 1.0, 2f32.powi(127)]
        );
        assert!(decode_e8m0(255).is_nan());
        assert_eq!([-200, -127, 0, 127, 200].map(encode_e8m0), [0, 0, 127, 254, 254]);
    }

    #[test]
    fn every_code_comes_back() {
        for element in FloatElement::ALL {
            for code in 0..=u8::MAX >> (8 - element.bits()) {
                let value = element.decode(code);
                assert_eq!(element.any_special(&[0, code]), !value.is_finite(), "{element:?} {code}");
                if value.is_finite() {
                    assert_eq!(element.encode(value), code, "{element:?} {value}");
                    assert_eq!(element.round(value).to_bits(), value.to_bits());
                }
            }
        }
    }

    #[test]
    fn the_nearest_number_is_found_and_ties_go_to_even() {
        for element in FloatElement::ALL {
            let all = finite(element);
            for pair in all.windows(2) {
                let ((low, low_code), (high, high_code)) = (pair[0], pair[1]);
                let middle = (low + high) / 2.0;
                let even = if low_code % 2 == 0 { low } else { high };
                // Between two zeros of different sign there is no middle.
                assert_ne!(low_code % 2, high_code % 2, "{element:?}: neighbours differ in the last bit");
                assert_eq!(element.round(middle), even, "{element:?} {middle}");
                assert_eq!(element.round(middle.next_down()), low, "{element:?} below {middle}");
                assert_eq!(element.round(middle.next_up()), high, "{element:?} above {middle}");
            }
            assert_eq!(element.round(f32::INFINITY), element.max());
            assert_eq!(element.decode(element.encode(-1e30)), -element.max());
            assert_eq!(element.round(f32::from_bits(1)), 0.0);
        }
    }

    #[test]
    fn signs_and_nan() {
        for element in FloatElement::ALL {
            let sign = 1u8 << (element.bits() - 1);
            assert_eq!((element.encode(-0.0), element.encode(-1e-9), element.encode(1e-9)), (sign, sign, 0));
        }
        assert_eq!(FloatElement::E4M3.encode(f32::NAN), 0x7f);
        assert_eq!(FloatElement::E5M2.encode(-f32::NAN), 0xff);
        assert_eq!(FloatElement::E2M1.encode(f32::NAN), 0);
    }
}
