//! NormalFloat codes of 2, 3, 4 or 8 bits whose scales are quantized too (LQ-LoRA: Guo et al., ICLR 2024, arXiv 2311.12023;
//! the table of NF4 is that of QLoRA, Dettmers et al., arXiv 2305.14314).
//!
//! A code is an index into a table of quantiles of the normal distribution, with 0 among them and ±1 at the ends. Numbers run through the
//! matrix as one row-major list; `block` of them share a scale, the largest magnitude among them. Scales are codes themselves:
//! `a = c·m / (2^s − 1) + o`, with one `m` for `group` scales and one `o`, the least scale, for the matrix. The last block and
//! the last group may be short, where the published code asks for whole ones.
//!
//! No other program reads these tensors; that of bitsandbytes has another offset (the mean) and a table of its own for the scales.

use std::fmt;
use std::str::FromStr;

use trimtab_math::stats::normal_quantile;

use crate::bits;
use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::module::ModuleTensors;
use crate::tensor::{RawTensor, round_floats};

const WHAT: &str = "NormalFloat matrix";
/// Where the outermost quantiles lie.
const OFFSET: f64 = 0.967_708_3;
/// Below it, a range of scales is none.
const LEAST_RANGE: f32 = 5.960_464_5e-8;
const CODES: &str = "weight_codes";
const SCALE_CODES: &str = "weight_scale_codes";
const SCALE_RANGE: &str = "weight_scale_range";
const SCALE_LEAST: &str = "weight_scale_least";
const SHAPE: &str = "weight_shape";

/// How the numbers of a NormalFloat matrix are coded: the configuration `(b, b0, b1, B0, B1)` of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NormalFloatScheme {
    /// Bits of a code: 2, 3, 4 or 8.
    pub bits: u8,
    /// Consecutive numbers that share a scale.
    pub block: usize,
    /// Bits of the code of a scale, 2 to 8.
    pub scale_bits: u8,
    /// Consecutive scales that share a range.
    pub group: usize,
    /// Type of the ranges: F32, F16 or BF16.
    pub range_dtype: Dtype,
}

impl NormalFloatScheme {
    /// Codes of `bits` bits, a scale of 8 bits for 64 of them, a range in single precision for 256 scales.
    pub const fn new(bits: u8) -> Self {
        Self { bits, block: 64, scale_bits: 8, group: 256, range_dtype: Dtype::F32 }
    }

    /// Every configuration of the paper: 432.
    pub fn all() -> impl Iterator<Item = Self> {
        let of = move |(bits, scale_bits): (u8, u8)| {
            [Dtype::BF16, Dtype::F16, Dtype::F32].into_iter().flat_map(move |range_dtype| {
                [16, 32, 64].into_iter().flat_map(move |block| {
                    [16, 64, 256].map(|group| Self { bits, block, scale_bits, group, range_dtype })
                })
            })
        };
        [2, 3, 4, 8]
            .into_iter()
            .flat_map(|bits| [2, 3, 4, 8].map(|scale_bits| (bits, scale_bits)))
            .flat_map(of)
    }

    /// Checks that there can be such a matrix.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn validate(&self) -> Result<()> {
        let problem = match self {
            Self { bits, .. } if ![2, 3, 4, 8].contains(bits) => {
                format!("codes have 2, 3, 4 or 8 bits, not {bits}")
            }
            Self { scale_bits, .. } if !(2..=8).contains(scale_bits) => {
                format!("scales have 2 to 8 bits, not {scale_bits}")
            }
            Self { block: 0, .. } | Self { group: 0, .. } => {
                "blocks and groups have at least one number".into()
            }
            Self { range_dtype, .. } if ![Dtype::F32, Dtype::F16, Dtype::BF16].contains(range_dtype) => {
                format!("ranges of scales are F32, F16 or BF16, not {range_dtype}")
            }
            _ => return Ok(()),
        };
        Err(Error::invalid("NormalFloat scheme", problem))
    }

    /// The table: `2^(b-1) - 1` quantiles below 0, 0, and `2^(b-1)` above, scaled so that the largest is 1.
    pub fn table(&self) -> Vec<f32> {
        let half = 1usize << (self.bits - 1);
        let line = |from: f64, to: f64, n: usize, i: usize| from + (to - from) * i as f64 / (n - 1) as f64;
        let below = (0..half - 1).map(|i| line(1.0 - OFFSET, 0.5, half, i));
        let above = (0..=half).map(|i| line(0.5, OFFSET, half + 1, i));
        let largest = normal_quantile(OFFSET);
        below.chain(above).map(|p| (normal_quantile(p) / largest) as f32).collect()
    }

    fn blocks(&self, numbers: usize) -> usize {
        numbers.div_ceil(self.block)
    }

    fn groups(&self, numbers: usize) -> usize {
        self.blocks(numbers).div_ceil(self.group)
    }

    /// Bytes of a matrix on disk: codes, codes of scales, their ranges, the least scale, and the shape.
    pub fn bytes(&self, rows: usize, cols: usize) -> u64 {
        let n = rows * cols;
        let codes = bits::packed_len(n, self.bits) + bits::packed_len(self.blocks(n), self.scale_bits);
        (codes + self.range_dtype.size() * self.groups(n) + 4 + 16) as u64
    }

    /// Bits of a number in a large matrix, `b + b0/B0 + b1/(B0 B1)`.
    pub fn bits_per_weight(&self) -> f64 {
        let (block, group) = (self.block as f64, self.group as f64);
        f64::from(self.bits)
            + f64::from(self.scale_bits) / block
            + 8.0 * self.range_dtype.size() as f64 / (block * group)
    }
}

