//! Convolutions on the CPU: every output row is a run of contiguous inputs, once the image is padded and its columns are
//! sorted by phase.
//!
//! For stride `s` a padded row keeps the columns `0, s, 2 s, ..`, then `1, 1 + s, ..`. Then eight outputs that lie side by
//! side read eight neighbours for every tap of the kernel, and no patch is ever copied. A block of output channels and
//! two such runs stay in registers while all taps are added, in the order of the weight's columns: one output is the same
//! number whatever the threads, the batch and the block.

mod input;
mod padded;
mod weight;

use rayon::prelude::*;

use self::padded::Padded;
#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::view::expect_len;
use super::{Isa, Result};
use crate::conv::ConvGeometry;

pub use input::{conv2d_input_gradient, conv2d_input_gradient_with};
pub(super) use weight::{Pairs, ROWS, TAPS};
pub use weight::{conv2d_weight_gradient, conv2d_weight_gradient_with};

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
    let padded = Padded::input(shape);
    let sweep = Sweep::forward(shape, &padded, weight);
    sweep_images(isa, &padded, &[sweep], bias, x, y, shape.batch);
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
    let padded = Padded::input(shape);
    let (taps, step) = (Taps::forward(shape, &padded), shape.geometry.stride[0] * padded.row());
    let group_len = shape.channels / groups * padded.plane();
    let mut out = vec![0.0f32; shape.batch * groups * shape.positions() * cols];
    let image = (groups * shape.positions() * cols).max(1);
    let tasks = out.par_chunks_mut(image).zip(x.par_chunks(shape.image_len().max(1)));
    tasks.for_each_init(Vec::new, |buffer, (out, image)| {
        padded.fill(image, buffer);
        let mut rows = out.chunks_exact_mut(cols.max(1));
        for group in 0..groups {
            for (i, j) in (0..shape.output[0]).flat_map(|i| (0..shape.output[1]).map(move |j| (i, j))) {
                let window = &buffer[group * group_len + i * step + j..];
                let row = rows.next().into_iter().flatten();
                row.zip(&taps.offsets).for_each(|(value, &tap)| *value = window[tap]);
            }
        }
    });
    Ok(out)
}

/// The gradient of a bias: the sum of every channel of `dy [B, rows, H', W']`, `[rows]`.
///
/// # Panics
///
/// If `dy` is of another length than the shape needs.
pub fn channel_sums(shape: &ConvShape, dy: &[f32]) -> Vec<f32> {
    assert_eq!(dy.len(), shape.batch * shape.rows * shape.positions());
    let planes: Vec<f32> = dy.par_chunks(shape.positions().max(1)).map(sum).collect();
    (0..shape.rows).map(|row| planes.iter().skip(row).step_by(shape.rows).sum()).collect()
}

