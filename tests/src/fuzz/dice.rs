//! Chance from a number: the same seed gives the same input.
//! Does NOT produce numbers that are fit for anything else.

/// A generator.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

/// Numbers at which readers go wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed ^ 0x6a09_e667_f3bc_c908)
    }

    /// Any number.
    pub(super) fn number(&mut self) -> u64 {
        // xorshift* must not stand on 0.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15).max(1);
        let mut x = self.0;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 7
    }

    /// One of `0..below`, 0 if there is none.
    pub(super) fn below(&mut self, below: usize) -> usize {
        (self.number() % below.max(1) as u64) as usize
    }

    /// True once in `of` cases.
    pub(super) fn once_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    /// A number near one at which readers go wrong, or any.
    pub(super) fn edge(&mut self) -> u64 {
        match self.below(4) {
            0 => self.number(),
            1 => self.below(64) as u64,
            _ => {
                let edge = EDGES[self.below(EDGES.len())];
                edge.wrapping_add(self.below(3) as u64).wrapping_sub(1)
            }
        }
    }

    /// One of these.
    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.below(of.len());
        of.get(at)
    }
}
