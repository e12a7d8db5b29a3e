//! Timings of the kernels, and the read bandwidth of the machine to hold them against.

use std::hint::black_box;
use std::time::Instant;

use half::bf16;
use rayon::prelude::*;

use trimtab_io::ActivationStep;

use super::{CodeRows, DenseView, Error, PackedView, Result, matmul_codes, matmul_dense, matmul_packed};

/// One kernel at one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Kernel and format, `packed 4 bits, group 128`.
    pub name: String,
    /// `[rows of x, rows of W, cols]`.
    pub shape: [usize; 3],
    /// Threads that shared the work.
    pub threads: usize,
    /// Median time of one product.
    pub seconds: f64,
    /// Bytes of the matrix (codes, scales, zero points) read in a second, in 10^9.
    pub gb_per_s: f64,
    /// `2 * n * rows * cols` operations in a second, in 10^9.
    pub gflops: f64,
}

/// What is multiplied, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Rows of `x`.
    pub n: usize,
    /// Rows of `W`.
    pub rows: usize,
    /// Columns of `W`.
    pub cols: usize,
    /// Matrices in rotation: enough of them, and the weights come from memory and not from a cache.
    pub matrices: usize,
    /// Rounds over all matrices; the median counts.
    pub rounds: usize,
    /// Threads that share the work.
    pub threads: usize,
}

/// Number format of a dense matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes a number.
    F32,
    /// 2 bytes a number.
    Bf16,
}

/// Bytes that `threads` threads together read from memory in a second, in 10^9: the best of several passes over 256 MB.
///
/// # Errors
///
/// Threads that cannot be started.
pub fn memory_bandwidth(threads: usize) -> Result<f64> {
    const WORDS: usize = 32 << 20;
    const STREAMS: usize = 4;
    let words: Vec<u64> = (0..WORDS as u64).collect();
    let read = |part: &[u64]| {
        // Several streams, as a kernel has them: one alone does not keep the memory of most machines busy.
        let mut sums = [0u64; STREAMS * 8];
        let streams: Vec<&[u64]> = part.chunks_exact(part.len() / STREAMS).collect();
        for i in (0..streams[0].len() / 8 * 8).step_by(8) {
            for (stream, sums) in streams.iter().zip(sums.chunks_exact_mut(8)) {
                for (sum, word) in sums.iter_mut().zip(&stream[i..i + 8]) {
                    *sum = sum.wrapping_add(*word);
                }
            }
        }
        sums.iter().fold(0u64, |a, b| a.wrapping_add(*b))
    };
    let seconds = pool(threads)?.install(|| {
        times(8, || {
            black_box(words.par_chunks(WORDS / 256).map(read).reduce(|| 0, u64::wrapping_add));
        })
    });
    Ok(size_of_val(words.as_slice()) as f64 / seconds[0] / 1e9)
}

/// Times the product with packed matrices of `bits` bits and a scale and zero point for `group_size` columns.
///
/// # Errors
///
/// A width or group size that does not exist, or threads that cannot be started.
pub fn packed(setting: Setting, bits: u8, group_size: usize) -> Result<Measurement> {
    let Setting { n, rows, cols, .. } = setting;
    let mut view = PackedView { rows, cols, bits, group_size, codes: &[], scales: &[], zeros: None };
    let mut noise = Noise(1);
    let codes: Vec<Vec<u8>> = (0..setting.matrices).map(|_| noise.bytes(rows * view.row_bytes())).collect();
    let scales = vec![vec![0.01f32; rows * view.n_groups()]; setting.matrices];
    let zeros = vec![vec![1u8; rows * view.n_groups()]; setting.matrices];
    let x = noise.numbers(n * cols);
    let mut y = vec![0.0; n * rows];
    let name = format!("packed {bits} bits, group {group_size}");
    measure(name, setting, |i| {
        (view.codes, view.scales, view.zeros) = (&codes[i], &scales[i], Some(zeros[i].as_slice()));
        matmul_packed(&view, &x, n, &mut y)?;
        Ok(view.bytes())
    })
}

