//! Numbers for tests.

/// Numbers that are the same for the same seed.
#[derive(Clone, Debug)]
pub struct Draws(
    /// The seed, and what has become of it.
    pub u64,
);

impl Draws {
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        // The step and mix of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }
}