impl fmt::Display for NormalFloatScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::new(self.bits);
        let mut text = format!("nf{} b{}", self.bits, self.block);
        if self.scale_bits != usual.scale_bits {
            text += &format!(" s{}", self.scale_bits);
        }
        if self.group != usual.group {
            text += &format!(" c{}", self.group);
        }
        if self.range_dtype != usual.range_dtype {
            text += &format!(" {}", self.range_dtype.to_string().to_lowercase());
        }
        f.pad(&text)
    }
}

impl FromStr for NormalFloatScheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || -> Option<Self> {
            let mut words = text.split_whitespace();
            let mut scheme = Self::new(words.next()?.strip_prefix("nf")?.parse().ok()?);
            // Each once at most, in the order in which they are written.
            let mut last = 0;
            for word in words {
                let number =
                    |prefix: char| word.strip_prefix(prefix)?.parse::<u32>().ok().map(|n| n as usize);
                let place = if let Some(block) = number('b') {
                    scheme.block = block;
                    1
                } else if let Some(bits) = number('s') {
                    scheme.scale_bits = u8::try_from(bits).ok()?;
                    2
                } else if let Some(group) = number('c') {
                    scheme.group = group;
                    3
                } else {
                    let types = [Dtype::F32, Dtype::F16, Dtype::BF16];
                    scheme.range_dtype =
                        types.into_iter().find(|ty| ty.to_string().to_lowercase() == word)?;
                    4
                };
                if place <= last {
                    return None;
                }
                last = place;
            }
            scheme.validate().ok().map(|()| scheme)
        };
        let expected = "expected for example \"nf3 b64\" or \"nf2 b32 s4 c16 bf16\"";
        parsed()
            .ok_or_else(|| Error::invalid("NormalFloat scheme", format!("\"{text}\" is none; {expected}")))
    }
}

/// A matrix of packed NormalFloat codes, `[rows, cols]`.
#[derive(Clone, Debug)]
pub struct NormalFloatTensor {
    rows: usize,
    cols: usize,
    scheme: NormalFloatScheme,
    codes: Bytes,
    scale_codes: Bytes,
    /// `m / (2^s - 1)` by group.
    steps: Vec<f32>,
    ranges: Vec<f32>,
    least: f32,
    table: Vec<f32>,
}

