//! Convolutions on the CPU: every output row is a run of contiguous inputs, once the image is padded and its columns are
//! sorted by phase.
//!
//! For stride `s` a padded row keeps the columns `0, s, 2 s, ..`, then `1, 1 + s, ..`. Then eight outputs that lie side by
//! side read eight neighbours for every tap of the kernel, and no patch is ever copied. A block of output channels and
//! two such runs stay in registers while all taps are added, in the order of the weight's columns: one output is the same
//! number whatever the threads, the batch and the block.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::view::expect_len;
use super::{Isa, Result};
use crate::conv::ConvGeometry;

/// Outputs of a run.
pub(super) const RUN: usize = 8;
/// Output channels of a block.
pub(super) const BLOCK: usize = 6;

/// Shape of one convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub channels: usize,
    /// `[H, W]` of the input.
    pub input: [usize; 2],
    /// `[H', W']` of the output.
    pub output: [usize; 2],
    /// Output channels.
    pub rows: usize,
    /// Kernel, stride, padding, groups.
    pub geometry: ConvGeometry,
}

impl ConvShape {
    /// The shape for images `[batch, channels, h, w]`; `None` if the kernel does not fit into the padded image or the
    /// groups do not divide the channels.
    pub fn new([batch, channels, h, w]: [usize; 4], rows: usize, geometry: ConvGeometry) -> Option<Self> {
        let output = geometry.output([h, w])?;
        let groups = geometry.groups;
        let fits = groups > 0 && channels.is_multiple_of(groups) && rows.is_multiple_of(groups);
        fits.then_some(Self { batch, channels, input: [h, w], output, rows, geometry })
    }

    /// Inputs of one output: the columns of the weight.
    pub fn cols(&self) -> usize {
        self.channels / self.geometry.groups * self.geometry.kernel.iter().product::<usize>()
    }

    /// Outputs of one channel of one image.
    pub fn positions(&self) -> usize {
        self.output.iter().product()
    }

    fn image_len(&self) -> usize {
        self.channels * self.input.iter().product::<usize>()
    }
}

/// `y[b, o, i, j] = bias[o] + sum_k W[o, k] patch[b, i, j, k]` for `x [B, C, H, W]`, `weight [rows, cols]`, `bias [rows]`,
/// `y [B, rows, H', W']`.
///
/// Every output obeys `|y - exact| <= (cols + 1) e * (|bias| + sum |W x|)` with `e = 2^-24`.
///
/// # Errors
///
/// Operands of other lengths than the shape needs.
pub fn conv2d(
    shape: &ConvShape,
    weight: &[f32],
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [f32],
) -> Result<()> {
    conv2d_with(Isa::detect(), shape, weight, bias, x, y)
}

/// [`conv2d`] with the instructions of `isa`.
///
/// # Errors
///
/// Those of [`conv2d`], and an instruction set that this processor lacks.
pub fn conv2d_with(
    isa: Isa,
    shape: &ConvShape,
    weight: &[f32],
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [f32],
) -> Result<()> {
    isa.require()?;
    let (rows, positions) = (shape.rows, shape.positions());
    expect_len("W", rows.checked_mul(shape.cols()), weight.len())?;
    expect_len("x", shape.batch.checked_mul(shape.image_len()), x.len())?;
    expect_len("y", shape.batch.checked_mul(rows * positions), y.len())?;
    bias.map_or(Ok(()), |bias| expect_len("bias", Some(rows), bias.len()))?;
    if y.is_empty() {
        return Ok(());
    }
    let layout = Layout::new(shape);
    let blocks = blocks(shape, weight);
    let images = x.chunks_exact(shape.image_len().max(1));
    let run = |block: &Block, padded: &[f32], y: &mut [f32]| {
        let bias = bias.map(|bias| &bias[block.first..][..block.rows]);
        layout.multiply(isa, block, bias, padded, y);
    };
    if shape.batch >= rayon::current_num_threads() {
        let images: Vec<&[f32]> = images.collect();
        let tasks = images.par_iter().zip(y.par_chunks_mut(rows * positions));
        tasks.for_each_init(Vec::new, |padded, (image, y)| {
            layout.pad(image, padded);
            let mut rest = y;
            for block in &blocks {
                let (out, after) = rest.split_at_mut(block.rows * positions);
                run(block, padded, out);
                rest = after;
            }
        });
        return Ok(());
    }
    let mut padded = Vec::new();
    for (image, y) in images.zip(y.chunks_mut(rows * positions)) {
        layout.pad(image, &mut padded);
        let mut parts = Vec::with_capacity(blocks.len());
        let mut rest = y;
        for block in &blocks {
            let (out, after) = rest.split_at_mut(block.rows * positions);
            parts.push((block, out));
            rest = after;
        }
        parts.into_par_iter().for_each(|(block, out)| run(block, &padded, out));
    }
    Ok(())
}

