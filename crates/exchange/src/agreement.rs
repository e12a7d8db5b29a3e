//! What ranks agree upon before an exchange: that they mean the same tensors, and that all gradients are finite.

use crate::communicator::Communicator;
use crate::error::{Error, Result};

/// A fingerprint (64-bit FNV-1a) of what must be equal on all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }

    /// Adds one item; its length keeps neighbours apart.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        let all = length.iter().chain(bytes);
        self.0 = all.fold(self.0, |h, &byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    }
}

/// The ranks that are not healthy. Nine bytes a rank.
///
/// # Errors
/// [`Error::Mismatch`] if the digests differ.
pub(crate) fn agree(digest: Digest, healthy: bool, comm: &dyn Communicator) -> Result<Vec<usize>> {
    let mut own = vec![u8::from(healthy)];
    own.extend(digest.0.to_le_bytes());
    let all = comm.all_gather(&own)?;
    for (rank, theirs) in all.iter().enumerate() {
        if theirs.get(1..) != own.get(1..) {
            let hex =
                |bytes: &[u8]| bytes.iter().skip(1).rev().map(|b| format!("{b:02x}")).collect::<String>();
            let found = format!("tensors, settings or steps of digest {}", hex(theirs));
            return Err(Error::Mismatch { what: "exchange", rank, found, expected: hex(&own) });
        }
    }
    Ok((0..all.len()).filter(|&rank| all[rank].first() != Some(&1)).collect())
}
