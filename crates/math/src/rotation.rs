//! Random rotations of a row, in `f64`.

use crate::hadamard::Hadamard;
use crate::random::Stream;

/// Which rotations are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationKind {
    /// Signs drawn at random, then a Hadamard matrix; [`RotationKind::Orthogonal`] where the width has none.
    #[default]
    Hadamard,
    /// The orthogonal factor of a Gaussian matrix, uniform over all rotations.
    Orthogonal,
}

/// An orthogonal matrix `Q` of order `n`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    n: usize,
    core: Core,
    /// A unit vector; what is left is reflected along it.
    mirror: Option<Vec<f64>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Core {
    /// Signs, then the matrix.
    Hadamard(Vec<f64>, Hadamard),
    /// `[n, n]`, row-major.
    Dense(Vec<f64>),
}

impl Rotation {
    /// A rotation drawn at random; `stream` decides which.
    pub fn draw(n: usize, kind: RotationKind, stream: &mut Stream) -> Self {
        let hadamard = (kind == RotationKind::Hadamard).then(|| Hadamard::new(n)).flatten();
        let core = match hadamard {
            Some(hadamard) => {
                let sign = |bit: u32| if bit & 1 == 0 { 1.0 } else { -1.0 };
                Core::Hadamard((0..n).map(|_| sign(stream.next_u32())).collect(), hadamard)
            }
            None => Core::Dense(orthogonal(n, stream)),
        };
        Self { n, core, mirror: None }
    }

    /// The same rotation and a reflection, so that the vector of ones is mapped to itself. Then the mean of a row and what is
    /// left without it do not mix.
    pub fn fixing_ones(mut self) -> Self {
        self.mirror = None;
        let mut moved = vec![1.0; self.n];
        self.apply(&mut moved);
        moved.iter_mut().for_each(|x| *x -= 1.0);
        let norm = moved.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 1e-12 {
            moved.iter_mut().for_each(|x| *x /= norm);
            self.mirror = Some(moved);
        }
        self
    }

    /// Order of the matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Whether it is made of a Hadamard matrix.
    pub fn is_hadamard(&self) -> bool {
        matches!(self.core, Core::Hadamard(..))
    }

    /// `x Q` in place.
    pub fn apply(&self, x: &mut [f64]) {
        match &self.core {
            Core::Hadamard(signs, hadamard) => {
                x.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
                hadamard.apply(x, false);
            }
            Core::Dense(q) => {
                let mut out = vec![0.0; self.n];
                for (x, row) in x.iter().zip(q.chunks_exact(self.n)) {
                    out.iter_mut().zip(row).for_each(|(o, q)| *o += x * q);
                }
                x.copy_from_slice(&out);
            }
        }
        self.reflect(x);
    }

    /// `x Qᵀ` in place: the way back.
    pub fn apply_inverse(&self, x: &mut [f64]) {
        self.reflect(x);
        match &self.core {
            Core::Hadamard(signs, hadamard) => {
                hadamard.apply(x, true);
                x.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
            }
            Core::Dense(q) => {
                let dot = |row: &[f64]| row.iter().zip(&*x).map(|(q, x)| q * x).sum();
                let out: Vec<f64> = q.chunks_exact(self.n).map(dot).collect();
                x.copy_from_slice(&out);
            }
        }
    }

    fn reflect(&self, x: &mut [f64]) {
        let Some(mirror) = &self.mirror else { return };
        let along = 2.0 * x.iter().zip(mirror).map(|(x, w)| x * w).sum::<f64>();
        x.iter_mut().zip(mirror).for_each(|(x, w)| *x -= along * w);
    }
}

/// Rows of Gaussian numbers, each made orthogonal to those before it (twice, against rounding): the orthogonal factor of a
/// Gaussian matrix, with the signs that make the triangular factor positive.
fn orthogonal(n: usize, stream: &mut Stream) -> Vec<f64> {
    let mut q: Vec<f64> = Vec::with_capacity(n * n);
    while q.len() < n * n {
        let mut row: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let drawn = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        for _ in 0..2 {
            for earlier in q.chunks_exact(n) {
                let along: f64 = row.iter().zip(earlier).map(|(x, q)| x * q).sum();
                row.iter_mut().zip(earlier).for_each(|(x, q)| *x -= along * q);
            }
        }
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        // One row in very many lies in the span of the others; another is drawn then.
        if norm > 1e-9 * drawn {
            q.extend(row.iter().map(|x| x / norm));
        }
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_keep_lengths_and_have_a_way_back() {
        for (n, kind) in [
            (16, RotationKind::Hadamard),
            (48, RotationKind::Hadamard),
            (15, RotationKind::Hadamard),
            (48, RotationKind::Orthogonal),
        ] {
            for ones in [false, true] {
                let rotation = Rotation::draw(n, kind, &mut Stream::new(3, "test", 0, 0));
                let rotation = if ones { rotation.fixing_ones() } else { rotation };
                assert_eq!(rotation.is_hadamard(), kind == RotationKind::Hadamard && n != 15);
                let start: Vec<f64> = (0..n).map(|i| (i * i % 11) as f64 - 4.0).collect();
                let mut x = start.clone();
                rotation.apply(&mut x);
                let power = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
                assert!((power(&x) - power(&start)).abs() < 1e-9);
                let sum = |x: &[f64]| x.iter().sum::<f64>();
                let kept = (sum(&x) - sum(&start)).abs() < 1e-9;
                // Without the reflection the mean moves.
                assert_eq!(kept, ones, "{n} {kind:?}: {} {}", sum(&x), sum(&start));
                rotation.apply_inverse(&mut x);
                assert!(x.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-9), "{n} {kind:?}");
            }
        }
    }

    #[test]
    fn seeds_differ() {
        let draw = |seed| Rotation::draw(8, RotationKind::Hadamard, &mut Stream::new(seed, "test", 0, 0));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
