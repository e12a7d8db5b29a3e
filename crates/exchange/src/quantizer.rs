//! Max-min quantizer: buckets of consecutive numbers, each with its own uniform grid from its least to its largest.
//!
//! Source: QSGD (Alistarh et al., arXiv:1610.02132) in the max-min form of IST-DASLab/torch_cgx
//! (`src/common/compressor.cc`): `unit = (max - min) / (2^bits - 1)`,
//! `code = min(floor((x - min) / unit + rho), 2^bits - 1)`, decoded as `min + unit * code`. With `rho = 1/2` this is
//! rounding to nearest, with `rho` uniform in `[0, 1)` it is unbiased.
//!
//! Payload: `(unit, min)` of all buckets as `f32`, then all codes, `bits` each, the first in the lowest bits;
//! little-endian.

use trimtab_math::random::Stream;

use crate::error::{Error, Result};

/// Numbers that share one grid.
pub const BUCKET: usize = 512;

/// Widths of codes that the quantizer knows.
pub const WIDTHS: std::ops::RangeInclusive<usize> = 1..=8;

/// How a number between two codes is rounded.
#[derive(Debug)]
pub enum Rounding<'a> {
    /// To the nearer code; half goes up.
    Nearest,
    /// Up with a probability equal to the distance from the lower code.
    Stochastic(&'a mut Stream),
}

/// Bytes of the payload of `len` numbers: codes, and 8 bytes a bucket.
pub fn payload_len(len: usize, bits: usize) -> usize {
    (len * bits).div_ceil(8) + 8 * len.div_ceil(BUCKET)
}

/// Appends the payload of `values` (finite) to `bytes`.
///
/// # Errors
/// A width outside [`WIDTHS`].
pub fn encode(values: &[f32], bits: usize, mut rounding: Rounding<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    check_width(bits)?;
    let last = (1u32 << bits) - 1;
    let grids: Vec<(f32, f32)> = values.chunks(BUCKET).map(|bucket| grid(bucket, last)).collect();
    bytes.extend(grids.iter().flat_map(|(unit, min)| [unit.to_le_bytes(), min.to_le_bytes()]).flatten());
    let mut packer = Packer { bytes, pending: 0, n_pending: 0 };
    for (bucket, &(unit, min)) in values.chunks(BUCKET).zip(&grids) {
        for &x in bucket {
            let rho = match &mut rounding {
                Rounding::Nearest => 0.5,
                Rounding::Stochastic(stream) => stream.uniform(),
            };
            let code = if unit == 0.0 {
                0
            } else {
                let place = (f64::from(x) - f64::from(min)) / f64::from(unit);
                ((place + rho) as u32).min(last) // the place is not negative: floor
            };
            packer.push(code, bits);
        }
    }
    packer.finish();
    Ok(())
}

/// Unit and least value of a bucket. A unit too small for `f32` is 0: all of the bucket decodes to its least value.
fn grid(bucket: &[f32], last: u32) -> (f32, f32) {
    let (min, max) =
        bucket.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    let unit = ((f64::from(max) - f64::from(min)) / f64::from(last)) as f32;
    if unit < f32::MIN_POSITIVE { (0.0, min) } else { (unit, min) }
}

/// The `len` numbers of the payload at the start of `bytes`, and what follows it.
///
/// # Errors
/// A width outside [`WIDTHS`]; fewer bytes than `len` numbers take; a grid that is not finite. `name` is the tensor that
/// the message names.
pub fn decode<'b>(bytes: &'b [u8], len: usize, bits: usize, name: &str) -> Result<(Vec<f32>, &'b [u8])> {
    check_width(bits)?;
    let bad = |found: String, expected: String| Error::Payload {
        what: "qsgd",
        name: name.to_string(),
        found,
        expected,
    };
    let expected = payload_len(len, bits);
    if bytes.len() < expected {
        return Err(bad(format!("{} bytes", bytes.len()), format!("at least {expected}")));
    }
    let (own, rest) = bytes.split_at(expected);
    let (grids, codes) = own.split_at(8 * len.div_ceil(BUCKET));
    let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    if let Some(at) = grids.chunks_exact(4).position(|b| !number(b).is_finite()) {
        let found = format!("{} in bucket {}", number(&grids[4 * at..]), at / 2);
        return Err(bad(found, "finite numbers".to_string()));
    }
    let mask = (1u32 << bits) - 1;
    let value = |i: usize| {
        let grid = &grids[i / BUCKET * 8..];
        let (unit, min) = (number(grid), number(&grid[4..]));
        let bit = i * bits;
        let low = u32::from(codes[bit / 8]);
        let high = codes.get(bit / 8 + 1).map_or(0, |&byte| u32::from(byte));
        let code = ((low | (high << 8)) >> (bit % 8)) & mask;
        min + unit * code as f32
    };
    Ok(((0..len).map(value).collect(), rest))
}

