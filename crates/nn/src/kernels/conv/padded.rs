//! Images with zeros around them.

use super::{ConvShape, RUN};

/// Where things lie in a padded image: `[channels, height, stride, phase]`, columns sorted by what they leave over a stride.
pub(super) struct Padded {
    channels: usize,
    groups: usize,
    /// `[H, W]` of the image inside.
    size: [usize; 2],
    /// Zeros above and to the left.
    before: [usize; 2],
    height: usize,
    stride: usize,
    /// Numbers of one phase of a row.
    phase: usize,
}

impl Padded {
    /// What a convolution reads.
    pub(super) fn input(shape: &ConvShape) -> Self {
        let ConvShape { channels, input: [h, w], .. } = *shape;
        let ([_, stride], [top, left]) = (shape.geometry.stride, shape.geometry.padding);
        Self {
            channels,
            groups: shape.geometry.groups,
            size: [h, w],
            before: [top, left],
            height: h + 2 * top,
            stride,
            phase: (w + 2 * left).div_ceil(stride),
        }
    }

    /// An image of the output's shape, with zeros `before` it and so many that it is of `total` size.
    pub(super) fn output(shape: &ConvShape, before: [usize; 2], [height, width]: [usize; 2]) -> Self {
        let (channels, groups) = (shape.rows, shape.geometry.groups);
        Self { channels, groups, size: shape.output, before, height, stride: 1, phase: width }
    }

    /// Numbers of a row.
    pub(super) fn row(&self) -> usize {
        self.phase * self.stride
    }

    /// Numbers of a channel.
    pub(super) fn plane(&self) -> usize {
        self.row() * self.height
    }

    /// Numbers of the channels of a group.
    pub(super) fn group_len(&self) -> usize {
        self.channels / self.groups * self.plane()
    }

    /// Numbers of a padded image, with room for the last run to read past its end.
    pub(super) fn len(&self) -> usize {
        self.channels * self.plane() + RUN
    }

    /// Where the number of row `i` and column `j` of channel `c` lies.
    pub(super) fn offset(&self, [c, i, j]: [usize; 3]) -> usize {
        c * self.plane() + i * self.row() + j % self.stride * self.phase + j / self.stride
    }

    /// Writes an image (`[C, H, W]`) into a buffer that only this function writes to.
    pub(super) fn fill(&self, image: &[f32], out: &mut Vec<f32>) {
        if out.len() != self.len() {
            out.clear();
            out.resize(self.len(), 0.0); // and no later image touches the zeros
        }
        self.write(image, out);
    }

    /// Writes an image between zeros.
    pub(super) fn write(&self, image: &[f32], out: &mut [f32]) {
        let ([height, width], [top, left], stride, row) = (self.size, self.before, self.stride, self.row());
        for (plane, from) in out.chunks_exact_mut(self.plane()).zip(image.chunks_exact(height * width)) {
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
}
