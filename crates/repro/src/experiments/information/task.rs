//! The binary task: which of the 12 vertices of an icosahedron are set decides, however it is turned.

use trimtab::floors::math::random::Stream;

use super::super::perceptron::Digits;

/// Patterns of 12 bits.
pub(super) const PATTERNS: usize = 1 << BITS;
pub(super) const BITS: usize = 12;
/// Share of the patterns that is trained on.
const TRAIN: f64 = 0.8;

/// All patterns with their labels, and the split.
pub(super) struct Task {
    /// Every pattern as 0s and 1s, `[4096, 12]`.
    pub(super) patterns: Vec<f32>,
    pub(super) labels: Vec<usize>,
    pub(super) train: Digits,
    pub(super) test: Digits,
}

impl Task {
    pub(super) fn new() -> Self {
        let values: Vec<f64> = (0..PATTERNS).map(smooth).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[PATTERNS / 2];
        // Patterns that are turned into each other differ by rounding alone.
        let labels: Vec<usize> = values.iter().map(|value| usize::from(*value > median + 1e-9)).collect();
        let bits = |pattern: usize| (0..BITS).map(move |bit| (pattern >> bit & 1) as f32);
        let mut order: Vec<usize> = (0..PATTERNS).collect();
        Stream::new(50, "information/split", 0, 0).shuffle(&mut order);
        let (train, test) = order.split_at((PATTERNS as f64 * TRAIN) as usize);
        let part = |part: &[usize]| {
            let pixels = part.iter().flat_map(|&pattern| bits(pattern)).collect();
            Digits::rows(pixels, part.iter().map(|&pattern| labels[pattern] as i64).collect(), BITS)
        };
        let (train, test) = (part(train), part(test));
        Self { patterns: (0..PATTERNS).flat_map(bits).collect(), labels, train, test }
    }
}

/// The vertices of an icosahedron on the unit sphere.
pub(super) fn vertices() -> [[f64; 3]; BITS] {
    let golden = (1.0 + 5f64.sqrt()) / 2.0;
    let norm = (1.0 + golden * golden).sqrt();
    std::array::from_fn(|i| {
        let short = if i & 1 == 0 { 1.0 } else { -1.0 };
        let long = if i & 2 == 0 { golden } else { -golden };
        let mut vertex = [0.0, short / norm, long / norm];
        vertex.rotate_right(i / 4);
        vertex
    })
}

/// A smooth function of the angles between the vertices that are set, and of nothing else: a sum of Legendre polynomials of
/// orders 1 to 3 over all pairs, so that it is the same for a pattern that is turned.
pub(super) fn smooth(pattern: usize) -> f64 {
    let vertices = vertices();
    let set: Vec<&[f64; 3]> =
        vertices.iter().enumerate().filter(|(i, _)| pattern >> i & 1 == 1).map(|(_, v)| v).collect();
    let kernel = |a: &[f64; 3], b: &[f64; 3]| {
        let cos: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
        cos - 0.7 * (1.5 * cos * cos - 0.5) + 0.5 * (2.5 * cos * cos * cos - 1.5 * cos)
    };
    set.iter().map(|a| set.iter().map(|b| kernel(a, b)).sum::<f64>()).sum()
}

/// A pattern turned by a third about an axis through a face: coordinates change places in a circle.
pub(super) fn turned(pattern: usize) -> usize {
    let vertices = vertices();
    let to = |i: usize| {
        let mut image = vertices[i];
        image.rotate_right(1);
        let near = |v: &[f64; 3]| v.iter().zip(image).all(|(a, b)| (a - b).abs() < 1e-9);
        vertices.iter().position(near).unwrap_or(BITS)
    };
    (0..BITS).filter(|i| pattern >> i & 1 == 1).fold(0, |all, i| all | 1 << to(i))
}
