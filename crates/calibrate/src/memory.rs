//! The memory law: what a streamed run will need, said before it starts.

use serde::Serialize;
use trimtab_nn::{Role, StageSource};

/// Predicted peak of a streamed run, in bytes, by part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPrediction {
    /// The program itself with its buffers.
    pub program: u64,
    /// The largest block while it is treated.
    pub block: u64,
    /// Statistics of one block.
    pub statistics: u64,
    /// Hidden states of the calibration set that are kept in memory.
    pub hidden: u64,
    /// Activations of one batch inside a block.
    pub activations: u64,
}

impl MemoryPrediction {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.program + self.block + self.statistics + self.hidden + self.activations
    }

    /// What DESIGN calls the law: embedding + 2 x largest block (f32) + statistics + hidden states + 300 MB.
    pub fn law(source: &dyn StageSource, statistics: u64, hidden: u64) -> u64 {
        let stages = source.stages();
        let f32_bytes =
            |role: Role| stages.iter().filter(move |s| s.role == role).map(|s| 4 * s.numel as u64);
        let embedding: u64 = f32_bytes(Role::Embed).sum();
        let block = f32_bytes(Role::Block).max().unwrap_or(0);
        embedding + 2 * block + statistics + hidden + 300_000_000
    }
}
