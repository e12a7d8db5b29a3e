//! Ranges of activations: what a site reads, folded into steps and zeros.
//!
//! Min-max takes the ends. The percentile search (RepQ-ViT, arXiv:2212.08254) tries the quantiles 0.999, 0.9999 and 0.99999, and takes
//! those whose codes have the least squared error. It goes by a histogram whose bins have powers of two as widths and are joined
//! two by two as the range grows: memory is bounded, and what comes out does not depend on the order of the rows.

use serde::{Deserialize, Serialize};
use trimtab_nn::{
    ActivationGranularity, ActivationQuantizer, ActivationScheme, ActivationStep, SiteKind, SiteMeta,
    SoftmaxQuantizer, SoftmaxScheme, Tap, TapRows,
};

/// How ends are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeRule {
    /// The least and the largest.
    MinMax,
    /// The best of three quantiles.
    #[default]
    Percentile,
}

/// Quantiles that are tried; the widest first, which is taken among equals.
pub const PERCENTILES: [f64; 3] = [0.99999, 0.9999, 0.999];

/// Bins of a histogram of a whole tensor, and of a channel.
const BINS: [usize; 2] = [1 << 15, 1 << 11];

/// What is kept of some numbers: their ends, and how many lie in each bin.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    low: f32,
    high: f32,
    count: u64,
    /// Bin `i` holds `[(i - n/2) 2^width, (i + 1 - n/2) 2^width)`.
    bins: Vec<u32>,
    width: i32,
}

impl Histogram {
    /// An empty histogram of a whole tensor.
    pub fn of_tensor() -> Self {
        Self::new(BINS[0])
    }

    /// An empty histogram of `bins`, an even number.
    pub fn new(bins: usize) -> Self {
        Self { low: f32::INFINITY, high: f32::NEG_INFINITY, count: 0, bins: vec![0; bins], width: -126 }
    }

    /// Counts finite numbers.
    ///
    /// # Errors
    ///
    /// A number that is not finite.
    pub fn add(&mut self, values: impl IntoIterator<Item = f32>) -> Result<(), String> {
        for x in values {
            if !x.is_finite() {
                return Err(format!("an activation is {x}"));
            }
            self.low = self.low.min(x);
            self.high = self.high.max(x);
            self.count += 1;
            if self.bins.is_empty() {
                continue;
            }
            let half = (self.bins.len() / 2) as f32;
            let mut at = (x * exp2(-self.width)).floor();
            while at < -half || at >= half {
                self.join();
                at = (x * exp2(-self.width)).floor();
            }
            let bin = &mut self.bins[(at + half) as usize];
            *bin = bin.checked_add(1).ok_or("more than 2^32 activations lie in one bin")?;
        }
        Ok(())
    }

