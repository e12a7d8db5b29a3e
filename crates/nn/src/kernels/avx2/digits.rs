//! Rows of `x` in fixed point, as the integer kernel multiplies them.

use std::arch::x86_64::*;

use super::LANES;
use crate::kernels::PackedView;

/// Digits of a fixed-point number, in base 256 and signed.
pub(super) const DIGITS: usize = 3;

/// Bytes of a block of codes.
pub(super) const BLOCK_BYTES: usize = 32;

/// Columns after which integer sums are turned into numbers at the latest: 16 products of a code and 24 bits, eight lanes
/// wide, still fit into 32 bits.
const UNIT: usize = 128;

/// How groups lie over blocks of 32 bytes, for codes of 2 or 4 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) bits: usize,
    /// Blocks of a unit, whose elements share one exponent per lane.
    pub(super) unit_blocks: usize,
    /// Units between two changes of scale.
    pub(super) scale_units: usize,
    /// Whether a block holds two groups, one in either half of the lanes.
    pub(super) split: bool,
}

impl Layout {
    /// `None` if the codes have another width or a group ends inside of a half block.
    pub(super) fn new(view: &PackedView<'_>) -> Option<Self> {
        let bits = usize::from(view.bits);
        if !matches!(bits, 2 | 4) {
            return None;
        }
        let block = 256 / bits;
        let layout =
            |unit: usize, scale_units, split| Self { bits, unit_blocks: unit / block, scale_units, split };
        if view.group_size >= view.cols {
            Some(layout(UNIT, usize::MAX, false))
        } else if view.group_size.is_multiple_of(UNIT) {
            Some(layout(UNIT, view.group_size / UNIT, false))
        } else if view.group_size.is_multiple_of(block) {
            Some(layout(block, view.group_size / block, false))
        } else if view.group_size * 2 == block {
            Some(layout(block, 1, true))
        } else {
            None
        }
    }

    /// Codes of a block.
    pub(super) fn block(self) -> usize {
        256 / self.bits
    }

    /// Codes of a byte.
    fn phases(self) -> usize {
        8 / self.bits
    }
}

/// Rows of `x`, padded with zeros to whole units. Each lane of a unit has its own exponent.
pub(super) struct Digits {
    pub(super) layout: Layout,
    /// `[n, n_units, unit_blocks, phases, DIGITS, BLOCK_BYTES]`: byte `b` at phase `p` belongs to column `b * phases + p` of
    /// its block.
    pub(super) digits: Vec<i8>,
    /// `[n, n_units, 2, LANES]`: what a fixed-point one is worth, and the sums of the fixed-point numbers.
    pub(super) lanes: Vec<f32>,
    pub(super) n_units: usize,
}

impl Digits {
    /// Splits `x` (`[n, cols]`) into digits.
    pub(super) fn new(layout: Layout, cols: usize, x: &[f32]) -> Self {
        let n = x.len() / cols;
        let unit = layout.unit_blocks * layout.block();
        let n_units = cols.div_ceil(unit);
        let unit_len = layout.unit_blocks * layout.phases() * DIGITS * BLOCK_BYTES;
        let mut digits = vec![0; n * n_units * unit_len];
        let mut lanes = vec![0.0; n * n_units * 2 * LANES];
        let rows =
            digits.chunks_exact_mut(n_units * unit_len).zip(lanes.chunks_exact_mut(n_units * 2 * LANES));
        for (x, (digits, lanes)) in x.chunks_exact(cols).zip(rows) {
            let units = digits.chunks_exact_mut(unit_len).zip(lanes.chunks_exact_mut(2 * LANES));
            for (x, (digits, lanes)) in x.chunks(unit).zip(units) {
                // SAFETY: reached only past `Isa::require`, so the processor has AVX2 and FMA.
                unsafe {
                    match layout.bits {
                        2 => split_unit::<4>(x, digits, lanes),
                        _ => split_unit::<2>(x, digits, lanes),
                    }
                }
            }
        }
        Self { layout, digits, lanes, n_units }
    }

    /// Bytes of codes that the kernel reads from the start of a row on.
    pub(super) fn row_bytes(&self) -> usize {
        self.n_units * self.layout.unit_blocks * BLOCK_BYTES
    }

    /// Units of about `cols` columns.
    pub(super) fn part(&self, cols: usize) -> usize {
        (cols / self.layout.block() / self.layout.unit_blocks).max(1)
    }
}

