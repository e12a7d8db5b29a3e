//! Rows of `x` in the order in which the floating-point kernels meet the codes.

use super::LANES;
use crate::kernels::PackedView;

/// How a kernel walks along a row of codes: in blocks, each of which gives `LANES` codes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// 32 bytes a block, the bytes of eight 32-bit words, each masked out in place: the upper byte of a half word is 256
    /// times too large, and `x` is that much smaller.
    Bytes,
    /// Eight consecutive codes a block, as many bytes as a code has bits.
    Window,
}

impl Walk {
    /// Codes of a block.
    pub(super) fn block(self) -> usize {
        match self {
            Self::Bytes => 4 * LANES,
            Self::Window => LANES,
        }
    }

    /// Column within its block and factor of the element that meets `lane` at step `k`.
    fn source(self, k: usize, lane: usize) -> (usize, f32) {
        match self {
            Self::Bytes => (lane * 4 + k, [1.0, 1.0 / 256.0][k % 2]),
            Self::Window => (lane, 1.0),
        }
    }
}

/// A walk and the blocks between two changes of scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) walk: Walk,
    pub(super) scale_blocks: usize,
}

impl Layout {
    /// `None` if a group ends inside of a block of eight codes.
    pub(super) fn new(view: &PackedView<'_>) -> Option<Self> {
        let fit = |walk: Walk| {
            if view.group_size >= view.cols {
                Some(Self { walk, scale_blocks: usize::MAX })
            } else {
                let whole = view.group_size.is_multiple_of(walk.block());
                whole.then(|| Self { walk, scale_blocks: view.group_size / walk.block() })
            }
        };
        (view.bits == 8).then(|| fit(Walk::Bytes)).flatten().or_else(|| fit(Walk::Window))
    }
}

/// Rows of `x`, padded with zeros to whole blocks.
pub(super) struct Lanes {
    pub(super) layout: Layout,
    /// `[n, n_blocks, steps, LANES]`.
    pub(super) values: Vec<f32>,
    /// `[n, n_groups, LANES]`: sums of the elements that each lane meets within a group.
    pub(super) sums: Vec<f32>,
    pub(super) n_blocks: usize,
    pub(super) n_groups: usize,
}

impl Lanes {
    /// Reorders `x` (`[n, cols]`).
    pub(super) fn new(layout: Layout, cols: usize, x: &[f32]) -> Self {
        let block = layout.walk.block();
        let n_blocks = cols.div_ceil(block);
        let n_groups = n_blocks.div_ceil(layout.scale_blocks);
        let n = x.len() / cols;
        let table: Vec<(usize, f32)> = (0..block).map(|i| layout.walk.source(i / LANES, i % LANES)).collect();
        let mut values = vec![0.0; n * n_blocks * block];
        let mut sums = vec![0.0; n * n_groups * LANES];
        for (t, x) in x.chunks_exact(cols).enumerate() {
            let values = &mut values[t * n_blocks * block..];
            let sums = &mut sums[t * n_groups * LANES..];
            for (b, x) in x.chunks(block).enumerate() {
                let mut padded = [0.0; 4 * LANES];
                padded[..x.len()].copy_from_slice(x);
                let sums = &mut sums[b / layout.scale_blocks * LANES..][..LANES];
                let values = &mut values[b * block..][..block];
                for (i, (value, &(col, factor))) in values.iter_mut().zip(&table).enumerate() {
                    *value = padded[col] * factor;
                    sums[i % LANES] += padded[col];
                }
            }
        }
        Self { layout, values, sums, n_blocks, n_groups }
    }

    /// Bytes of codes of `bits` bits that the kernel reads from the start of a row on.
    pub(super) fn row_bytes(&self, bits: usize) -> usize {
        match self.layout.walk {
            Walk::Bytes => self.n_blocks * self.layout.walk.block(),
            Walk::Window => self.n_blocks * bits + 8,
        }
    }

    /// Blocks of about `cols` columns that cut no group.
    pub(super) fn part(&self, cols: usize) -> usize {
        let scale_blocks = self.layout.scale_blocks.min(self.n_blocks);
        (cols / self.layout.walk.block()).max(1).next_multiple_of(scale_blocks)
    }
}
