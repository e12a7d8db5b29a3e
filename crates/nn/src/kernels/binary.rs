//! Products of signs, 64 at a time: a bit is 1 where a number is not negative.
//!
//! `x . w = n - 2 popcount(x xor w)` for signs, and `sum_j b_j v_j = 2 popcount(b and v) - popcount(b)` for zeros and ones `b`: integers,
//! so that results do not depend on any order.

use rayon::prelude::*;

/// Words of `n` bits.
pub fn words(n: usize) -> usize {
    n.div_ceil(64)
}

/// The signs of rows of `cols` numbers, each row in words of its own whose tail is 0.
pub fn pack_signs(values: &[f32], cols: usize) -> Vec<u64> {
    let mut packed = vec![0u64; values.len() / cols.max(1) * words(cols)];
    for (row, out) in values.chunks_exact(cols.max(1)).zip(packed.chunks_exact_mut(words(cols).max(1))) {
        for (part, word) in row.chunks(64).zip(out) {
            // NaN counts as not negative, as the comparison of the floats does.
            *word = part.iter().enumerate().fold(0, |word, (i, x)| {
                let negative = *x < 0.0;
                word | u64::from(!negative) << i
            });
        }
    }
    packed
}

/// `sum_i x_i w_i` of two rows of `n` signs.
pub fn dot(x: &[u64], w: &[u64], n: usize) -> i32 {
    let apart: u32 = x.iter().zip(w).map(|(x, w)| (x ^ w).count_ones()).sum();
    n as i32 - 2 * apart as i32
}

/// Rows `x` of signs (`[n, cols]`, packed) times a matrix of signs (`[rows, cols]`, packed) whose rows have scales: `y[t, o] = s_o x_t . w_o`.
pub fn matmul_signs(x: &[u64], w: &[u64], cols: usize, scales: &[f32], y: &mut [f32]) {
    let (len, rows) = (words(cols).max(1), scales.len());
    y.par_chunks_mut(rows.max(1)).zip(x.par_chunks(len)).for_each(|(y, x)| {
        for ((y, w), scale) in y.iter_mut().zip(w.chunks_exact(len)).zip(scales) {
            *y = dot(x, w, cols) as f32 * scale;
        }
    });
}

/// How far a product of signs may lie below the largest one of its row to be kept: for a share of the largest probability, where scores are
/// `scale` times the product. A thousandth is given to rounding: products are whole numbers, ties aside.
pub fn threshold(share: f32, scale: f32) -> f64 {
    f64::from(share.ln().abs() / scale) + 1e-3
}

/// Binary attention of `rows` heads: `q` (`[rows, t, d]`), `k` and `v` (`[rows, s, d]`), all taken by their signs; what is not `below` the
/// largest product of its row counts 1. `[rows, t, d]`.
pub fn attend([q, k, v]: [&[f32]; 3], [rows, t, s, d]: [usize; 4], below: f64) -> Vec<f32> {
    let mut out = vec![0.0f32; rows * t * d];
    let head = |(i, out): (usize, &mut [f32])| {
        let of = |x: &[f32], n: usize| pack_signs(&x[i * n * d..(i + 1) * n * d], d);
        let (q, k) = (of(q, t), of(k, s));
        // Values by channel: a row of the keys' signs for each.
        let values = &v[i * s * d..(i + 1) * s * d];
        let columns: Vec<f32> = (0..d).flat_map(|c| (0..s).map(move |j| values[j * d + c])).collect();
        let columns = pack_signs(&columns, s);
        let len = words(d).max(1);
        for (q, out) in q.chunks_exact(len).zip(out.chunks_exact_mut(d.max(1))) {
            let products: Vec<i32> = k.chunks_exact(len).map(|k| dot(q, k, d)).collect();
            let lowest = f64::from(products.iter().copied().max().unwrap_or(0)) - below;
            let mut ones = vec![0u64; words(s)];
            for (j, product) in products.iter().enumerate() {
                ones[j / 64] |= u64::from(f64::from(*product) >= lowest) << (j % 64);
            }
            let count: u32 = ones.iter().map(|word| word.count_ones()).sum();
            for (out, column) in out.iter_mut().zip(columns.chunks_exact(words(s).max(1))) {
                let both: u32 = ones.iter().zip(column).map(|(a, b)| (a & b).count_ones()).sum();
                *out = (2 * both as i32 - count as i32) as f32;
            }
        }
    };
    out.par_chunks_mut((t * d).max(1)).enumerate().for_each(head);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(n: usize, salt: usize) -> Vec<f32> {
        (0..n).map(|i| (((i * 7919 + salt * 104_729) % 1009) as f32 - 504.0) / 100.0).collect()
    }

    fn sign(x: f32) -> f32 {
        if x < 0.0 { -1.0 } else { 1.0 }
    }

    #[test]
    fn products_of_bits_are_those_of_the_floats() {
        for (n, rows, cols) in [(1, 1, 1), (3, 5, 63), (4, 7, 64), (2, 3, 65), (5, 9, 200)] {
            let (x, w) = (drawn(n * cols, 1), drawn(rows * cols, 2));
            let scales: Vec<f32> = (0..rows).map(|row| 0.5 + row as f32).collect();
            let mut y = vec![0.0; n * rows];
            matmul_signs(&pack_signs(&x, cols), &pack_signs(&w, cols), cols, &scales, &mut y);
            let exact = |t: usize, o: usize| -> f32 {
                let dot: f32 = (0..cols).map(|i| sign(x[t * cols + i]) * sign(w[o * cols + i])).sum();
                dot * scales[o]
            };
            let expected: Vec<f32> = (0..n * rows).map(|at| exact(at / rows, at % rows)).collect();
            assert_eq!(y, expected, "{n} {rows} {cols}");
        }
        assert_eq!(pack_signs(&[0.0, -0.0, -1.0, 2.0], 4), [0b1011], "zero counts as positive");
    }

    #[test]
    fn kept_ones_are_mixed_as_floats_are() {
        for (t, s, d) in [(1, 1, 1), (5, 70, 16), (3, 64, 65)] {
            let (q, k, v) = (drawn(2 * t * d, 3), drawn(2 * s * d, 4), drawn(2 * s * d, 5));
            for below in [0.5, 4.5, 1e9] {
                let found = attend([&q, &k, &v], [2, t, s, d], below);
                for (at, found) in found.iter().enumerate() {
                    let (head, query, channel) = (at / (t * d), at / d % t, at % d);
                    let product = |j: usize| -> f64 {
                        (0..d)
                            .map(|c| {
                                f64::from(
                                    sign(q[(head * t + query) * d + c]) * sign(k[(head * s + j) * d + c]),
                                )
                            })
                            .sum()
                    };
                    let most = (0..s).map(product).fold(f64::NEG_INFINITY, f64::max);
                    let kept = (0..s).filter(|&j| product(j) >= most - below);
                    let expected: f32 = kept.map(|j| sign(v[(head * s + j) * d + channel])).sum();
                    assert_eq!(*found, expected, "{t} {s} {d} {below} {at}");
                }
            }
        }
    }
}
