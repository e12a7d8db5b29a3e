//! Transposition of matrices on the host.

/// Words of a side that are moved at once: what a tile reads and writes stays in the cache.
const TILE: usize = 32;

/// `[rows, cols] -> [cols, rows]`, row-major.
pub fn transpose<T: Copy + Default>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    let mut out = vec![T::default(); rows * cols];
    for top in (0..rows).step_by(TILE) {
        for left in (0..cols).step_by(TILE) {
            for row in top..(top + TILE).min(rows) {
                for col in left..(left + TILE).min(cols) {
                    out[col * rows + row] = values[row * cols + col];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_side() {
        for (rows, cols) in [(0, 5), (1, 1), (31, 33), (64, 3), (40, 70)] {
            let values: Vec<u32> = (0..rows * cols).map(|i| i as u32).collect();
            let turned = transpose(&values, rows, cols);
            for i in 0..rows * cols {
                assert_eq!(turned[i % cols * rows + i / cols], values[i]);
            }
            assert_eq!(transpose(&turned, cols, rows), values);
        }
    }
}
