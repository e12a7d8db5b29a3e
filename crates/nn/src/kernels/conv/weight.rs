//! The gradient of a convolution's weight.
//!
//! `dW[o, k] = sum over images and positions of dy[o] patch[k]`: products of two runs of eight, which lie side by side in the
//! output gradient and in the padded image. A block of output channels times a few taps stays in registers over the runs of some
//! images.
//!
//! Images are split into a number of chunks that depends on the shape alone, and the sums of the chunks are added in their
//! order: the same bits at any number of threads.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::padded::Padded;
use super::{ConvShape, RUN, Taps, expect_len, runs};
use crate::kernels::{Isa, Result};

/// Output channels of a block.
pub(in crate::kernels) const ROWS: usize = 4;
/// Taps of a block.
pub(in crate::kernels) const TAPS: usize = 3;
/// Chunks of images at most, and tasks at least.
const TASKS: usize = 32;
/// Numbers of all partial sums, more or less.
const PARTIAL: usize = 1 << 23;
/// Positions for which sums stay in registers, at least.
const POSITIONS: usize = 512;

/// `dW [rows, cols]` for `x [B, C, H, W]` and `dy [B, rows, H', W']`.
///
/// Every number is within `B H' W' e sum |dy x|` of the exact one, with `e = 2^-24`. An `x` that is not finite may give
/// NaNs in the whole of the gradient.
///
/// # Errors
///
/// Operands of other lengths than the shape needs.
pub fn conv2d_weight_gradient(shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    conv2d_weight_gradient_with(Isa::detect(), shape, x, dy, dw)
}

/// [`conv2d_weight_gradient`] with the instructions of `isa`.
///
/// # Errors
///
/// Those of [`conv2d_weight_gradient`], and an instruction set that this processor lacks.
pub fn conv2d_weight_gradient_with(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) -> Result<()> {
    isa.require()?;
    expect_len("x", shape.batch.checked_mul(shape.image_len()), x.len())?;
    expect_len("dy", shape.batch.checked_mul(shape.rows * shape.positions()), dy.len())?;
    expect_len("dW", shape.rows.checked_mul(shape.cols()), dw.len())?;
    if x.is_empty() || dy.is_empty() || dw.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    let sums = Sums::new(shape);
    let chunk_images = shape.batch.div_ceil(shape.batch.min(TASKS).min(PARTIAL.div_ceil(dw.len())));
    let chunks = shape.batch.div_ceil(chunk_images);
    let parts = TASKS.div_ceil(chunks).min(sums.blocks.len());
    let part_blocks = sums.blocks.len().div_ceil(parts);
    let mut partial = vec![0.0f32; chunks * dw.len()];
    let mut tasks = Vec::with_capacity(chunks * parts);
    for (chunk, mut rest) in partial.chunks_mut(dw.len()).enumerate() {
        let first = chunk * chunk_images;
        let images = first..(first + chunk_images).min(shape.batch);
        for blocks in sums.blocks.chunks(part_blocks) {
            let rows: usize = blocks.iter().map(|block| block.rows).sum();
            let (out, after) = rest.split_at_mut(rows * shape.cols());
            tasks.push((images.clone(), blocks, out));
            rest = after;
        }
    }
    tasks.into_par_iter().for_each_init(Default::default, |buffers, (images, blocks, out)| {
        sums.add(isa, buffers, [x, dy], images, blocks, out);
    });
    dw.par_iter_mut().with_min_len(1024).enumerate().for_each(|(i, dw)| {
        *dw = partial[i..].iter().step_by(shape.rows * shape.cols()).sum();
    });
    Ok(())
}

/// Output channels that are summed together, all of one group.
struct Block {
    first: usize,
    rows: usize,
    group: usize,
}

/// Where the products of a weight gradient lie.
struct Sums<'s> {
    shape: &'s ConvShape,
    padded: Padded,
    taps: Taps,
    /// Where runs start in the padded image.
    starts: Vec<usize>,
    blocks: Vec<Block>,
}

/// Some images at a time: padded, and their output gradients in whole runs.
#[derive(Default)]
struct Buffers {
    images: Vec<f32>,
    gradients: Vec<f32>,
}

/// Images and their output gradients in whole runs, as one core sums them up.
pub(in crate::kernels) struct Pairs<'a> {
    /// `[images, image_len]`.
    pub(in crate::kernels) padded: &'a [f32],
    pub(in crate::kernels) image_len: usize,
    /// `[images, gradient_len]`; each of `[rows, runs, RUN]`.
    pub(in crate::kernels) gradients: &'a [f32],
    pub(in crate::kernels) gradient_len: usize,
    pub(in crate::kernels) images: usize,
    /// Where runs start in a padded image.
    pub(in crate::kernels) starts: &'a [usize],
}

