//! PURE: the digests of the state at some indexes, the last few of them.
//!
//! What is remembered was computed by apply, at the moment when exactly the entries up to that index were applied.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::VecDeque;

/// Digests are remembered at indexes that this divides.
pub const MARK_EVERY: u64 = 64;
/// How many are kept: members that are this many marks apart have nothing to compare until they come nearer.
pub const MARKS_MAX: usize = 64;

/// The digest of the state at an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Everything up to this entry is in it.
    pub index: u64,
    /// BLAKE3 sum of all rows.
    pub digest: [u8; 32],
}

/// The newest marks, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(VecDeque<Mark>);

impl Marks {
    /// Whether the digest at `index` is to be remembered.
    pub fn wanted(index: u64) -> bool {
        index.is_multiple_of(MARK_EVERY)
    }

    /// Remembers one, and forgets the oldest when there are too many.
    pub fn push(&mut self, mark: Mark) {
        self.0.push_back(mark);
        while self.0.len() > MARKS_MAX {
            self.0.pop_front();
        }
    }

    /// The state was replaced: what was said of the old one says nothing of this one.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let mut marks = Marks::default();
        for index in (0..=200 * MARK_EVERY).filter(|index| Marks::wanted(*index)) {
            marks.push(Mark {
                index,
                digest: [7; 32],
            });
        }
        let kept: Vec<u64> = marks.iter().map(|mark| mark.index / MARK_EVERY).collect();
        assert_eq!(kept, (137..=200).collect::<Vec<_>>());
        marks.clear();
        assert_eq!(marks.iter().count(), 0);
    }
}
