//! What bits must compute, and how near kept ones come to probabilities.

use trimtab::floors::math::random::Stream;
use trimtab::floors::nn::kernels::binary;

use crate::experiment::Check;

const KEYS: usize = 197;

/// Probabilities of a row of normal scores with this deviation.
fn row(deviation: f64, stream: &mut Stream) -> (Vec<f64>, Vec<f64>) {
    let scores: Vec<f64> = (0..KEYS).map(|_| deviation * stream.normal()).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
    (scores.iter().map(|s| (s - most).exp() / total).collect(), scores)
}

/// `|P - a B| / |P|` for the best factor `a`.
fn error(p: &[f64], kept: impl Fn(usize) -> bool) -> f64 {
    let squares: f64 = p.iter().map(|p| p * p).sum();
    let own: Vec<f64> = p.iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, p)| *p).collect();
    let sum: f64 = own.iter().sum();
    (1.0 - sum * sum / own.len().max(1) as f64 / squares).max(0.0).sqrt()
}

/// Mean errors at a deviation of the scores: the best number of keys, a share of 0.25, signs of scores.
fn errors(deviation: f64) -> [f64; 3] {
    let mut stream = Stream::new(11, "attention", 0, 0);
    let rows = 200;
    let mut sums = [0.0; 3];
    for _ in 0..rows {
        let (p, scores) = row(deviation, &mut stream);
        let mut sorted = p.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let best = (1..=KEYS).map(|k| error(&p, |i| p[i] >= sorted[k - 1])).fold(f64::INFINITY, f64::min);
        let own = [best, error(&p, |i| p[i] >= 0.25 * sorted[0]), error(&p, |i| scores[i] >= 0.0)];
        sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
    }
    sums.map(|sum| sum / f64::from(rows))
}

/// Largest difference between counted bits and floats, for products and for attention.
fn counted() -> f64 {
    let mut stream = Stream::new(11, "signs", 0, 0);
    let mut drawn = |n: usize| -> Vec<f32> { (0..n).map(|_| stream.normal() as f32).collect() };
    let sign = |x: f32| if x < 0.0 { -1.0f64 } else { 1.0 };
    let (n, rows, cols) = (7, 13, 150);
    let (x, w, scales) = (drawn(n * cols), drawn(rows * cols), drawn(rows));
    let mut y = vec![0.0; n * rows];
    binary::matmul_signs(&binary::pack_signs(&x, cols), &binary::pack_signs(&w, cols), cols, &scales, &mut y);
    let product = |at: usize| -> f64 {
        let dot: f64 = (0..cols).map(|i| sign(x[at / rows * cols + i]) * sign(w[at % rows * cols + i])).sum();
        f64::from((dot as f32) * scales[at % rows])
    };
    let products =
        y.iter().enumerate().map(|(at, y)| (f64::from(*y) - product(at)).abs()).fold(0.0, f64::max);
    let (t, d) = (70, 16);
    let (q, k, v) = (drawn(t * d), drawn(t * d), drawn(t * d));
    let below = binary::threshold(0.25, 0.25);
    let found = binary::attend([&q, &k, &v], [1, t, t, d], below);
    let score = |i: usize, j: usize| -> f64 { (0..d).map(|c| sign(q[i * d + c]) * sign(k[j * d + c])).sum() };
    let mixed = |at: usize| -> f64 {
        let (i, c) = (at / d, at % d);
        // By the probabilities themselves.
        let p: Vec<f64> = (0..t).map(|j| (0.25 * score(i, j)).exp()).collect();
        let most = p.iter().copied().fold(0.0, f64::max);
        (0..t).filter(|&j| p[j] >= 0.25 * most).map(|j| sign(v[j * d + c])).sum()
    };
    found.iter().enumerate().map(|(at, y)| (f64::from(*y) - mixed(at)).abs()).fold(products, f64::max)
}

pub(super) fn checks() -> Vec<Check> {
    let found = [1.0, 2.0, 3.0].map(errors);
    let behind = found.iter().map(|[best, share, _]| share / best - 1.0).fold(0.0, f64::max);
    let signs = found.iter().map(|[_, share, signs]| share / signs - 1.0).fold(f64::NEG_INFINITY, f64::max);
    let flat = errors(0.5);
    let check = |identity, deviation, tolerance| Check { identity, deviation, tolerance };
    vec![
        check(
            "counted bits are the floats, and the threshold on scores that on probabilities",
            counted(),
            0.0,
        ),
        check("a share of 0.25 errs at most by a fifth more than the best number of keys", behind, 0.2),
        check("it errs less than signs of scores, where scores deviate by 1 and more", signs.max(0.0), 0.0),
        check("where they deviate by 0.5, about as much", (flat[1] / flat[2] - 1.0).abs(), 0.06),
    ]
}