/// One unit. With `P` codes in a byte, a lane of a block owns `4 * P` consecutive columns.
#[target_feature(enable = "avx2,fma")]
fn split_unit<const P: usize>(x: &[f32], digits: &mut [i8], lanes: &mut [f32]) {
    let (steps, sums) = lanes.split_at_mut(LANES);
    let mut padded = [0.0f32; UNIT];
    padded[..x.len()].copy_from_slice(x);
    let mut largest = [0u32; LANES];
    for (run, x) in padded.chunks_exact(4 * P).enumerate() {
        let bits = x.iter().map(|x| x.to_bits() & 0x7FFF_FFFF).fold(0, u32::max);
        largest[run % LANES] = largest[run % LANES].max(bits);
    }
    let scales = largest.map(|largest| exponent(largest).0);
    for (step, largest) in steps.iter_mut().zip(largest) {
        *step = exponent(largest).1;
    }
    let mut fixed = [0i32; UNIT];
    let mut total = [0i32; LANES];
    for (run, (x, fixed)) in padded.chunks_exact(4 * P).zip(fixed.chunks_exact_mut(4 * P)).enumerate() {
        let scale = _mm256_set1_ps(scales[run % LANES]);
        for (x, fixed) in x.chunks_exact(8).zip(fixed.chunks_exact_mut(8)) {
            // SAFETY: both chunks hold eight elements. The conversion rounds to the nearest.
            unsafe {
                let x = _mm256_mul_ps(_mm256_loadu_ps(x.as_ptr()), scale);
                _mm256_storeu_si256(fixed.as_mut_ptr().cast(), _mm256_cvtps_epi32(x));
            }
        }
        // Wraps only where the number was not finite, and the step is a NaN.
        total[run % LANES] = fixed.iter().fold(total[run % LANES], |sum, &x| sum.wrapping_add(x));
    }
    for (sum, total) in sums.iter_mut().zip(total) {
        *sum = total as f32;
    }
    for (fixed, digits) in
        fixed.chunks_exact(BLOCK_BYTES * P).zip(digits.chunks_exact_mut(P * DIGITS * BLOCK_BYTES))
    {
        for (phase, digits) in digits.chunks_exact_mut(DIGITS * BLOCK_BYTES).enumerate() {
            for byte in 0..BLOCK_BYTES {
                // Signed digits: what the lowest byte says too little or too much goes into the next.
                let low = fixed[byte * P + phase];
                let middle = (low - i32::from(low as i8)) >> 8;
                let high = (middle - i32::from(middle as i8)) >> 8;
                digits[byte] = low as i8;
                digits[BLOCK_BYTES + byte] = middle as i8;
                digits[2 * BLOCK_BYTES + byte] = high as i8;
            }
        }
    }
}

/// The power of two that makes a number of these bits, without its sign, use 23 bits and no more than three signed
/// digits can hold (`127 * 65_536 + 127 * 256 + 127`); and its inverse. An infinity or a NaN gives 0 and a NaN.
fn exponent(bits: u32) -> (f32, f32) {
    if bits >= f32::INFINITY.to_bits() {
        return (0.0, f32::NAN);
    }
    // A mantissa above 1.98 would need the next power. Below 2^-98 the step stays at 2^-120, far from subnormals.
    let biased = ((bits + (1 << 17)) >> 23).max(29);
    (f32::from_bits((276 - biased) << 23), f32::from_bits((biased - 22) << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_of_a_lane_uses_its_digits_and_does_not_overflow_them() {
        for x in [1.0f32, 1.5, 1.98, 1.983, 1.985, 1.999_999_9, 1e-20, 3e38, f32::MAX, 7.3e-28] {
            let (scale, step) = exponent(x.to_bits());
            assert_eq!(scale * step, 1.0);
            let fixed = x * scale;
            assert!(fixed <= 8_355_711.0, "{x}: {fixed}");
            assert!(fixed >= 4_161_536.0, "{x}: {fixed}");
        }
    }

    #[test]
    fn digits_add_up_to_the_rounded_number() {
        if !crate::kernels::Isa::Avx2.is_available() {
            return;
        }
        let x: Vec<f32> = (0..300).map(|i| ((i * 7919 % 613) as f32 - 306.0) * 1.01f32.powi(i)).collect();
        for bits in [2u8, 4] {
            let view = PackedView {
                rows: 0,
                cols: 300,
                bits,
                group_size: 300,
                codes: &[],
                scales: &[],
                zeros: None,
            };
            let layout = Layout::new(&view).unwrap();
            let d = Digits::new(layout, 300, &x);
            let phases = layout.phases();
            for (i, &x) in x.iter().enumerate() {
                let (block, at) = (i / layout.block(), i % layout.block());
                let (byte, phase) = (at / phases, at % phases);
                let step = d.lanes[block / layout.unit_blocks * 2 * LANES + byte / 4];
                let digit = |k: usize| d.digits[((block * phases + phase) * DIGITS + k) * BLOCK_BYTES + byte];
                let fixed = (0..DIGITS).rev().fold(0, |sum, k| sum * 256 + i32::from(digit(k)));
                assert!((fixed as f32 * step - x).abs() <= step / 2.0, "{bits} bits, column {i}");
            }
        }
    }
}