impl NormalFloatTensor {
    /// Codes the numbers of `weight` `[rows, cols]`, each block by its largest magnitude.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a scheme or shape that is none, for numbers that are not finite, and for scales beyond the type of
    /// their range.
    pub fn encode(weight: &[f32], rows: usize, cols: usize, scheme: NormalFloatScheme) -> Result<Self> {
        scheme.validate()?;
        if weight.is_empty() || rows.checked_mul(cols) != Some(weight.len()) {
            let message = format!("{} numbers are no matrix of {rows} x {cols}", weight.len());
            return Err(Error::invalid(WHAT, message));
        }
        if let Some(i) = weight.iter().position(|w| !w.is_finite()) {
            return Err(Error::invalid(WHAT, format!("{} at index {i} is not finite", weight[i])));
        }
        let largest: Vec<f32> = weight
            .chunks(scheme.block)
            .map(|block| block.iter().fold(0.0f32, |m, w| m.max(w.abs())))
            .collect();
        let least = largest.iter().copied().fold(f32::INFINITY, f32::min);
        let mut ranges: Vec<f32> = largest
            .chunks(scheme.group)
            .map(|group| group.iter().fold(0.0f32, |m, a| m.max(a - least)))
            .map(|range| if range >= LEAST_RANGE { range } else { 0.0 })
            .collect();
        round_floats(&mut ranges, scheme.range_dtype)?;
        let levels = f32::from(u8::MAX >> (8 - scheme.scale_bits));
        let scale_code = |(i, a): (usize, &f32)| match ranges[i / scheme.group] {
            range if range > 0.0 => ((a - least) * levels / range).round_ties_even().clamp(0.0, levels) as u8,
            _ => 0,
        };
        let scale_codes: Vec<u8> = largest.iter().enumerate().map(scale_code).collect();
        let mut packed = vec![0; bits::packed_len(scale_codes.len(), scheme.scale_bits)];
        bits::pack(&scale_codes, scheme.scale_bits, &mut packed);
        let empty = vec![0; bits::packed_len(weight.len(), scheme.bits)];
        let coded = Self::new([rows, cols], scheme, Bytes::from(empty), Bytes::from(packed), ranges, least)?;
        let middles: Vec<f32> = coded.table.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])).collect();
        let scales = coded.scales(0, largest.len());
        let code = |(i, w): (usize, &f32)| {
            let x = w / scales[i / scheme.block].max(f32::MIN_POSITIVE);
            middles.partition_point(|&middle| middle < x) as u8
        };
        let codes: Vec<u8> = weight.iter().enumerate().map(code).collect();
        let mut packed = vec![0; bits::packed_len(codes.len(), scheme.bits)];
        bits::pack(&codes, scheme.bits, &mut packed);
        Ok(Self { codes: Bytes::from(packed), ..coded })
    }

    /// A matrix over packed codes of numbers and of scales, both as one stream of bits.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a scheme that is none, a length that does not follow from the shape, ranges or a least scale that are
    /// not finite numbers from 0 on, and ranges that their type does not hold.
    pub fn new(
        [rows, cols]: [usize; 2],
        scheme: NormalFloatScheme,
        codes: Bytes,
        scale_codes: Bytes,
        ranges: Vec<f32>,
        least: f32,
    ) -> Result<Self> {
        scheme.validate()?;
        let refuse = |message: String| Err(Error::invalid(WHAT, message));
        // No longer than there can be bits of.
        let Some(n) = rows.checked_mul(cols).filter(|&n| n > 0 && n <= usize::MAX / 8) else {
            return refuse(format!("no numbers in [{rows}, {cols}]"));
        };
        for (what, stream, count, width) in [
            ("codes", &codes, n, scheme.bits),
            ("codes of scales", &scale_codes, scheme.blocks(n), scheme.scale_bits),
        ] {
            let expected = bits::packed_len(count, width);
            if stream.len() != expected {
                return refuse(format!("{count} {what} take {expected} bytes, found {}", stream.len()));
            }
        }
        if ranges.len() != scheme.groups(n) {
            return refuse(format!("{} ranges of scales for {} groups", ranges.len(), scheme.groups(n)));
        }
        let mut rounded = ranges.clone();
        round_floats(&mut rounded, scheme.range_dtype)?;
        let sound = |x: f32| x.is_finite() && x >= 0.0;
        if let Some(i) = (0..ranges.len()).find(|&i| !sound(ranges[i]) || ranges[i] != rounded[i]) {
            let dtype = scheme.range_dtype;
            return refuse(format!(
                "range {} of group {i} is no number from 0 on of type {dtype}",
                ranges[i]
            ));
        }
        if !sound(least) {
            return refuse(format!("the least scale is {least}"));
        }
        let levels = f32::from(u8::MAX >> (8 - scheme.scale_bits));
        let steps = ranges.iter().map(|range| range / levels).collect();
        Ok(Self { rows, cols, scheme, codes, scale_codes, steps, ranges, least, table: scheme.table() })
    }

    /// `[rows, cols]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// How the numbers are coded.
    pub fn scheme(&self) -> NormalFloatScheme {
        self.scheme
    }

    /// Scales of the blocks `first .. last`.
    fn scales(&self, first: usize, last: usize) -> Vec<f32> {
        let mut scales = vec![0.0; last - first];
        unpack(&self.scale_codes, self.scheme.scale_bits, first, last, |i, code| {
            scales[i] = f32::from(code) * self.steps[(first + i) / self.scheme.group] + self.least;
        });
        scales
    }

    /// Numbers of a row, `table[code] * scale` in f32.
    ///
    /// # Panics
    /// If `row` is not below the rows, or `out` has not as many elements as there are columns.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "a row has {} numbers", self.cols);
        let (start, block) = (row * self.cols, self.scheme.block);
        let (end, first) = (start + self.cols, start / block);
        let scales = self.scales(first, (end - 1) / block + 1);
        unpack(&self.codes, self.scheme.bits, start, end, |i, code| {
            out[i] = self.table[usize::from(code)] * scales[(start + i) / block - first];
        });
    }

    /// All numbers, row-major `[rows, cols]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, numbers) in out.chunks_exact_mut(self.cols).enumerate() {
            self.dequantize_row(row, numbers);
        }
        out
    }

    /// Bytes on disk, of all tensors that make up this matrix.
    pub fn bytes(&self) -> u64 {
        self.scheme.bytes(self.rows, self.cols)
    }

    /// The tensors that hold the matrix as the weight of `module`; together they take [`Self::bytes`].
    ///
    /// # Errors
    /// None that a sound matrix meets.
    pub fn to_tensors(&self, module: &str) -> Result<Vec<(String, RawTensor)>> {
        let stream = |bytes: &Bytes| RawTensor::new(Dtype::U8, vec![bytes.len()], bytes.clone());
        let shape = Bytes::from_numbers(vec![self.rows as i64, self.cols as i64]);
        let ranges = RawTensor::from_f32(vec![self.ranges.len()], &self.ranges, self.scheme.range_dtype)?;
        Ok(vec![
            (format!("{module}.{CODES}"), stream(&self.codes)?),
            (format!("{module}.{SCALE_CODES}"), stream(&self.scale_codes)?),
            (format!("{module}.{SCALE_RANGE}"), ranges),
            (format!("{module}.{SCALE_LEAST}"), RawTensor::from_f32(vec![1], &[self.least], Dtype::F32)?),
            (format!("{module}.{SHAPE}"), RawTensor::new(Dtype::I64, vec![2], shape)?),
        ])
    }

    /// The matrix of `module`, which is coded as `scheme` says.
    ///
    /// # Errors
    /// [`Error::Tensor`] for tensors of other types, lengths or values; [`Error::MissingTensor`].
    pub fn read(checkpoint: &Checkpoint, module: &str, scheme: NormalFloatScheme) -> Result<Self> {
        let tensors = ModuleTensors::new(checkpoint, module);
        let shape = tensors.sized(SHAPE, Dtype::I64, &[2])?.to_i64()?;
        let sides: Vec<usize> = shape.iter().filter_map(|&side| usize::try_from(side).ok()).collect();
        let &[rows, cols] = &sides[..] else {
            return Err(tensors.wrong(SHAPE, format!("is {shape:?}, expected [out, in]")));
        };
        let stream = |suffix: &str| -> Result<Bytes> {
            let tensor = tensors.tensor(suffix)?;
            tensors.expect(suffix, &tensor, Dtype::U8, &[tensor.bytes.len()])?;
            Ok(tensor.bytes)
        };
        let (codes, scale_codes) = (stream(CODES)?, stream(SCALE_CODES)?);
        let ranges = tensors.tensor(SCALE_RANGE)?;
        tensors.expect(SCALE_RANGE, &ranges, scheme.range_dtype, &[ranges.numel()])?;
        let (ranges, _) = tensors.floats(SCALE_RANGE, &[ranges.numel()])?;
        let least = tensors.sized(SCALE_LEAST, Dtype::F32, &[1])?.to_f32()?[0];
        let made = Self::new([rows, cols], scheme, codes, scale_codes, ranges, least);
        made.map_err(|e| tensors.wrong(CODES, e.to_string()))
    }
}

/// Gives the codes `first .. last` of a stream to `take`, numbered from 0.
fn unpack(stream: &[u8], width: u8, first: usize, last: usize, mut take: impl FnMut(usize, u8)) {
    // Eight codes are whole bytes.
    let start = first / 8 * 8;
    let mut codes = vec![0; last - start];
    bits::unpack(&stream[start / 8 * usize::from(width)..], width, &mut codes);
    codes[first - start..].iter().enumerate().for_each(|(i, &code)| take(i, code));
}

#[cfg(test)]
mod tests;