fn check_width(bits: usize) -> Result<()> {
    if WIDTHS.contains(&bits) { Ok(()) } else { Err(Error::setting("qsgd: bits", bits, "1 to 8")) }
}

/// Writes codes into bytes from the lowest bit up.
struct Packer<'a> {
    bytes: &'a mut Vec<u8>,
    pending: u32,
    n_pending: usize,
}

impl Packer<'_> {
    fn push(&mut self, code: u32, bits: usize) {
        self.pending |= code << self.n_pending;
        self.n_pending += bits;
        while self.n_pending >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.n_pending -= 8;
        }
    }

    fn finish(self) {
        if self.n_pending > 0 {
            self.bytes.push(self.pending as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(values: &[f32], bits: usize, rounding: Rounding<'_>) -> Vec<f32> {
        let mut bytes = Vec::new();
        encode(values, bits, rounding, &mut bytes).unwrap();
        assert_eq!(bytes.len(), payload_len(values.len(), bits));
        bytes.push(77);
        let (decoded, rest) = decode(&bytes, values.len(), bits, "w").unwrap();
        assert_eq!(rest, [77]);
        decoded
    }

    #[test]
    fn worked_by_hand() {
        // Two bits from -1 to 2: unit 1. 0.4 goes to 0, 0.5 up to 1.
        let decoded = round_trip(&[-1.0, 0.4, 0.5, 2.0], 2, Rounding::Nearest);
        assert_eq!(decoded, [-1.0, 0.0, 1.0, 2.0]);
        let mut bytes = Vec::new();
        encode(&[-1.0, 0.4, 0.5, 2.0], 2, Rounding::Nearest, &mut bytes).unwrap();
        assert_eq!(bytes[8..], [0b11_10_01_00]); // the first code lowest
    }

    #[test]
    fn every_width_and_length_keeps_half_a_unit() {
        for bits in WIDTHS {
            for len in [0, 1, 2, 7, 511, 512, 513, 1500] {
                let mut stream = Stream::new(3, "test/quantizer", bits as u64, len as u64);
                let values: Vec<f32> = (0..len).map(|_| stream.normal() as f32).collect();
                let nearest = round_trip(&values, bits, Rounding::Nearest);
                let random = round_trip(&values, bits, Rounding::Stochastic(&mut stream));
                for (b, bucket) in values.chunks(BUCKET).enumerate() {
                    let (unit, _) = grid(bucket, (1 << bits) - 1);
                    for (i, x) in bucket.iter().enumerate() {
                        assert!((x - nearest[b * BUCKET + i]).abs() <= unit * 0.5001);
                        assert!((x - random[b * BUCKET + i]).abs() <= unit * 1.0001);
                    }
                }
            }
        }
    }

    #[test]
    fn constant_tiny_and_huge_buckets() {
        assert_eq!(round_trip(&[0.3; 600], 4, Rounding::Nearest), [0.3; 600]);
        assert_eq!(round_trip(&[1e-45, 0.0], 8, Rounding::Nearest), [0.0, 0.0]);
        let huge = [-1e38, 1e38];
        assert_eq!(round_trip(&huge, 1, Rounding::Nearest), huge);
        assert!(encode(&[1.0], 9, Rounding::Nearest, &mut Vec::new()).is_err());
        assert!(decode(&[0; 8], 1, 4, "w").unwrap_err().to_string().contains("at least 9"));
    }

    /// 10,000 draws of each of 16 numbers at 8 bits. |z| < 4.5 for all: false alarms below 1.1e-4.
    #[test]
    fn stochastic_rounding_is_unbiased() {
        let values: Vec<f32> = (0..16).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let n = 10_000;
        let worst_z = |shift: f32| {
            let (mut sum, mut squares) = ([0.0f64; 16], [0.0f64; 16]);
            let mut stream = Stream::new(1, "test/unbiased", 0, 0);
            for _ in 0..n {
                let decoded = round_trip(&values, 8, Rounding::Stochastic(&mut stream));
                for (i, (d, x)) in decoded.iter().zip(&values).enumerate() {
                    let error = f64::from(d - (x + shift));
                    sum[i] += error;
                    squares[i] += error * error;
                }
            }
            let z = |i: usize| {
                let mean = sum[i] / n as f64;
                let sd = (squares[i] / n as f64 - mean * mean).sqrt();
                // The ends of the bucket are on the grid: no spread, and no error but that of f32.
                if sd < 1e-6 && mean.abs() < 1e-6 {
                    0.0
                } else {
                    mean.abs() / (sd / (n as f64).sqrt()).max(1e-12)
                }
            };
            (0..16).map(z).fold(0.0, f64::max)
        };
        assert!(worst_z(0.0) < 4.5, "{}", worst_z(0.0));
        // The control: a bias of a twentieth of the unit (6 / 255) is seen.
        assert!(worst_z(6.0 / 255.0 / 20.0) > 4.5);
    }
}
