//! Which nodes have how many free devices of a family: a row of bits per number, so that a search looks only at nodes that have enough, and one that cannot
//! succeed is over at once. Only nodes that take work are in it. Does NOT know of anything but devices.
use std::sync::Arc;

use super::tables::{Family, number};

/// Where the rows of one family are.
#[derive(Debug, Clone, Copy)]
struct Rows {
    /// First word.
    start: usize,
    /// Words of each row.
    words: usize,
    /// First count.
    counts: usize,
    /// The most free devices a node can have; one more row says which nodes have a device that is partly used and partly free.
    most: usize,
}

/// What one node has free of one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shelf {
    /// Whole devices.
    pub whole: u32,
    /// It has a device that is partly used and partly free.
    pub part: bool,
    /// It is in the index.
    pub open: bool,
}

/// The rows of all families.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    rows: Arc<Vec<Rows>>,
    bits: Vec<u64>,
    counts: Vec<u32>,
}

impl Index {
    /// Without any node.
    pub fn new(families: &[Family]) -> Self {
        let (mut start, mut counts) = (0, 0);
        let mut rows = Vec::with_capacity(families.len());
        for family in families {
            let words = family.lots.len().div_ceil(64);
            let most = family.most as usize;
            rows.push(Rows {
                start,
                words,
                counts,
                most,
            });
            start += words * (most + 2);
            counts += most + 2;
        }
        Self {
            rows: Arc::new(rows),
            bits: vec![0; start],
            counts: vec![0; counts],
        }
    }

    /// The node at `place` of a family has changed.
    pub fn change(&mut self, family: u32, place: usize, from: Shelf, to: Shelf) {
        let rows = self.rows[family as usize];
        if from.open {
            self.flip(rows, from.whole as usize, place, false);
            if from.part {
                self.flip(rows, rows.most + 1, place, false);
            }
        }
        if to.open {
            self.flip(rows, to.whole as usize, place, true);
            if to.part {
                self.flip(rows, rows.most + 1, place, true);
            }
        }
    }

    fn flip(&mut self, rows: Rows, row: usize, place: usize, on: bool) {
        let word = &mut self.bits[rows.start + row * rows.words + place / 64];
        *word ^= 1 << (place % 64);
        let count = &mut self.counts[rows.counts + row];
        *count = if on {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
    }

    /// How many nodes have at least so many whole devices of it free.
    pub fn at_least(&self, family: u32, whole: u32) -> u32 {
        let rows = self.rows[family as usize];
        let counts = &self.counts[rows.counts..rows.counts + rows.most + 1];
        counts.iter().skip(whole as usize).sum()
    }

    /// How many have a device of it that is partly free.
    pub fn with_parts(&self, family: u32) -> u32 {
        let rows = self.rows[family as usize];
        self.counts[rows.counts + rows.most + 1]
    }

    /// The places of all nodes with at least so many free, or, if `parts`, a device that is partly free; ascending.
    pub fn places(&self, family: u32, whole: u32, parts: bool) -> impl Iterator<Item = u32> + '_ {
        let rows = self.rows[family as usize];
        let end = rows.most + 1 + usize::from(parts);
        let row = move |row: usize| rows.start + row * rows.words;
        (0..rows.words).flat_map(move |word| {
            let mut bits = (whole as usize..end).fold(0, |all, at| all | self.bits[row(at) + word]);
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (bit < 64).then(|| number(word * 64).saturating_add(bit))
            })
        })
    }
}
