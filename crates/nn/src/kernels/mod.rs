//! Products of rows with a packed or dense matrix on the CPU: `y[t, o] = sum_i x[t, i] * W[o, i]`.
//!
//! The matrix is never decoded as a whole. A few rows of `x` (text generation) stream the packed bytes once and
//! multiply the integer codes themselves; scale and zero point are applied once a group,
//! `y = sum_g s_g * (sum_{i in g} u_i x_i - z_g * sum_{i in g} x_i)`. Many rows of `x` (calibration, prompts), and
//! groups whose ends are no multiple of eight columns, decode tiles that stay in the cache of one core and run a
//! register-blocked product on them.
//!
//! What rounds the rows of `x` to codes, too, multiplies integers: [`integers`] says how exactly. What follows is of floats.
//!
//! # Accuracy
//!
//! With `e = 2^-24`, `u` the code, `z` the zero point and `s` the scale of an element, every output obeys
//! `|y - exact| <= e * sum_i |s_i| * (u_i + z_i) * (c * |x_i| + 3 * m_i)` with `c = cols / 8 + n_groups + 16`, as
//! long as no intermediate leaves the normal range of `f32`. `u + z` and not `|u - z|`, because the zero point is
//! taken out of the sum. `m_i` is the largest `|x|` among the aligned 128 columns of `i` where codes of 2 or 4 bits
//! are streamed with AVX2, which rounds `x` to fixed point before exact integer sums, and 0 elsewhere. Dense
//! matrices: `c * e * sum_i |x_i w_i|` with `c = cols / 8 + 16`. A row of `x` that holds an infinity or a NaN gives
//! outputs that are not finite.
//!
//! # Determinism
//!
//! Threads share the output rows in chunks of fixed size, and the order of the additions of one output depends on the
//! shapes and on the instruction set alone, never on the number of threads.

pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // Instructions that a processor may lack.
mod avx2;
pub mod bench;
pub mod binary;
pub(crate) mod channels;
mod conv;
mod decode;
mod error;
pub mod integers;
mod isa;
mod parallel;
mod portable;
#[cfg(test)]
mod tests;
mod tile;
mod view;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // Instructions that a processor may lack.
mod vnni;

pub use conv::{
    ConvShape, channel_sums, conv2d, conv2d_input_gradient, conv2d_input_gradient_with,
    conv2d_weight_gradient, conv2d_weight_gradient_with, conv2d_with, patches,
};
pub use error::{Error, Result};
pub use integers::{CodeRows, matmul_codes};
pub use isa::Isa;
pub use parallel::awake;
pub use view::{DenseView, PackedView};

/// Multiplies `n` rows `x` (`[n, cols]`) with a packed matrix into `y` (`[n, rows]`), with the best instructions here.
///
/// # Errors
///
/// A view whose parts do not fit together, or an `x` or `y` of another length.
pub fn matmul_packed(view: &PackedView<'_>, x: &[f32], n: usize, y: &mut [f32]) -> Result<()> {
    matmul_packed_with(Isa::detect(), view, x, n, y)
}

/// [`matmul_packed`] with the instructions of `isa`.
///
/// # Errors
///
/// Those of [`matmul_packed`], and an instruction set that this processor lacks.
pub fn matmul_packed_with(isa: Isa, view: &PackedView<'_>, x: &[f32], n: usize, y: &mut [f32]) -> Result<()> {
    isa.require()?;
    view.check()?;
    check_rows(view.rows, view.cols, x, n, y)?;
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 && avx2::stream::multiply(view, x, n, y) {
        return Ok(());
    }
    tile::multiply(isa, view, x, n, y);
    Ok(())
}

/// Multiplies `n` rows `x` (`[n, cols]`) with a dense matrix into `y` (`[n, rows]`), with the best instructions here.
///
/// # Errors
///
/// A view, an `x` or a `y` of another length than its shape needs.
pub fn matmul_dense(view: &DenseView<'_>, x: &[f32], n: usize, y: &mut [f32]) -> Result<()> {
    matmul_dense_with(Isa::detect(), view, x, n, y)
}

/// [`matmul_dense`] with the instructions of `isa`.
///
/// # Errors
///
/// Those of [`matmul_dense`], and an instruction set that this processor lacks.
pub fn matmul_dense_with(isa: Isa, view: &DenseView<'_>, x: &[f32], n: usize, y: &mut [f32]) -> Result<()> {
    isa.require()?;
    view.check()?;
    check_rows(view.rows(), view.cols(), x, n, y)?;
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 && n == 1 {
        avx2::dense::matvec(view, x, y);
        return Ok(());
    }
    tile::multiply(isa, view, x, n, y);
    Ok(())
}

fn check_rows(rows: usize, cols: usize, x: &[f32], n: usize, y: &[f32]) -> Result<()> {
    view::expect_len("x", n.checked_mul(cols), x.len())?;
    view::expect_len("y", n.checked_mul(rows), y.len())
}
