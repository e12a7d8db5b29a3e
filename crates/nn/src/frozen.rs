//! Matrices that nobody trains: products with their rows and, for the way back, with their columns. Whatever code they are in, no more
//! than a tile is decoded at a time (INT2.1: Chai et al., arXiv 2306.08162, whose layer keeps packed codes alone for both ways).

use std::sync::Arc;

use rayon::prelude::*;
use trimtab_io::{AffineTensor, Coded, Dtype, RawTensor, RealTensor};

use crate::kernels::{self, CodeRows, DenseView, PackedView};

/// Rows that are decoded at a time.
const TILE: usize = 128;

/// A matrix `[out, in]` without the framework.
#[derive(Clone, Debug)]
pub(crate) enum Frozen {
    /// Numbers in the bytes of a file.
    Stored(Arc<RawTensor>),
    /// Integer codes.
    Packed(Arc<AffineTensor>),
    /// Any other code.
    Coded(Arc<Coded>),
}

impl Frozen {
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Stored(tensor) => [tensor.shape[0], tensor.shape[1]],
            Self::Packed(tensor) => [tensor.rows, tensor.cols],
            Self::Coded(matrix) => matrix.dims(),
        }
    }

    /// Numbers of a row.
    pub fn read_row(&self, index: usize, row: &mut [f32]) {
        match self {
            Self::Packed(tensor) => tensor.dequantize_row(index, row),
            Self::Coded(matrix) => matrix.dequantize_row(index, row),
            Self::Stored(tensor) => match stored_view(tensor) {
                Some(view) => {
                    view.read_row(index, row).expect("token ids were checked against the vocabulary")
                }
                None => {
                    let width = row.len();
                    let values = tensor.as_f32_cow().expect(FLOATS);
                    row.copy_from_slice(&values[index * width..(index + 1) * width]);
                }
            },
        }
    }

    /// `y = x W^T` for `n` rows `x` (`[n, in]`), `[n, out]`.
    pub fn multiply(&self, x: &[f32], n: usize, y: &mut [f32]) {
        match self {
            Self::Packed(tensor) if tensor.g_idx.is_none() => kernels::matmul_packed(&view(tensor), x, n, y),
            Self::Stored(tensor) if stored_view(tensor).is_some() => {
                kernels::matmul_dense(&stored_view(tensor).expect("checked by the guard"), x, n, y)
            }
            Self::Coded(matrix) => match &**matrix {
                Coded::Real(matrix) => multiply_real(matrix, x, n, y),
                _ => self.multiply_decoded(x, n, y),
            },
            _ => self.multiply_decoded(x, n, y),
        }
        .expect(AGREE);
    }

    /// Whether [`Self::multiply_codes`] has a kernel: integer codes with one scale a row.
    pub fn takes_codes(&self) -> bool {
        matches!(self, Self::Packed(tensor) if tensor.g_idx.is_none() && kernels::integers::takes(&view(tensor)))
    }

    /// [`Self::multiply`] for rows of codes, in integers.
    pub fn multiply_codes(&self, x: CodeRows<'_>, y: &mut [f32]) {
        let Self::Packed(tensor) = self else { unreachable!("asked for by `takes_codes`") };
        kernels::matmul_codes(&view(tensor), x, y).expect(AGREE);
    }

    fn multiply_decoded(&self, x: &[f32], n: usize, y: &mut [f32]) -> kernels::Result<()> {
        let [out, cols] = self.dims();
        for first in (0..out).step_by(TILE) {
            let rows = TILE.min(out - first);
            let tile = self.decode(first, rows);
            let mut part = vec![0.0; n * rows];
            kernels::matmul_dense(&DenseView::f32(rows, cols, &tile), x, n, &mut part)?;
            for (y, part) in y.chunks_mut(out).zip(part.chunks(rows)) {
                y[first..first + rows].copy_from_slice(part);
            }
        }
        Ok(())
    }

    /// `dx = dy W` for `n` rows `dy` (`[n, out]`), `[n, in]`: the step back through [`Self::multiply`] to its input. Tiles are added
    /// up in order.
    pub fn multiply_back(&self, dy: &[f32], n: usize) -> Vec<f32> {
        let [out, cols] = self.dims();
        let mut dx = vec![0.0f32; n * cols];
        for first in (0..out).step_by(TILE) {
            let rows = TILE.min(out - first);
            let tile = trimtab_io::transpose(&self.decode(first, rows), rows, cols);
            let part: Vec<f32> =
                dy.chunks(out).flat_map(|dy| dy[first..first + rows].iter().copied()).collect();
            let mut sum = vec![0.0; n * cols];
            kernels::matmul_dense(&DenseView::f32(cols, rows, &tile), &part, n, &mut sum).expect(AGREE);
            dx.iter_mut().zip(&sum).for_each(|(dx, sum)| *dx += sum);
        }
        dx
    }

    /// Rows `first .. first + rows` as numbers.
    fn decode(&self, first: usize, rows: usize) -> Vec<f32> {
        let [_, cols] = self.dims();
        let mut tile = vec![0.0; rows * cols];
        tile.par_chunks_mut(cols.max(1)).enumerate().for_each(|(i, row)| self.read_row(first + i, row));
        tile
    }
}

const FLOATS: &str = "the type of a stored weight was checked when it was loaded";
const AGREE: &str = "the shapes of a site agree since it was built";

/// What the dense kernels can read without a conversion.
fn stored_view(tensor: &RawTensor) -> Option<DenseView<'_>> {
    let [rows, cols] = [tensor.shape[0], tensor.shape[1]];
    match tensor.dtype {
        Dtype::F32 => tensor.bytes.as_f32().map(|w| DenseView::f32(rows, cols, w)),
        Dtype::BF16 => tensor.bytes.as_bf16().map(|w| DenseView::bf16(rows, cols, w)),
        _ => None,
    }
}

fn view(t: &AffineTensor) -> PackedView<'_> {
    PackedView {
        rows: t.rows,
        cols: t.cols,
        bits: t.scheme.bits,
        group_size: t.scheme.group_size.unwrap_or(t.cols),
        codes: &t.codes,
        scales: &t.scales,
        zeros: t.zeros.as_deref(),
    }
}

/// `y = sum_g s_g (sum_{i in g} v_i x_i) + z_g (sum_{i in g} x_i)`: the product with the codes, and one of a column a group
/// with the sums of the inputs.
fn multiply_real(matrix: &RealTensor, x: &[f32], n: usize, y: &mut [f32]) -> kernels::Result<()> {
    let codes = matrix.codes();
    let (width, groups) =
        (codes.scheme.group_size.unwrap_or(codes.cols).max(1), codes.scheme.n_groups(codes.cols));
    kernels::matmul_packed(&view(codes), x, n, y)?;
    let sums: Vec<f32> = x
        .chunks(codes.cols.max(1))
        .flat_map(|row| {
            row.chunks(width).map(|group| group.iter().map(|&x| f64::from(x)).sum::<f64>() as f32)
        })
        .collect();
    let mut shift = vec![0.0; y.len()];
    kernels::matmul_dense(&DenseView::f32(codes.rows, groups, matrix.zeros()), &sums, n, &mut shift)?;
    y.iter_mut().zip(&shift).for_each(|(y, shift)| *y += shift);
    Ok(())
}