    /// Doubles the width of the bins.
    fn join(&mut self) {
        let n = self.bins.len();
        let mut joined = vec![0; n];
        for (i, &count) in self.bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let at = (i as i64 - n as i64 / 2).div_euclid(2) + n as i64 / 2;
            joined[at as usize] += count;
        }
        (self.bins, self.width) = (joined, self.width + 1);
    }

    /// The numbers counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The least and the largest, with 0 among them.
    pub fn ends(&self) -> (f32, f32) {
        (self.low.min(0.0), self.high.max(0.0))
    }

    /// Middle and count of every bin that holds something; the two outer ones end with the numbers.
    fn filled(&self) -> impl DoubleEndedIterator<Item = (f32, u32)> {
        let half = self.bins.len() as f32 / 2.0;
        let filled = self.bins.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(move |(i, &count)| {
            let edge = |i: f32| ((i - half) * exp2(self.width)).clamp(self.low, self.high);
            (0.5 * (edge(i as f32) + edge(i as f32 + 1.0)), count)
        })
    }

    /// The quantile at `p`, linear between neighbours, to a bin.
    pub fn quantile(&self, p: f64) -> f32 {
        let position = p.clamp(0.0, 1.0) * self.count.saturating_sub(1) as f64;
        let below = position.floor();
        let share = position - below;
        let [a, b] = [below, position.ceil()].map(|rank| f64::from(self.ranked(rank as u64)));
        (a * (1.0 - share) + b * share) as f32
    }

    /// The number with so many below it; those of a bin are taken to be spread over it.
    fn ranked(&self, rank: u64) -> f32 {
        if rank == 0 || rank + 1 >= self.count {
            return if rank == 0 { self.low } else { self.high };
        }
        let mut below = 0;
        for (i, &count) in self.bins.iter().enumerate() {
            if rank < below + u64::from(count) {
                let inner = ((rank - below) as f64 + 0.5) / f64::from(count);
                let at = (i as f64 - self.bins.len() as f64 / 2.0 + inner) * f64::from(exp2(self.width));
                return (at as f32).clamp(self.low, self.high);
            }
            below += u64::from(count);
        }
        self.high
    }

    /// Sum of squared errors of what `round` makes of the numbers, each at the middle of its bin.
    fn error(&self, round: impl Fn(f32) -> f32) -> f64 {
        self.filled().map(|(x, count)| f64::from(count) * f64::from(x - round(x)).powi(2)).sum()
    }

    /// Step and zero; nothing counted stands for 0.
    pub fn step(&self, scheme: ActivationScheme, rule: RangeRule) -> ActivationStep {
        if self.count == 0 {
            return scheme.step(0.0, 0.0);
        }
        let highest = scheme.highest();
        let candidates = match rule {
            RangeRule::MinMax => return scheme.step(self.low, self.high),
            RangeRule::Percentile => {
                PERCENTILES.map(|p| scheme.step(self.quantile(1.0 - p), self.quantile(p)))
            }
        };
        best(candidates, |step| self.error(|x| step.decode(step.code(x, highest))))
    }

    /// What rounds the weights of attention that were counted, by the same search for their largest.
    ///
    /// # Errors
    ///
    /// Bits that they cannot have.
    pub fn softmax(&self, scheme: SoftmaxScheme) -> trimtab_nn::Result<SoftmaxQuantizer> {
        let all = PERCENTILES
            .map(|p| SoftmaxQuantizer::new(scheme, if self.count == 0 { 1.0 } else { self.quantile(p) }));
        let [a, b, c] = all;
        Ok(best([a?, b?, c?], |of| self.error(|x| of.encode(x).map_or(0.0, |code| of.decode(code)))))
    }
}

/// The first of the candidates with the least error.
fn best<T: Copy>(candidates: [T; 3], error: impl Fn(&T) -> f64) -> T {
    let mut best = (error(&candidates[0]), candidates[0]);
    for candidate in &candidates[1..] {
        let found = error(candidate);
        if found < best.0 {
            best = (found, *candidate);
        }
    }
    best.1
}

/// A power of two; the exponents of bins are those of normal numbers.
fn exp2(exponent: i32) -> f32 {
    (exponent as f32).exp2()
}

/// A tap that finds what rounds the input of a site.
#[derive(Clone, Debug)]
pub struct ActivationRanges {
    scheme: ActivationScheme,
    rule: RangeRule,
    parts: Vec<Histogram>,
    /// Columns of a row that belong to one channel: the pixels of a kernel.
    spread: usize,
}

impl ActivationRanges {
    /// For the rows that enter `site`.
    ///
    /// # Errors
    ///
    /// A convolution in groups, by channel: a row does not say which group it is of.
    pub fn new(site: &SiteMeta, scheme: ActivationScheme, rule: RangeRule) -> Result<Self, String> {
        scheme.check().map_err(|e| e.to_string())?;
        let (spread, groups) = match &site.kind {
            SiteKind::Conv(conv) | SiteKind::Conv1d(conv) => (conv.kernel[0] * conv.kernel[1], conv.groups),
            SiteKind::Linear | SiteKind::Embedding => (1, 1),
        };
        let by_channel = scheme.granularity == ActivationGranularity::Channel;
        if by_channel && groups > 1 {
            return Err(format!(
                "its convolution has {groups} groups: its activations are not quantized by channel\nhint: 'int{} tensor'",
                scheme.bits
            ));
        }
        let parts = match scheme.granularity {
            ActivationGranularity::Tensor => 1,
            ActivationGranularity::Channel => site.cols / spread,
            ActivationGranularity::Token | ActivationGranularity::Call => 0,
        };
        let bins = if rule == RangeRule::MinMax { 0 } else { BINS[usize::from(by_channel)] };
        Ok(Self { scheme, rule, parts: vec![Histogram::new(bins); parts], spread })
    }

