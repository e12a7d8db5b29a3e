//! The exact mean, by an all-reduce: the baseline, and the way of whatever does not pay to compress.

use crate::communicator::{Communicator, divide};
use crate::compressor::sound;
use crate::error::Result;

/// The mean of every buffer over the ranks; all of them travel together.
///
/// `None` if one is too large for `f32`, on all ranks alike.
pub fn dense_mean(buffers: &[&[f32]], comm: &dyn Communicator) -> Result<Option<Vec<Vec<f32>>>> {
    let mut all = buffers.concat();
    if !all.is_empty() {
        comm.all_reduce_sum(&mut all)?;
        divide(&mut all, comm.size());
    }
    if !sound(&all) {
        return Ok(None);
    }
    let mut rest = all.as_slice();
    let mut means = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let (own, later) = rest.split_at(buffer.len());
        means.push(own.to_vec());
        rest = later;
    }
    Ok(Some(means))
}
