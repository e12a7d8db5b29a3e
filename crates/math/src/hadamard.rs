//! Hadamard matrices: orthogonal, all entries of one magnitude.
//!
//! `n = 2^k m`: the Walsh-Hadamard transform over `2^k`, and for what is left a matrix of Paley (1933): of order `q + 1` for a
//! prime `q = 3 mod 4`, of order `2 (q + 1)` for a prime `q = 1 mod 4`. So 12, 20, 28, 36, 44, 60, 108, 140 and their products
//! with powers of two have one, and 52 or 92 have none here.

/// A Hadamard matrix `H` of order `n`, scaled to be orthogonal.
#[derive(Clone, Debug, PartialEq)]
pub struct Hadamard {
    n: usize,
    /// The matrix of Paley `[m, m]`, entries 1 and -1; empty for a power of two.
    base: Vec<f64>,
    m: usize,
}

impl Hadamard {
    /// The matrix of order `n`; `None` where there is none of the two kinds.
    pub fn new(n: usize) -> Option<Self> {
        if n.is_power_of_two() {
            return Some(Self { n, base: Vec::new(), m: 1 });
        }
        if n == 0 {
            return None;
        }
        // The smallest base leaves the most to the fast transform.
        let odd = n >> n.trailing_zeros();
        let mut m = odd;
        while m <= n {
            if let Some(base) = paley(m) {
                return Some(Self { n, base, m });
            }
            m *= 2;
        }
        None
    }

    /// Order of the matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// `x H` in place, `x` of length `n`; with `transposed`, `x Hᵀ`.
    pub fn apply(&self, x: &mut [f64], transposed: bool) {
        let m = self.m;
        let mut step = m;
        // Walsh-Hadamard over the slow index, in runs of `m`.
        while step < self.n {
            for start in (0..self.n).step_by(2 * step) {
                let (low, high) = x[start..start + 2 * step].split_at_mut(step);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            step *= 2;
        }
        if m > 1 {
            let mut out = vec![0.0; m];
            for run in x.chunks_exact_mut(m) {
                out.fill(0.0);
                for (i, row) in self.base.chunks_exact(m).enumerate() {
                    if transposed {
                        out[i] = run.iter().zip(row).map(|(a, b)| a * b).sum();
                    } else {
                        out.iter_mut().zip(row).for_each(|(o, h)| *o += run[i] * h);
                    }
                }
                run.copy_from_slice(&out);
            }
        }
        let scale = (self.n as f64).sqrt().recip();
        x.iter_mut().for_each(|v| *v *= scale);
    }
}

fn is_prime(q: usize) -> bool {
    q > 1 && (2..).take_while(|d| d * d <= q).all(|d| !q.is_multiple_of(d))
}

/// A Hadamard matrix of order `m`, a multiple of four.
fn paley(m: usize) -> Option<Vec<f64>> {
    if !m.is_multiple_of(4) {
        return None;
    }
    if is_prime(m - 1) && (m - 1) % 4 == 3 {
        // I + S, S skew.
        let mut h = core(m - 1, -1.0);
        (0..m).for_each(|i| h[i * m + i] += 1.0);
        return Some(h);
    }
    let half = m / 2;
    if is_prime(half - 1) && (half - 1) % 4 == 1 {
        // C x [[1, 1], [1, -1]] + I x [[1, -1], [-1, -1]], C symmetric.
        let c = core(half - 1, 1.0);
        let mut h = vec![0.0; m * m];
        for i in 0..half {
            for j in 0..half {
                let (at, one) = (c[i * half + j], f64::from(u8::from(i == j)));
                let block = [[at + one, at - one], [at - one, -at - one]];
                for (a, row) in block.iter().enumerate() {
                    h[(2 * i + a) * m + 2 * j..][..2].copy_from_slice(row);
                }
            }
        }
        return Some(h);
    }
    None
}

/// `[[0, 1], [±1, Q]]` of order `q + 1`, `Q` the matrix of quadratic characters of differences.
fn core(q: usize, sign: f64) -> Vec<f64> {
    let mut character = vec![-1.0; q];
    (1..q).for_each(|i| character[i * i % q] = 1.0);
    character[0] = 0.0;
    let n = q + 1;
    let mut c = vec![0.0; n * n];
    for i in 1..n {
        (c[i], c[i * n]) = (1.0, sign);
        for j in 1..n {
            c[i * n + j] = character[(q + i - j) % q];
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(h: &Hadamard, transposed: bool) -> Vec<f64> {
        let n = h.n();
        let mut rows = vec![0.0; n * n];
        for (i, row) in rows.chunks_mut(n).enumerate() {
            row[i] = 1.0;
            h.apply(row, transposed);
        }
        rows
    }

    #[test]
    fn rows_are_orthogonal_and_entries_of_one_size() {
        for n in [1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 40, 44, 48, 60, 108, 140, 144, 180] {
            let h = Hadamard::new(n).unwrap_or_else(|| panic!("{n}"));
            let rows = matrix(&h, false);
            let size = (n as f64).sqrt().recip();
            assert!(rows.iter().all(|x| (x.abs() - size).abs() < 1e-12), "{n}");
            for i in 0..n {
                for j in 0..=i {
                    let dot: f64 =
                        rows[i * n..][..n].iter().zip(&rows[j * n..][..n]).map(|(a, b)| a * b).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12, "{n}: {i} {j}");
                }
            }
            let turned = matrix(&h, true);
            assert!((0..n * n).all(|at| (turned[at] - rows[at % n * n + at / n]).abs() < 1e-12), "{n}");
        }
    }

    #[test]
    fn orders_without_a_matrix_are_none() {
        // 92 = 4 * 23 and 52 = 2 * 26 are orders of Hadamard matrices, but not of these kinds.
        for n in [0, 3, 6, 10, 18, 52, 92] {
            assert!(Hadamard::new(n).is_none(), "{n}");
        }
        // Widths of real models.
        for n in [384, 576, 640, 768, 896, 960, 1152, 1536, 2048, 2560, 3072, 3584, 4096, 5120, 8192] {
            assert!(Hadamard::new(n).is_some(), "{n}");
        }
    }
}
