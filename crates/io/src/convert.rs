//! The same codes in another wrapping.
//!
//! compressed-tensors, GPTQ and AWQ hold one affine code: converting between them moves codes and zero points, never
//! numbers that were decoded. All that can be lost is precision of the scales, where the target has a narrower type.

use std::fmt;

use crate::affine::AffineTensor;
use crate::awq;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::gptq::{self, GptqFormat};
use crate::tensor::round_floats;

/// A file format that holds affine codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffineFormat {
    /// compressed-tensors, `pack-quantized`.
    PackQuantized,
    /// compressed-tensors, `int-quantized`: a byte a code.
    IntQuantized,
    /// GPTQ.
    Gptq(GptqFormat),
    /// AWQ in its GEMM version.
    Awq,
}

/// What a conversion keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fidelity {
    /// Every number comes back to the last bit.
    Exact,
    /// Scales are rounded.
    Lossy {
        /// Their type before.
        from: Dtype,
        /// Their type after.
        to: Dtype,
        /// The largest change of a scale, and so of a number, relative to itself.
        largest_change: f32,
    },
}

impl fmt::Display for AffineFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PackQuantized => "pack-quantized",
            Self::IntQuantized => "int-quantized",
            Self::Gptq(version) => version.name(),
            Self::Awq => "awq",
        })
    }
}

impl fmt::Display for Fidelity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Lossy { from, to, largest_change } => {
                write!(f, "lossy: scales {from} -> {to}, largest relative change {largest_change:.1e}")
            }
        }
    }
}

/// What `matrix` loses as a file of `target`.
///
/// # Errors
/// As [`convert`].
pub fn fidelity(matrix: &AffineTensor, target: AffineFormat) -> Result<Fidelity> {
    rounded_scales(matrix, target).map(|(_, fidelity)| fidelity)
}

/// The matrix that a file of `target` holds, ready to be written, and what it loses.
///
/// # Errors
/// [`Error::Invalid`] with the reason if the format cannot hold these codes: their width, the shape, a short last group,
/// an order of the columns, a zero point that wraps; or if a scale leaves the range of F16.
pub fn convert(matrix: &AffineTensor, target: AffineFormat) -> Result<(AffineTensor, Fidelity)> {
    let (scales, fidelity) = rounded_scales(matrix, target)?;
    let scale_dtype = scale_dtype(matrix, target);
    Ok((AffineTensor { scales, scale_dtype, ..matrix.clone() }, fidelity))
}

/// Type of the scales in a file of `target`.
fn scale_dtype(matrix: &AffineTensor, target: AffineFormat) -> Dtype {
    match target {
        AffineFormat::PackQuantized | AffineFormat::IntQuantized => matrix.scale_dtype,
        AffineFormat::Gptq(_) | AffineFormat::Awq => Dtype::F16,
    }
}

fn rounded_scales(matrix: &AffineTensor, target: AffineFormat) -> Result<(Vec<f32>, Fidelity)> {
    match target {
        AffineFormat::PackQuantized | AffineFormat::IntQuantized => {}
        AffineFormat::Gptq(version) => gptq::check_codes(matrix, version)?,
        AffineFormat::Awq => awq::check_codes(matrix)?,
    }
    let (from, to) = (matrix.scale_dtype, scale_dtype(matrix, target));
    let mut scales = matrix.scales.clone();
    round_floats(&mut scales, to)?;
    let mut largest_change = 0f32;
    for (i, (&before, &after)) in matrix.scales.iter().zip(&scales).enumerate() {
        // A scale that becomes 0 loses a whole group.
        if !after.is_finite() || (after == 0.0) != (before == 0.0) {
            let message = format!("scale {before} at index {i} becomes {after} as {to}");
            return Err(Error::invalid(target.to_string(), message));
        }
        if after != before {
            largest_change = largest_change.max(((after - before) / before).abs());
        }
    }
    let fidelity = match largest_change {
        0.0 => Fidelity::Exact,
        _ => Fidelity::Lossy { from, to, largest_change },
    };
    Ok((scales, fidelity))
}
