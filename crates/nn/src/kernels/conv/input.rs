//! The gradient of a convolution's input.
//!
//! `dx[c, r] = sum_(o, i) W[o, c, i] dy[o, (r + padding - i) / stride]`, over the `i` that the stride divides: for the inputs
//! `r = a, a + stride, ..` these are always the same `i`, and the sum is a convolution of stride 1 with a part of the kernel. So
//! each phase `a` is one [`Sweep`] over the padded output gradient, and nothing is multiplied by the zeros between outputs.

use super::padded::Padded;
use super::{ConvShape, Sweep, Taps, blocks, expect_len, runs, sweep_images};
use crate::kernels::{Isa, Result};

/// `dx [B, C, H, W]` for `weight [rows, cols]` and `dy [B, rows, H', W']`.
///
/// Every number is within `n e sum |W dy|` of the exact one, with `n` the products that it is the sum of, and `e = 2^-24`.
///
/// # Errors
///
/// Operands of other lengths than the shape needs.
pub fn conv2d_input_gradient(shape: &ConvShape, weight: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    conv2d_input_gradient_with(Isa::detect(), shape, weight, dy, dx)
}

/// [`conv2d_input_gradient`] with the instructions of `isa`.
///
/// # Errors
///
/// Those of [`conv2d_input_gradient`], and an instruction set that this processor lacks.
pub fn conv2d_input_gradient_with(
    isa: Isa,
    shape: &ConvShape,
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) -> Result<()> {
    isa.require()?;
    expect_len("W", shape.rows.checked_mul(shape.cols()), weight.len())?;
    expect_len("dy", shape.batch.checked_mul(shape.rows * shape.positions()), dy.len())?;
    expect_len("dx", shape.batch.checked_mul(shape.image_len()), dx.len())?;
    if dx.is_empty() {
        return Ok(());
    }
    if dy.is_empty() {
        dx.fill(0.0);
        return Ok(());
    }
    let axes = [0, 1].map(|i| Phases::new(shape, i));
    let padded = Padded::output(
        shape,
        axes.each_ref().map(|axis| axis.before),
        axes.each_ref().map(|axis| axis.total),
    );
    let pairs = axes[0].phases.iter().flat_map(|a| axes[1].phases.iter().map(move |b| [a, b]));
    let sweeps: Vec<Sweep> = pairs.map(|pair| sweep(shape, &padded, weight, pair)).collect();
    sweep_images(isa, &padded, &sweeps, None, dy, dx, shape.batch);
    Ok(())
}

/// The inputs `first, first + stride, ..` along one axis.
struct Phase {
    first: usize,
    count: usize,
    /// Taps `(i, u)`: input `first + t stride` has the product of tap `i` of the kernel and the padded output gradient `t + u`.
    taps: Vec<(usize, usize)>,
}

/// All phases of one axis, and the zeros that they need around the output gradient.
struct Phases {
    phases: Vec<Phase>,
    before: usize,
    /// Outputs with the zeros before and after them.
    total: usize,
}

impl Phases {
    fn new(shape: &ConvShape, axis: usize) -> Self {
        let geometry = &shape.geometry;
        let (kernel, stride) = (geometry.kernel[axis], geometry.stride[axis]);
        let (padding, size) = (geometry.padding[axis], shape.input[axis]);
        // Tap `i` of input `a` reads output `(a + padding - i) / stride`: the earliest is that of the last tap.
        let before = (kernel - 1).saturating_sub(padding).div_ceil(stride);
        let phase = |first: usize| {
            let reached =
                (0..kernel).filter(|i| (first + padding + kernel * stride - i).is_multiple_of(stride));
            let taps = reached.map(|i| (i, (first + padding + before * stride - i) / stride)).collect();
            Phase { first, count: (size - first).div_ceil(stride), taps }
        };
        let phases: Vec<Phase> = (0..stride.min(size)).map(phase).collect();
        let last = |phase: &Phase| phase.taps.iter().map(|(_, u)| u + phase.count).max().unwrap_or(0);
        let total = phases.iter().map(last).max().unwrap_or(0).max(before + shape.output[axis]);
        Self { phases, before, total }
    }
}

fn sweep(shape: &ConvShape, padded: &Padded, weight: &[f32], [down, across]: [&Phase; 2]) -> Sweep {
    let ([kh, kw], [sh, sw], groups) = (shape.geometry.kernel, shape.geometry.stride, shape.geometry.groups);
    let (out_group, width) = (shape.rows / groups, shape.input[1]);
    let pairs = || down.taps.iter().flat_map(|i| across.taps.iter().map(move |j| (i, j)));
    // Order of the sum: output channel, then tap.
    let columns: Vec<(usize, usize)> =
        (0..out_group).flat_map(|o| pairs().map(move |(i, j)| (o, i.0 * kw + j.0))).collect();
    let offsets = (0..out_group).flat_map(|o| pairs().map(move |(i, j)| [o, i.1, j.1]));
    let blocks = blocks(shape.channels, columns.len(), groups, |group, c, k| {
        let (o, tap) = columns[k];
        weight[(group * out_group + o) * shape.cols() + c * kh * kw + tap]
    });
    let output = |i: usize, j: usize| (down.first + i * sh) * width + across.first + j * sw;
    Sweep {
        blocks,
        taps: Taps::new(offsets.map(|at| padded.offset(at)).collect()),
        runs: runs([down.count, across.count], padded.row(), output),
        step: sw,
        plane: shape.input.iter().product(),
    }
}