impl<'s> Sums<'s> {
    fn new(shape: &'s ConvShape) -> Self {
        let padded = Padded::input(shape);
        let step = shape.geometry.stride[0] * padded.row();
        let starts = runs(shape.output, step, |_, _| 0).iter().map(|run| run.input).collect();
        let groups = shape.geometry.groups;
        let in_group = shape.rows / groups;
        let blocks = (0..groups).flat_map(|group| {
            (0..in_group).step_by(ROWS).map(move |start| Block {
                first: group * in_group + start,
                rows: ROWS.min(in_group - start),
                group,
            })
        });
        Self { shape, taps: Taps::forward(shape, &padded), padded, starts, blocks: blocks.collect() }
    }

    /// Adds the products of `images` to `out`, `[rows of the blocks, cols]`.
    fn add(
        &self,
        isa: Isa,
        buffers: &mut Buffers,
        [x, dy]: [&[f32]; 2],
        images: std::ops::Range<usize>,
        blocks: &[Block],
        out: &mut [f32],
    ) {
        let (shape, cols) = (self.shape, self.shape.cols());
        let (image_len, gradient_len) = (self.padded.len(), shape.rows * self.starts.len() * RUN);
        let tile = (POSITIONS / shape.positions()).clamp(1, 16).min(images.len());
        let Buffers { images: padded, gradients } = buffers;
        for (buffer, len) in [(&mut *padded, tile * image_len), (&mut *gradients, tile * gradient_len)] {
            if buffer.len() != len {
                buffer.clear();
                buffer.resize(len, 0.0); // and no later image touches the zeros
            }
        }
        let mut first = images.start;
        while first < images.end {
            let count = tile.min(images.end - first);
            for i in 0..count {
                let image = &x[(first + i) * shape.image_len()..][..shape.image_len()];
                self.padded.write(image, &mut padded[i * image_len..][..image_len]);
                let len = shape.rows * shape.positions();
                self.spread(
                    &dy[(first + i) * len..][..len],
                    &mut gradients[i * gradient_len..][..gradient_len],
                );
            }
            let mut rest = &mut *out;
            for block in blocks {
                let (out, after) = rest.split_at_mut(block.rows * cols);
                let pairs = Pairs {
                    padded: &padded[block.group * self.padded.group_len()..],
                    image_len,
                    gradients: &gradients[block.first * self.starts.len() * RUN..],
                    gradient_len,
                    images: count,
                    starts: &self.starts,
                };
                self.add_block(isa, &pairs, block.rows, out);
                rest = after;
            }
            first += count;
        }
    }

    fn add_block(&self, isa: Isa, pairs: &Pairs<'_>, rows: usize, out: &mut [f32]) {
        let cols = self.shape.cols();
        for (i, taps) in self.taps.offsets.chunks(TAPS).enumerate() {
            let mut sums = [[0.0f32; TAPS]; ROWS];
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::conv::add_pairs(pairs, rows, taps, &mut sums),
                _ => add_pairs(pairs, rows, taps, &mut sums),
            }
            for (out, sums) in out.chunks_exact_mut(cols).zip(&sums) {
                let out = &mut out[i * TAPS..][..taps.len()];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        }
    }

    /// `[rows, H', W']` as `[rows, runs, RUN]`, with zeros where a run is not full.
    fn spread(&self, dy: &[f32], out: &mut [f32]) {
        let width = self.shape.output[1];
        let whole = width.next_multiple_of(RUN);
        for (out, dy) in out.chunks_exact_mut(whole).zip(dy.chunks_exact(width)) {
            out[..width].copy_from_slice(dy);
        }
    }
}

/// `sums[r][t] = sum over images, runs and i of gradients[r, run, i] padded[starts[run] + taps[t] + i]`.
fn add_pairs(pairs: &Pairs<'_>, rows: usize, taps: &[usize], sums: &mut [[f32; TAPS]; ROWS]) {
    let row_len = pairs.starts.len() * RUN;
    for image in 0..pairs.images {
        let padded = &pairs.padded[image * pairs.image_len..];
        let gradients = &pairs.gradients[image * pairs.gradient_len..];
        for (r, sums) in sums.iter_mut().enumerate().take(rows) {
            let runs = gradients[r * row_len..][..row_len].chunks_exact(RUN);
            for (gradients, start) in runs.zip(pairs.starts) {
                for (sum, tap) in sums.iter_mut().zip(taps) {
                    let inputs = &padded[start + tap..][..RUN];
                    *sum += gradients.iter().zip(inputs).map(|(g, x)| g * x).sum::<f32>();
                }
            }
        }
    }
}
