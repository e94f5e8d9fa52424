//! A small seeded generator: the same numbers on every machine and in every release. Does NOT serve secrets.

/// SplitMix64: one word of state.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed; `purpose` keeps the numbers of one use apart from those of another.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut state = Self(seed);
        for byte in purpose.bytes() {
            state.0 = state.word() ^ u64::from(byte);
        }
        state
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..bound`; 0 if there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.word()).wrapping_mul(u128::from(bound));
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// True in `parts` of a million cases.
    pub fn chance(&mut self, parts_per_million: u64) -> bool {
        self.below(1_000_000) < parts_per_million
    }
}
