//! Counter-based random streams: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A [`Stream`] is named, not seeded in sequence: the key is a hash of `(seed, purpose)` and the counter holds
//! `(element block, item, step)`. Two streams with different names never share state, so the numbers a worker draws do
//! not depend on how many workers there are or on what was drawn before.
//!
//! Layout of the 128-bit counter, least significant word first:
//!
//! | word | holds |
//! |---|---|
//! | 0 | element block (four 32-bit numbers each), low half of a running count |
//! | 1 | item, low 32 bits |
//! | 2 | step, low 32 bits |
//! | 3 | the high halves: 16 bits of the block count, 8 bits of the item, 8 bits of the step |
//!
//! Items or steps of 2^40 and more do not fit there; their excess is hashed into the key instead, so that distinct names
//! still give distinct streams.

/// Multipliers and Weyl constants of Philox 4x32.
const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;
const ROUNDS: usize = 10;

/// Items and steps below this value live in the counter alone.
const COUNTER_LIMIT_BITS: u32 = 40;

/// The Philox 4x32-10 bijection: one block of four 32-bit numbers for a counter and a key.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let p0 = u64::from(M0) * u64::from(c0);
        let p1 = u64::from(M1) * u64::from(c2);
        let (hi0, lo0) = ((p0 >> 32) as u32, p0 as u32);
        let (hi1, lo1) = ((p1 >> 32) as u32, p1 as u32);
        (c0, c1, c2, c3) = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

/// The finalizer of SplitMix64: a bijection of 64-bit words in which every input bit reaches every output bit.
fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Key of the streams of one purpose: 64-bit FNV-1a over the purpose, started from the mixed seed, then mixed again
/// (FNV alone leaves the high bits of short strings nearly constant).
fn key_of(seed: u64, purpose: &str) -> u64 {
    let start = 0xCBF2_9CE4_8422_2325 ^ mix64(seed.wrapping_add(0x9E37_79B9_7F4A_7C15));
    let fnv =
        purpose.bytes().fold(start, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    mix64(fnv)
}

/// A stream of random numbers named by `(seed, purpose, step, item)`.
///
/// The same name gives the same numbers on every machine and at any number of threads. `purpose` is a registered name
/// such as `"calibrate/shuffle"`; tensors are named by their path, never by their order.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    item: u64,
    step: u64,
    /// Index of the next block of four numbers (48 bits are used).
    block: u64,
    buffer: [u32; 4],
    /// Position of the next unused number in `buffer`; 4 means empty.
    used: usize,
    /// Second value of the last Box-Muller pair.
    spare_normal: Option<f64>,
}

impl Stream {
    /// The stream with this name, at its first element.
    pub fn new(seed: u64, purpose: &str, step: u64, item: u64) -> Stream {
        let mut key = key_of(seed, purpose);
        let excess = (step >> COUNTER_LIMIT_BITS, item >> COUNTER_LIMIT_BITS);
        if excess != (0, 0) {
            key = mix64(key ^ mix64(excess.0).wrapping_add(mix64(!excess.1)));
        }
        Stream {
            key: [key as u32, (key >> 32) as u32],
            item,
            step,
            block: 0,
            buffer: [0; 4],
            used: 4,
            spare_normal: None,
        }
    }

