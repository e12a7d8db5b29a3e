//! What an exchange needs from a group of ranks.

use std::ops::Range;

use crate::error::Result;

/// A group of ranks that make the same collective calls in the same order.
///
/// All calls block until every rank has made them. After an error the group is of no more use: ranks may stand at
/// different calls.
pub trait Communicator: Send + Sync {
    /// This rank, in `0..size`.
    fn rank(&self) -> usize;

    /// Number of ranks, at least 1.
    fn size(&self) -> usize;

    /// Replaces `values` by their sum over all ranks, added in the order of the ranks: the same bits everywhere, in
    /// every run. All ranks give the same length.
    fn all_reduce_sum(&self, values: &mut [f32]) -> Result<()>;

    /// Every rank's `bytes`, by rank. Lengths may differ.
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Sends `parts[r]` to rank `r`, and returns what each rank sent to this one, by rank. Lengths may differ; there
    /// is one part for each rank.
    fn all_to_all(&self, parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>>;

    /// Replaces `bytes` by those of rank 0.
    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()>;

    /// Payload bytes that this rank has sent to others since the start, without headers and lengths.
    ///
    /// An all-reduce counts what its two phases send ([`all_reduce_bytes`]): in a group of N, `2 (N - 1) / N` of the
    /// buffer on average, as a ring does. A gather counts `N - 1` copies, a broadcast `N - 1` on rank 0 and none
    /// elsewhere.
    fn sent_bytes(&self) -> u64;
}

/// A group that is used for a while by somebody who does not end it.
impl<C: Communicator> Communicator for &C {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn all_reduce_sum(&self, values: &mut [f32]) -> Result<()> {
        (**self).all_reduce_sum(values)
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        (**self).all_gather(bytes)
    }

    fn all_to_all(&self, parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        (**self).all_to_all(parts)
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()> {
        (**self).broadcast(bytes)
    }

    fn sent_bytes(&self) -> u64 {
        (**self).sent_bytes()
    }
}

/// The part of a buffer of `len` that `rank` owns: `size` parts that differ by one at most.
pub fn owned_range(len: usize, rank: usize, size: usize) -> Range<usize> {
    let bound = |r: usize| (len as u128 * r as u128 / size.max(1) as u128) as usize; // at most len
    bound(rank)..bound(rank + 1)
}

/// Bytes that `rank` sends in an all-reduce of `len` numbers: every foreign part to its owner, then the sum of its
/// own part to all others.
pub fn all_reduce_bytes(len: usize, rank: usize, size: usize) -> u64 {
    let own = owned_range(len, rank, size).len() as u64;
    4 * ((len as u64 - own) + (size as u64 - 1) * own)
}

/// Divides a sum over ranks by their number.
pub(crate) fn divide(values: &mut [f32], size: usize) {
    let size = size as f32; // exact up to 2^24 ranks
    values.iter_mut().for_each(|v| *v /= size);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_buffer_and_bytes_are_those_of_a_ring() {
        for size in 1..7 {
            for len in [0, 1, 2, 5, 12, 60, 61] {
                let ends: Vec<_> = (0..size).map(|r| owned_range(len, r, size)).collect();
                assert!(ends.windows(2).all(|w| w[0].end == w[1].start));
                assert_eq!((ends[0].start, ends[size - 1].end), (0, len));
                let total: u64 = (0..size).map(|r| all_reduce_bytes(len, r, size)).sum();
                assert_eq!(total, 4 * 2 * (size as u64 - 1) * len as u64);
            }
        }
        // 60 numbers on 4 ranks: 2 * 3/4 * 240 bytes each.
        assert_eq!(all_reduce_bytes(60, 2, 4), 360);
        // 5 numbers on 2 ranks: parts of 2 and 3. Rank 0 sends 3 and 2, rank 1 sends 2 and 3.
        assert_eq!((all_reduce_bytes(5, 0, 2), all_reduce_bytes(5, 1, 2)), (20, 20));
    }
}