/// im2col: the inputs of every output, `[B * groups * H' * W', cols]`, image by image and group by group.
///
/// # Errors
///
/// An `x` of another length than the shape needs.
pub fn patches(shape: &ConvShape, x: &[f32]) -> Result<Vec<f32>> {
    expect_len("x", shape.batch.checked_mul(shape.image_len()), x.len())?;
    let (cols, groups) = (shape.cols(), shape.geometry.groups);
    let layout = Layout::new(shape);
    let mut out = vec![0.0f32; shape.batch * groups * shape.positions() * cols];
    let image = (groups * shape.positions() * cols).max(1);
    let tasks = out.par_chunks_mut(image).zip(x.par_chunks(shape.image_len().max(1)));
    tasks.for_each_init(Vec::new, |padded, (out, image)| {
        layout.pad(image, padded);
        let mut rows = out.chunks_exact_mut(cols.max(1));
        for group in 0..groups {
            for (i, j) in (0..shape.output[0]).flat_map(|i| (0..shape.output[1]).map(move |j| (i, j))) {
                let window = &padded[group * layout.group_len + i * layout.step + j..];
                let row = rows.next().into_iter().flatten();
                row.zip(&layout.taps.offsets).for_each(|(value, &tap)| *value = window[tap]);
            }
        }
    });
    Ok(out)
}

/// Output channels that are computed together, their weights sorted by tap.
pub(super) struct Block {
    /// First output channel.
    first: usize,
    /// Output channels, at most [`BLOCK`]; all of one group.
    pub(super) rows: usize,
    group: usize,
    /// `[cols, rows]`.
    pub(super) weights: Vec<f32>,
}

fn blocks(shape: &ConvShape, weight: &[f32]) -> Vec<Block> {
    let (cols, groups) = (shape.cols(), shape.geometry.groups);
    let in_group = shape.rows / groups;
    let starts = (0..groups).flat_map(|group| (0..in_group).step_by(BLOCK).map(move |start| (group, start)));
    let block = |(group, start): (usize, usize)| {
        let (first, rows) = (group * in_group + start, BLOCK.min(in_group - start));
        let from = &weight[first * cols..];
        let weights = (0..cols).flat_map(|k| (0..rows).map(move |r| from[r * cols + k])).collect();
        Block { first, rows, group, weights }
    };
    starts.map(block).collect()
}

/// Where the inputs of an output lie, from the first one of its run on.
pub(super) struct Taps {
    /// For every column of the weight.
    pub(super) offsets: Vec<usize>,
    /// The largest of them.
    pub(super) reach: usize,
}

/// Where things lie in a padded image.
struct Layout<'s> {
    shape: &'s ConvShape,
    /// Numbers of one phase of a row.
    phase: usize,
    /// Numbers of a channel.
    plane: usize,
    /// Numbers of the channels of a group.
    group_len: usize,
    /// Numbers between the inputs of two rows of outputs.
    step: usize,
    taps: Taps,
    /// First input and number of outputs of every run.
    runs: Vec<(usize, usize)>,
}

