//! The instruction sets that kernels of floats exist for; products of integers have one more ([`integers`](super::integers)).

use std::fmt;

use super::{Error, Result};

/// An instruction set with kernels of floats of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, any processor.
    Portable,
    /// AVX2 and FMA of x86-64.
    Avx2,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Self; 2] = [Self::Portable, Self::Avx2];

    /// The fastest that this processor has.
    pub fn detect() -> Self {
        if Self::Avx2.is_available() { Self::Avx2 } else { Self::Portable }
    }

    /// Whether this processor has it. (The standard library asks the processor once and remembers the answer.)
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 => false,
        }
    }

    /// The door of every kernel: past it, the processor has the instructions.
    pub(super) fn require(self) -> Result<()> {
        if self.is_available() { Ok(()) } else { Err(Error::Unavailable(self)) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
        })
    }
}