    /// Rows `[n, width]` with a weight each; those of weight 0 are padding and do not count.
    ///
    /// # Errors
    ///
    /// A number that is not finite, or rows of another width.
    pub fn see(&mut self, rows: &[f32], width: usize, weights: Option<&[f64]>) -> Result<(), String> {
        if self.parts.len() > 1 && self.parts.len() * self.spread != width {
            return Err(format!(
                "its rows have {width} channels, expected {}",
                self.parts.len() * self.spread
            ));
        }
        let (n, spread) = (self.parts.len(), self.spread);
        for (i, row) in rows.chunks_exact(width.max(1)).enumerate() {
            if weights.is_some_and(|weights| weights[i] == 0.0) {
                continue;
            }
            match self.parts.as_mut_slice() {
                [] => {}
                [one] if n == 1 => one.add(row.iter().copied())?,
                parts => {
                    for (part, values) in parts.iter_mut().zip(row.chunks_exact(spread)) {
                        part.add(values.iter().copied())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What was counted: one histogram, or one a channel; none for steps that are found as activations come.
    pub fn parts(&self) -> &[Histogram] {
        &self.parts
    }

    /// What rounds the input.
    ///
    /// # Errors
    ///
    /// Steps that are no numbers.
    pub fn quantizer(&self) -> trimtab_nn::Result<ActivationQuantizer> {
        let steps = self.parts.iter().map(|part| part.step(self.scheme, self.rule)).collect();
        ActivationQuantizer::new(self.scheme, steps)
    }
}

impl Tap for ActivationRanges {
    fn input(&mut self, _: &SiteMeta, rows: TapRows<'_>) -> Result<(), String> {
        self.see(rows.rows, rows.width, rows.weights)
    }
}

#[cfg(test)]
mod tests {
    use trimtab_math::random::Stream;
    use trimtab_nn::{Axis, conv::ConvGeometry};

    use super::*;

    fn meta(kind: SiteKind, cols: usize) -> SiteMeta {
        SiteMeta {
            name: "up".into(),
            kind,
            rows: 1,
            cols,
            transposed: false,
            input: Axis::new("in", cols),
            output: Axis::new("out", 1),
            reads: "up".into(),
            fused: None,
        }
    }

    fn normals(n: usize) -> Vec<f32> {
        let mut stream = Stream::new(5, "test/ranges", 0, 0);
        (0..n).map(|i| (stream.normal() * if i % 997 == 3 { 20.0 } else { 1.0 } + 0.3) as f32).collect()
    }

    /// The quantile of all numbers, linear between neighbours.
    fn exact(values: &[f32], p: f64) -> f32 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f32::total_cmp);
        let position = p * (sorted.len() - 1) as f64;
        let below = position.floor() as usize;
        let above = (below + 1).min(sorted.len() - 1);
        let share = (position - below as f64) as f32;
        sorted[below] * (1.0 - share) + sorted[above] * share
    }

    #[test]
    fn quantiles_are_those_of_all_numbers_to_a_bin_whatever_their_order() {
        let values = normals(40_000);
        let mut histogram = Histogram::new(1 << 15);
        histogram.add(values.iter().copied()).unwrap();
        let mut reversed = Histogram::new(1 << 15);
        reversed.add(values.iter().rev().copied()).unwrap();
        assert_eq!(histogram, reversed);
        let bin = exp2(histogram.width);
        assert!(bin < 0.01, "{bin}");
        for p in [0.0, 0.00001, 0.001, 0.25, 0.5, 0.75, 0.999, 1.0] {
            let (found, expected) = (histogram.quantile(p), exact(&values, p));
            assert!((found - expected).abs() <= 1.01 * bin, "{p}: {found} {expected}");
        }
        assert!(Histogram::new(8).add([f32::NAN]).is_err());
        // Tiny and huge.
        let mut wide = Histogram::new(1 << 11);
        wide.add([1e-30, -1e30, 3e38, 0.0]).unwrap();
        assert_eq!((wide.ends(), wide.bins.iter().sum::<u32>()), ((-1e30, 3e38), 4));
    }

    #[test]
    fn the_search_takes_the_candidate_with_the_least_error_of_all_numbers() {
        for (n, bits) in [(40_000, 4), (40_000, 8), (900, 4), (3_000, 6)] {
            let values = normals(n);
            let scheme = ActivationScheme::new(bits, ActivationGranularity::Tensor);
            let mut ranges =
                ActivationRanges::new(&meta(SiteKind::Linear, 10), scheme, RangeRule::Percentile).unwrap();
            ranges.see(&values, 10, None).unwrap();
            let error = |step: &ActivationStep| -> f64 {
                values
                    .iter()
                    .map(|&x| f64::from(x - step.decode(step.code(x, scheme.highest()))).powi(2))
                    .sum()
            };
            let least = PERCENTILES
                .map(|p| error(&scheme.step(exact(&values, 1.0 - p), exact(&values, p))))
                .into_iter()
                .fold(f64::INFINITY, f64::min);
            let found = error(&ranges.quantizer().unwrap().steps()[0]);
            assert!(found <= 1.03 * least, "{n} {bits}: {found} {least}");
            let mut plain =
                ActivationRanges::new(&meta(SiteKind::Linear, 10), scheme, RangeRule::MinMax).unwrap();
            plain.see(&values, 10, None).unwrap();
            let ends = values.iter().fold((0.0f32, 0.0f32), |(l, h), &x| (l.min(x), h.max(x)));
            assert_eq!(plain.quantizer().unwrap().steps(), [scheme.step(ends.0, ends.1)]);
            if bits == 4 && n == 40_000 {
                assert!(
                    found < 0.8 * error(&scheme.step(ends.0, ends.1)),
                    "control: outliers are worth clipping"
                );
            }
        }
    }

    #[test]
    fn channels_are_those_of_rows_or_of_images_and_padding_does_not_count() {
        let scheme = ActivationScheme::new(4, ActivationGranularity::Channel);
        let mut ranges =
            ActivationRanges::new(&meta(SiteKind::Linear, 2), scheme, RangeRule::MinMax).unwrap();
        ranges.see(&[15.0, -1.0, 3.0, 14.0, 99.0, 99.0], 2, Some(&[1.0, 0.5, 0.0])).unwrap();
        assert_eq!(ranges.quantizer().unwrap().steps(), [scheme.step(0.0, 15.0), scheme.step(-1.0, 14.0)]);
        assert!(ranges.see(&[1.0; 3], 3, None).is_err());
        let geometry = ConvGeometry { kernel: [1, 2], stride: [1, 1], padding: [0, 0], groups: 1 };
        let site = meta(SiteKind::Conv(geometry), 4);
        let mut ranges = ActivationRanges::new(&site, scheme, RangeRule::MinMax).unwrap();
        ranges.see(&[1.0, 30.0, -15.0, 0.0], 4, None).unwrap();
        assert_eq!(ranges.quantizer().unwrap().steps(), [scheme.step(0.0, 30.0), scheme.step(-15.0, 0.0)]);
        let grouped = meta(SiteKind::Conv(ConvGeometry { groups: 2, ..geometry }), 4);
        assert!(ActivationRanges::new(&grouped, scheme, RangeRule::MinMax).unwrap_err().contains("2 groups"));
        let token = ActivationScheme::new(8, ActivationGranularity::Token);
        let ranges = ActivationRanges::new(&site, token, RangeRule::Percentile).unwrap();
        assert!(ranges.quantizer().unwrap().steps().is_empty());
    }

    #[test]
    fn the_largest_weight_of_attention_is_searched_for() {
        let mut histogram = Histogram::new(1 << 15);
        histogram
            .add((0..20_000).map(|i| (-(i as f32) / 2_000.0).exp() * if i == 0 { 50.0 } else { 0.1 }))
            .unwrap();
        let found = histogram.softmax("int4 log-sqrt2".parse().unwrap()).unwrap();
        assert!(PERCENTILES.iter().any(|&p| found.scale == histogram.quantile(p)), "{found:?}");
    }
}