impl<'s> Layout<'s> {
    fn new(shape: &'s ConvShape) -> Self {
        let ConvGeometry { kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw], groups } = shape.geometry;
        let phase = (shape.input[1] + 2 * pw).div_ceil(sw);
        let row = phase * sw;
        let plane = row * (shape.input[0] + 2 * ph);
        let in_group = shape.channels / groups;
        let tap = |c: usize, i: usize, j: usize| c * plane + i * row + j % sw * phase + j / sw;
        let taps = (0..in_group).flat_map(|c| (0..kh).flat_map(move |i| (0..kw).map(move |j| tap(c, i, j))));
        let offsets: Vec<usize> = taps.collect();
        let taps = Taps { reach: offsets.iter().copied().max().unwrap_or(0), offsets };
        let [height, width] = shape.output;
        let starts = (0..height).flat_map(|i| (0..width).step_by(RUN).map(move |j| (i, j)));
        let runs = starts.map(|(i, j)| (i * sh * row + j, RUN.min(width - j))).collect();
        Self { shape, phase, plane, group_len: in_group * plane, step: sh * row, taps, runs }
    }

    /// Numbers of a padded image, with room for the last run to read past its end.
    fn len(&self) -> usize {
        self.shape.channels * self.plane + RUN
    }

    /// Writes an image (`[C, H, W]`) with zeros around it, columns sorted by phase.
    fn pad(&self, image: &[f32], out: &mut Vec<f32>) {
        let ConvGeometry { stride: [_, stride], padding: [top, left], .. } = self.shape.geometry;
        let [height, width] = self.shape.input;
        let row = self.phase * stride;
        if out.len() != self.len() {
            out.clear();
            out.resize(self.len(), 0.0); // and no later image touches the zeros
        }
        for (plane, from) in out.chunks_exact_mut(self.plane).zip(image.chunks_exact(height * width)) {
            for (out, from) in plane[top * row..].chunks_exact_mut(row).zip(from.chunks_exact(width)) {
                if stride == 1 {
                    out[left..left + width].copy_from_slice(from);
                    continue;
                }
                for (j, &value) in from.iter().enumerate() {
                    let column = left + j;
                    out[column % stride * self.phase + column / stride] = value;
                }
            }
        }
    }

    /// The outputs of one block, `[rows, positions]`.
    fn multiply(&self, isa: Isa, block: &Block, bias: Option<&[f32]>, padded: &[f32], y: &mut [f32]) {
        let padded = &padded[block.group * self.group_len..];
        let positions = self.shape.positions();
        let mut at = 0;
        for pair in self.runs.chunks(2) {
            // Of an odd number of runs, the last is computed twice and stored once.
            let (first, second) = (pair[0], *pair.last().unwrap_or(&pair[0]));
            let mut sums = [[[0.0f32; RUN]; 2]; BLOCK];
            let starts = [first.0, second.0];
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::conv::add_taps(block, &self.taps, padded, starts, &mut sums),
                _ => add_taps(block, &self.taps, padded, starts, &mut sums),
            }
            for (run, &(_, len)) in pair.iter().enumerate() {
                for (r, sums) in sums.iter().enumerate().take(block.rows) {
                    let out = &mut y[r * positions + at..][..len];
                    let bias = bias.map_or(0.0, |bias| bias[r]);
                    out.iter_mut().zip(&sums[run]).for_each(|(out, sum)| *out = sum + bias);
                }
                at += len;
            }
        }
    }
}

/// `sums[r][run][i] = sum_k W[r, k] padded[starts[run] + taps[k] + i]`.
fn add_taps(
    block: &Block,
    taps: &Taps,
    padded: &[f32],
    starts: [usize; 2],
    sums: &mut [[[f32; RUN]; 2]; BLOCK],
) {
    for (weights, tap) in block.weights.chunks_exact(block.rows).zip(&taps.offsets) {
        for (run, start) in starts.iter().enumerate() {
            let inputs = &padded[start + tap..][..RUN];
            for (sums, w) in sums.iter_mut().zip(weights) {
                sums[run].iter_mut().zip(inputs).for_each(|(sum, x)| *sum += w * x);
            }
        }
    }
}

#[cfg(test)]
mod tests;