/// Times the product of rows of 8-bit codes with packed matrices of `bits` bits and a scale and zero point a row.
///
/// # Errors
///
/// A width that does not exist, or threads that cannot be started.
pub fn integers(setting: Setting, bits: u8) -> Result<Measurement> {
    let Setting { n, rows, cols, .. } = setting;
    let (scales, zeros) = (vec![0.01f32; rows], vec![1u8; rows]);
    let mut view =
        PackedView { rows, cols, bits, group_size: cols, codes: &[], scales: &scales, zeros: Some(&zeros) };
    let mut noise = Noise(1);
    let codes: Vec<Vec<u8>> = (0..setting.matrices).map(|_| noise.bytes(rows * view.row_bytes())).collect();
    let (x, steps) = (noise.bytes(n * cols), vec![ActivationStep { scale: 0.01, zero: 128 }; n]);
    let mut y = vec![0.0; n * rows];
    measure(format!("integers {bits} bits by 8 bits"), setting, |i| {
        view.codes = &codes[i];
        matmul_codes(&view, CodeRows { codes: &x, steps: &steps }, &mut y)?;
        Ok(view.bytes())
    })
}

/// Times the product with dense matrices.
///
/// # Errors
///
/// Threads that cannot be started.
pub fn dense(setting: Setting, precision: Precision) -> Result<Measurement> {
    let Setting { n, rows, cols, matrices, .. } = setting;
    let mut noise = Noise(1);
    let x = noise.numbers(n * cols);
    let w = noise.numbers(rows * cols);
    let mut y = vec![0.0; n * rows];
    match precision {
        Precision::F32 => {
            let all = vec![w; matrices];
            measure("dense f32".into(), setting, |i| {
                let view = DenseView::f32(rows, cols, &all[i]);
                matmul_dense(&view, &x, n, &mut y).map(|()| view.bytes())
            })
        }
        Precision::Bf16 => {
            let all = vec![w.into_iter().map(bf16::from_f32).collect::<Vec<_>>(); matrices];
            measure("dense bf16".into(), setting, |i| {
                let view = DenseView::bf16(rows, cols, &all[i]);
                matmul_dense(&view, &x, n, &mut y).map(|()| view.bytes())
            })
        }
    }
}

/// Times rounds of `product(matrix)`, which says how many bytes of weights it read.
fn measure(
    name: String,
    setting: Setting,
    mut product: impl FnMut(usize) -> Result<usize> + Send,
) -> Result<Measurement> {
    let Setting { n, rows, cols, matrices, rounds, threads } = setting;
    let (bytes, mut seconds) = pool(threads)?.install(|| {
        let mut bytes = 0;
        let mut seconds = Vec::with_capacity(rounds);
        for _ in 0..rounds.max(1) {
            let start = Instant::now();
            for i in 0..matrices {
                bytes = product(i)?;
            }
            seconds.push(start.elapsed().as_secs_f64() / matrices as f64);
        }
        Ok((bytes, seconds))
    })?;
    seconds.sort_by(f64::total_cmp);
    let seconds = seconds[seconds.len() / 2];
    Ok(Measurement {
        name,
        shape: [n, rows, cols],
        threads,
        seconds,
        gb_per_s: bytes as f64 / seconds / 1e9,
        gflops: 2.0 * (n * rows * cols) as f64 / seconds / 1e9,
    })
}

/// Sorted times of `rounds` runs.
fn times(rounds: usize, mut run: impl FnMut()) -> Vec<f64> {
    let mut seconds: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Error::Threads { threads, message: error.to_string() })
}

/// Arbitrary operands (SplitMix64): the time of a product does not depend on them.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(n + 8);
        while bytes.len() < n {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(n);
        bytes
    }

    fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_measurement_agree_with_each_other() {
        let setting = Setting { n: 2, rows: 64, cols: 256, matrices: 2, rounds: 3, threads: 2 };
        for (m, bytes) in [
            (packed(setting, 4, 128).unwrap(), 64 * (128 + 2 * 5)),
            (integers(setting, 8).unwrap(), 64 * (256 + 5)),
            (dense(setting, Precision::Bf16).unwrap(), 64 * 256 * 2),
        ] {
            assert!(m.seconds > 0.0);
            assert!((m.gb_per_s * m.seconds * 1e9 / f64::from(bytes) - 1.0).abs() < 1e-9, "{m:?}");
            assert!((m.gflops * m.seconds * 1e9 / f64::from(2 * 2 * 64 * 256) - 1.0).abs() < 1e-9, "{m:?}");
        }
        assert!(packed(setting, 9, 128).is_err());
    }

    #[test]
    fn the_machine_reads_memory() {
        assert!(memory_bandwidth(1).unwrap() > 0.1);
    }
}