/// The sum in [`RUN`] lanes.
fn sum(values: &[f32]) -> f32 {
    let (runs, rest) = values.as_chunks::<RUN>();
    let mut lanes = [0.0f32; RUN];
    runs.iter().for_each(|run| lanes.iter_mut().zip(run).for_each(|(lane, v)| *lane += v));
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
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

/// The blocks of a weight of `rows` channels in `groups`, each of `cols` taps; `at(group, r, k)` is the weight of channel `r` of
/// its group.
fn blocks(rows: usize, cols: usize, groups: usize, at: impl Fn(usize, usize, usize) -> f32) -> Vec<Block> {
    let in_group = rows / groups;
    let starts = (0..groups).flat_map(|group| (0..in_group).step_by(BLOCK).map(move |start| (group, start)));
    let block = |(group, start): (usize, usize)| {
        let rows = BLOCK.min(in_group - start);
        let weights = (0..cols).flat_map(|k| (0..rows).map(move |r| (r, k)));
        let weights = weights.map(|(r, k)| at(group, start + r, k)).collect();
        Block { first: group * in_group + start, rows, group, weights }
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

impl Taps {
    fn new(offsets: Vec<usize>) -> Self {
        Self { reach: offsets.iter().copied().max().unwrap_or(0), offsets }
    }

    /// Those of the convolution itself: `[in/groups, kh, kw]`.
    fn forward(shape: &ConvShape, padded: &Padded) -> Self {
        let [kh, kw] = shape.geometry.kernel;
        let in_group = shape.channels / shape.geometry.groups;
        let taps = (0..in_group).flat_map(|c| (0..kh).flat_map(move |i| (0..kw).map(move |j| [c, i, j])));
        Self::new(taps.map(|at| padded.offset(at)).collect())
    }
}

/// Outputs that lie side by side.
#[derive(Clone, Copy)]
struct Run {
    /// Where its first input lies in the padded image.
    input: usize,
    /// Where its first output lies in a channel.
    output: usize,
    /// Outputs, at most [`RUN`].
    len: usize,
}

/// Runs of `[height, width]` outputs; row `i` reads from `i * step` on and writes from `output(i, j)` on.
fn runs([height, width]: [usize; 2], step: usize, output: impl Fn(usize, usize) -> usize) -> Vec<Run> {
    let starts = (0..height).flat_map(|i| (0..width).step_by(RUN).map(move |j| (i, j)));
    let run = |(i, j)| Run { input: i * step + j, output: output(i, j), len: RUN.min(width - j) };
    starts.map(run).collect()
}

/// Outputs that are computed from a padded image with the same taps.
struct Sweep {
    blocks: Vec<Block>,
    taps: Taps,
    runs: Vec<Run>,
    /// Numbers between the outputs of a run.
    step: usize,
    /// Numbers of an output channel.
    plane: usize,
}

impl Sweep {
    fn forward(shape: &ConvShape, padded: &Padded, weight: &[f32]) -> Self {
        let (groups, cols, width) = (shape.geometry.groups, shape.cols(), shape.output[1]);
        let in_group = shape.rows / groups;
        let blocks =
            blocks(shape.rows, cols, groups, |group, r, k| weight[(group * in_group + r) * cols + k]);
        let step = shape.geometry.stride[0] * padded.row();
        let runs = runs(shape.output, step, |i, j| i * width + j);
        Self { blocks, taps: Taps::forward(shape, padded), runs, step: 1, plane: shape.positions() }
    }

    /// The outputs of one block, `[rows, plane]`, from the padded channels of its group.
    fn multiply(&self, isa: Isa, block: &Block, bias: Option<&[f32]>, padded: &[f32], y: &mut [f32]) {
        for pair in self.runs.chunks(2) {
            // Of an odd number of runs, the last is computed twice and stored once.
            let (first, second) = (pair[0], *pair.last().unwrap_or(&pair[0]));
            let mut sums = [[[0.0f32; RUN]; 2]; BLOCK];
            let starts = [first.input, second.input];
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::conv::add_taps(block, &self.taps, padded, starts, &mut sums),
                _ => add_taps(block, &self.taps, padded, starts, &mut sums),
            }
            for (i, run) in pair.iter().enumerate() {
                for (r, sums) in sums.iter().enumerate().take(block.rows) {
                    let out = &mut y[r * self.plane + run.output..];
                    let bias = bias.map_or(0.0, |bias| bias[r]);
                    if self.step == 1
                        && run.len == RUN
                        && let Some(out) = out.first_chunk_mut::<RUN>()
                    {
                        // The usual case, in whole registers.
                        out.iter_mut().zip(&sums[i]).for_each(|(out, sum)| *out = sum + bias);
                    } else if self.step == 1 {
                        out[..run.len].iter_mut().zip(&sums[i]).for_each(|(out, sum)| *out = sum + bias);
                    } else {
                        let out = out.iter_mut().step_by(self.step).take(run.len);
                        out.zip(&sums[i]).for_each(|(out, sum)| *out = sum + bias);
                    }
                }
            }
        }
    }
}

/// All `sweeps` over each of `batch` images; together they write every output.
fn sweep_images(
    isa: Isa,
    padded: &Padded,
    sweeps: &[Sweep],
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [f32],
    batch: usize,
) {
    let (image_len, output_len) = (x.len() / batch, y.len() / batch);
    let run = |sweep: &Sweep, block: &Block, image: &[f32], y: &mut [f32]| {
        let bias = bias.map(|bias| &bias[block.first..][..block.rows]);
        sweep.multiply(isa, block, bias, &image[block.group * padded.group_len()..], y);
    };
    let image = |b: usize| &x[b * image_len..][..image_len];
    if batch >= rayon::current_num_threads() {
        let tasks = y.par_chunks_mut(output_len).enumerate();
        tasks.for_each_init(Vec::new, |buffer, (b, y)| {
            padded.fill(image(b), buffer);
            for sweep in sweeps {
                let mut rest = &mut *y;
                for block in &sweep.blocks {
                    let (out, after) = rest.split_at_mut(block.rows * sweep.plane);
                    run(sweep, block, buffer, out);
                    rest = after;
                }
            }
        });
        return;
    }
    let mut buffer = Vec::new();
    for (b, y) in y.chunks_mut(output_len).enumerate() {
        padded.fill(image(b), &mut buffer);
        for sweep in sweeps {
            let mut parts = Vec::with_capacity(sweep.blocks.len());
            let mut rest = &mut *y;
            for block in &sweep.blocks {
                let (out, after) = rest.split_at_mut(block.rows * sweep.plane);
                parts.push((block, out));
                rest = after;
            }
            parts.into_par_iter().for_each(|(block, out)| run(sweep, block, &buffer, out));
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