    fn refill(&mut self) {
        let high = (((self.block >> 32) as u32) & 0xFFFF)
            | ((((self.item >> 32) as u32) & 0xFF) << 16)
            | ((((self.step >> 32) as u32) & 0xFF) << 24);
        let counter = [self.block as u32, self.item as u32, self.step as u32, high];
        self.buffer = philox4x32_10(counter, self.key);
        self.block += 1;
        self.used = 0;
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.refill();
        }
        let value = self.buffer[self.used];
        self.used += 1;
        value
    }

    /// The next 64 random bits (the first number drawn is the low half).
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        let high = u64::from(self.next_u32());
        low | (high << 32)
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform integer in `0..n`, without bias (multiply and reject, Lemire 2019). `below(0)` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n < 2 {
            return 0;
        }
        // Products whose low half is under 2^64 mod n would make some results more frequent.
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as usize;
            }
        }
    }

    /// Standard normal variate by the Box-Muller transform (pairs; the second of a pair is kept for the next call).
    pub fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare_normal.take() {
            return value;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare_normal = Some(radius * sin);
        radius * cos
    }

    /// Uniform in `[low, high)`; `low` if the two are equal.
    pub fn uniform_in(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Gamma variate of scale 1 (Marsaglia and Tsang, "A simple method for generating gamma variables", TOMS 2000,
    /// section 6 for shapes below 1). Mean and variance are `shape`. A shape that is not positive and finite gives NaN.
    pub fn gamma(&mut self, shape: f64) -> f64 {
        self.ln_gamma_variate(shape).exp()
    }

    /// Beta variate in `[0, 1]`, as the share of the first of two gamma variates. Parameters that are not positive and
    /// finite give NaN.
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        // In logarithms: for small parameters both gamma variates underflow to zero.
        let (x, y) = (self.ln_gamma_variate(a), self.ln_gamma_variate(b));
        1.0 / (1.0 + (y - x).exp())
    }

    /// Logarithm of a gamma variate.
    fn ln_gamma_variate(&mut self, shape: f64) -> f64 {
        if !(shape > 0.0 && shape.is_finite()) {
            return f64::NAN;
        }
        if shape < 1.0 {
            return self.ln_gamma_variate(shape + 1.0) + (1.0 - self.uniform()).ln() / shape;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.uniform()).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return d.ln() + v.ln();
            }
        }
    }

    /// Fisher-Yates shuffle: every order is equally likely.
    pub fn shuffle<T>(&mut self, slice: &mut [T]) {
        for last in (1..slice.len()).rev() {
            slice.swap(last, self.below(last + 1));
        }
    }

    /// A uniformly chosen element.
    ///
    /// # Panics
    /// If `slice` is empty.
    pub fn choose<'a, T>(&mut self, slice: &'a [T]) -> &'a T {
        assert!(!slice.is_empty(), "Stream::choose needs at least one element");
        &slice[self.below(slice.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn published_vectors() {
        let ones = u32::MAX;
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        // The digits of pi.
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn names_select_streams() {
        let names: [(u64, &str, u64, u64); 9] = [
            (0, "a", 0, 0),
            (1, "a", 0, 0),
            (0, "b", 0, 0),
            (0, "", 0, 0),
            (0, "a", 1, 0),
            (0, "a", 0, 1),
            (0, "a", 0, 1 << 32),
            (0, "a", 1 << 40, 0),
            (0, "a", 0, 1 << 40),
        ];
        let firsts: HashSet<u64> = names
            .iter()
            .map(|&(seed, purpose, step, item)| Stream::new(seed, purpose, step, item).next_u64())
            .collect();
        assert_eq!(firsts.len(), names.len());
        let (mut a, mut b) = (Stream::new(7, "x", 2, 3), Stream::new(7, "x", 2, 3));
        assert!((0..100).all(|_| a.next_u32() == b.next_u32()));
    }

    #[test]
    fn element_blocks_follow_the_counter() {
        let mut stream = Stream::new(0, "k", 5, 9);
        let drawn: Vec<u32> = (0..8).map(|_| stream.next_u32()).collect();
        assert_eq!(drawn[..4], philox4x32_10([0, 9, 5, 0], stream.key));
        assert_eq!(drawn[4..], philox4x32_10([1, 9, 5, 0], stream.key));
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let n = 200_000;
        let mut stream = Stream::new(1, "moments", 0, 0);
        let (mut sum, mut square) = (0.0, 0.0);
        for _ in 0..n {
            let u = stream.uniform();
            assert!((0.0..1.0).contains(&u));
            sum += u;
            square += u * u;
        }
        let mean = sum / n as f64;
        assert!((mean - 0.5).abs() < 4.0 * (1.0 / 12.0f64 / n as f64).sqrt());
        assert!((square / n as f64 - 1.0 / 3.0).abs() < 3e-3);

        let draws: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let moment = |p: i32| draws.iter().map(|x| x.powi(p)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 4.0 / (n as f64).sqrt());
        assert!((moment(2) - 1.0).abs() < 0.015);
        assert!((moment(4) - 3.0).abs() < 0.15);
        let lag: f64 = draws.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n as f64;
        assert!(lag.abs() < 4.0 / (n as f64).sqrt());
    }

    #[test]
    fn gamma_and_beta_have_their_moments() {
        let n = 100_000;
        let mut stream = Stream::new(4, "gamma", 0, 0);
        let mut moments = |draw: &dyn Fn(&mut Stream) -> f64| {
            let draws: Vec<f64> = (0..n).map(|_| draw(&mut stream)).collect();
            let mean = draws.iter().sum::<f64>() / n as f64;
            (mean, draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
        };
        for shape in [0.2, 1.0, 7.5] {
            let (mean, variance) = moments(&|s| s.gamma(shape));
            assert!((mean / shape - 1.0).abs() < 5.0 / (shape * n as f64).sqrt(), "{shape}: mean {mean}");
            assert!((variance / shape - 1.0).abs() < 0.08, "{shape}: variance {variance}");
        }
        for (a, b) in [(0.2, 0.2), (1.0, 1.0), (2.0, 5.0)] {
            let (mean, variance) = moments(&|s| s.beta(a, b));
            let expected = a * b / ((a + b).powi(2) * (a + b + 1.0));
            assert!((mean - a / (a + b)).abs() < 5.0 * (expected / n as f64).sqrt(), "{a}, {b}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.03, "{a}, {b}: variance {variance}");
        }
        assert!(stream.gamma(0.0).is_nan() && stream.beta(-1.0, 1.0).is_nan());
        assert!((0..1000).all(|_| (0.0..=1.0).contains(&stream.beta(1e-3, 1e-3))));
    }

    #[test]
    fn below_is_uniform_and_in_range() {
        let mut stream = Stream::new(2, "below", 0, 0);
        let (n, draws) = (7, 70_000);
        let mut counts = vec![0usize; n];
        for _ in 0..draws {
            counts[stream.below(n)] += 1;
        }
        let expected = draws as f64 / n as f64;
        let chi2: f64 = counts.iter().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
        assert!(chi2 < 22.5, "chi-square with 6 degrees: {chi2}"); // p = 0.001
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.below(1), 0);
    }

    #[test]
    fn shuffle_makes_every_order_equally_often() {
        let mut counts = std::collections::HashMap::new();
        let mut stream = Stream::new(3, "shuffle", 0, 0);
        for _ in 0..24_000 {
            let mut order = [0u8, 1, 2, 3];
            stream.shuffle(&mut order);
            *counts.entry(order).or_insert(0usize) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&c| (850..1150).contains(&c)));
        assert!((1..=3).contains(stream.choose(&[1, 2, 3])));
    }
}
