//! PURE: what a member concludes from the digests and clocks of the others: that all is well, that its own state is
//! wrong, that nobody can say whose is, or that its clock is off.
//!
//! It does not ask anybody, read a clock or act: reports come in as data, a verdict goes out.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::{BTreeMap, BTreeSet};

use super::marks::Mark;

/// A clock that is further than this from the majority's is off, milliseconds.
pub const CLOCK_OFF_MS: u64 = 5_000;
/// A clock that was off is right again when it is nearer than this: without a gap it would come and go at the limit.
pub const CLOCK_RIGHT_MS: u64 = 4_000;

/// What this member knows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// Digests of its state at some indexes.
    pub marks: Vec<Mark>,
    /// Whether the last verdict was that its clock is off.
    pub clock_off: bool,
}

/// What another voter answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Digests of its state at some indexes.
    pub marks: Vec<Mark>,
    /// How far its clock is ahead of this member's, milliseconds: its word minus the middle of the call.
    pub ahead_ms: i64,
    /// Half of the call's round trip, milliseconds: what `ahead_ms` may be wrong by.
    pub uncertain_ms: u64,
}

/// What follows from the reports. The gravest thing is said: a wrong state before a wrong clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing speaks against this member.
    Fine,
    /// A majority of all voters agrees on another state: this member must stop.
    Diverged {
        /// The lowest index at which they differ.
        index: u64,
        /// This member's digest there.
        own: [u8; 32],
        /// The majority's.
        majority: [u8; 32],
    },
    /// Digests differ and no majority agrees on one, or not enough voters are heard to tell: nothing may be changed.
    NoMajority {
        /// The highest index at which they differ.
        index: u64,
    },
    /// A majority's clocks lie on one side of this one, all further than [`CLOCK_OFF_MS`]: this member should not lead.
    ClockOff {
        /// How far the nearest of them is ahead of this one, milliseconds; negative: behind.
        by_ms: i64,
    },
}

/// Judges one member. `voters` counts all of them, this one and silent ones included; `heard` has each other voter that
/// answered lately, once. A cluster of one is always fine.
pub fn judge(voters: usize, own: &Own, heard: &[Heard]) -> Verdict {
    let majority = voters / 2 + 1;
    if let Some(verdict) = judge_states(majority, own, heard) {
        return verdict;
    }
    match clock_off(majority, own, heard) {
        Some(by_ms) => Verdict::ClockOff { by_ms },
        None => Verdict::Fine,
    }
}

fn judge_states(majority: usize, own: &Own, heard: &[Heard]) -> Option<Verdict> {
    let mine: BTreeMap<u64, [u8; 32]> = by_index(&own.marks);
    let theirs: Vec<BTreeMap<u64, [u8; 32]>> =
        heard.iter().map(|one| by_index(&one.marks)).collect();
    let indexes: BTreeSet<u64> = mine
        .keys()
        .chain(theirs.iter().flat_map(BTreeMap::keys))
        .copied()
        .collect();
    let (mut with_majority, mut undecided) = (None, None);
    for index in indexes {
        let own = mine.get(&index).copied();
        let all = own
            .into_iter()
            .chain(theirs.iter().filter_map(|marks| marks.get(&index)).copied());
        let mut counts: BTreeMap<[u8; 32], usize> = BTreeMap::new();
        all.for_each(|digest| *counts.entry(digest).or_default() += 1);
        let winner = counts.iter().find(|(_, count)| **count >= majority);
        match (winner, own) {
            (Some((winner, _)), Some(own)) if *winner != own => {
                let majority = *winner;
                return Some(Verdict::Diverged {
                    index,
                    own,
                    majority,
                });
            }
            (Some(_), Some(_)) => with_majority = Some(index),
            // Where this member has nothing to compare, what others disagree on still means that somebody is wrong.
            (None, _) if counts.len() > 1 => undecided = Some(index),
            _ => {}
        }
    }
    // What a majority including this member agreed on later shows on which side it stands.
    undecided
        .filter(|index| with_majority.is_none_or(|later| later < *index))
        .map(|index| Verdict::NoMajority { index })
}

fn by_index(marks: &[Mark]) -> BTreeMap<u64, [u8; 32]> {
    marks.iter().map(|mark| (mark.index, mark.digest)).collect()
}

fn clock_off(majority: usize, own: &Own, heard: &[Heard]) -> Option<i64> {
    let limit = if own.clock_off {
        CLOCK_RIGHT_MS
    } else {
        CLOCK_OFF_MS
    };
    let far: Vec<i64> = heard
        .iter()
        .filter(|one| one.ahead_ms.unsigned_abs().saturating_sub(one.uncertain_ms) > limit)
        .map(|one| one.ahead_ms)
        .collect();
    let nearest = |side: Vec<i64>| {
        let enough = side.len() >= majority;
        side.into_iter()
            .filter(|_| enough)
            .min_by_key(|ahead| ahead.unsigned_abs())
    };
    let (ahead, behind): (Vec<i64>, Vec<i64>) = far.into_iter().partition(|ahead| *ahead > 0);
    nearest(ahead).or_else(|| nearest(behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `64a 128b`: at index 64 the digest `a`, at 128 `b`.
    fn marks(text: &str) -> Vec<Mark> {
        text.split_whitespace()
            .map(|word| {
                let (index, digest) = word.split_at(word.len() - 1);
                Mark {
                    index: index.parse().expect("an index"),
                    digest: [digest.as_bytes()[0]; 32],
                }
            })
            .collect()
    }

    fn of_states(voters: usize, own: &str, others: &[&str]) -> String {
        let heard: Vec<Heard> = others
            .iter()
            .map(|text| Heard {
                marks: marks(text),
                ..Heard::default()
            })
            .collect();
        let own = Own {
            marks: marks(own),
            clock_off: false,
        };
        match judge(voters, &own, &heard) {
            Verdict::Fine => "fine".into(),
            Verdict::Diverged {
                index,
                own,
                majority,
            } => {
                format!(
                    "diverged {index}: {} not {}",
                    own[0] as char, majority[0] as char
                )
            }
            Verdict::NoMajority { index } => format!("no majority {index}"),
            Verdict::ClockOff { .. } => "clock".into(),
        }
    }

    #[test]
    fn states() {
        for (voters, own, others, want) in [
            // One member has nobody to disagree with.
            (1, "64a", vec![], "fine"),
            // Three, all equal; one ahead; one silent; all silent; nothing in common.
            (3, "64a 128b", vec!["64a 128b", "64a 128b"], "fine"),
            (3, "64a", vec!["64a 128b", "64a 128b 192c"], "fine"),
            (3, "64a", vec!["64a"], "fine"),
            (3, "64a", vec![], "fine"),
            (3, "64a", vec!["128b", "192c"], "fine"),
            (3, "", vec!["", ""], "fine"),
            // Two against this one; this one and another against one.
            (3, "64x", vec!["64a", "64a"], "diverged 64: x not a"),
            (3, "64a", vec!["64x", "64a"], "fine"),
            // The lowest index is named, even if later ones agree again.
            (
                3,
                "64a 128x 192c",
                vec!["64a 128b 192c", "64a 128b 192c"],
                "diverged 128: x not b",
            ),
            // One against one, the third silent: nobody knows, until it speaks.
            (3, "64a", vec!["64x"], "no majority 64"),
            (3, "64x", vec!["64a"], "no majority 64"),
            // The third came back with a snapshot and speaks of later indexes only.
            (3, "64a 128b", vec!["64x", "128b"], "fine"),
            (
                3,
                "64x 128x",
                vec!["64a 128b", "128b"],
                "diverged 128: x not b",
            ),
            (3, "64a 128b", vec!["64a 128x", ""], "no majority 128"),
            // All different.
            (3, "64a", vec!["64b", "64c"], "no majority 64"),
            // Others disagree about what this one has not reached, or has forgotten.
            (3, "64a", vec!["64a 128b", "64a 128x"], "no majority 128"),
            (3, "128b", vec!["64a 128b", "64x 128b"], "fine"),
            // Five.
            (5, "64a", vec!["64a", "64a", "64x", "64x"], "fine"),
            (
                5,
                "64x",
                vec!["64a", "64a", "64a", "64x"],
                "diverged 64: x not a",
            ),
            (5, "64a", vec!["64a", "64x", "64x"], "no majority 64"),
            (5, "64a", vec!["64a", "64x", "64x", "64y"], "no majority 64"),
            (5, "64a", vec!["64a", "64a", "64x"], "fine"),
            (5, "64x", vec!["64a", "64a"], "no majority 64"),
            (5, "64a", vec!["64b", "64c", "64d", "64e"], "no majority 64"),
            // A majority of those heard is not a majority of the voters.
            (5, "64x", vec!["64a"], "no majority 64"),
        ] {
            assert_eq!(
                of_states(voters, own, &others),
                want,
                "{voters}: {own} against {others:?}"
            );
        }
    }

    #[test]
    fn every_member_that_is_not_alone_goes_on() {
        // One of three differs: it alone stops, whoever judges.
        let all = ["64a", "64a", "64x"];
        for (at, want) in [(0, "fine"), (1, "fine"), (2, "diverged 64: x not a")] {
            let mut others = all.to_vec();
            let own = others.remove(at);
            assert_eq!(of_states(3, own, &others), want);
        }
    }

    fn of_clocks(voters: usize, was_off: bool, others: &[(i64, u64)]) -> Option<i64> {
        let heard: Vec<Heard> = others
            .iter()
            .map(|&(ahead_ms, uncertain_ms)| Heard {
                ahead_ms,
                uncertain_ms,
                ..Heard::default()
            })
            .collect();
        let own = Own {
            clock_off: was_off,
            ..Own::default()
        };
        match judge(voters, &own, &heard) {
            Verdict::ClockOff { by_ms } => Some(by_ms),
            Verdict::Fine => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clocks() {
        for (voters, was_off, others, want) in [
            (1, false, vec![], None),
            (3, false, vec![(10, 1), (-10, 1)], None),
            (3, false, vec![(5_000, 0), (5_000, 0)], None),
            (3, false, vec![(5_001, 0), (5_002, 0)], Some(5_001)),
            (3, false, vec![(-60_000, 5), (-61_000, 5)], Some(-60_000)),
            // One other clock is off, not this one; or nobody can tell.
            (3, false, vec![(60_000, 5), (0, 5)], None),
            (3, false, vec![(60_000, 5)], None),
            // Between two wrong ones.
            (3, false, vec![(60_000, 5), (-60_000, 5)], None),
            // A call that took long proves nothing.
            (3, false, vec![(5_400, 500), (60_000, 5)], None),
            (3, false, vec![(5_600, 500), (60_000, 5)], Some(5_600)),
            (3, false, vec![(8_000, 8_000), (8_000, 8_000)], None),
            // It comes back with a gap.
            (3, true, vec![(4_500, 0), (4_500, 0)], Some(4_500)),
            (3, true, vec![(3_900, 0), (4_500, 0)], None),
            // Five: three others make a majority.
            (5, false, vec![(6_000, 0), (7_000, 0), (0, 0), (0, 0)], None),
            (
                5,
                false,
                vec![(6_000, 0), (7_000, 0), (8_000, 0), (0, 0)],
                Some(6_000),
            ),
            // No overflow at the ends.
            (3, false, vec![(i64::MIN, 0), (i64::MIN, u64::MAX)], None),
            (3, false, vec![(i64::MIN, 0), (i64::MIN, 1)], Some(i64::MIN)),
        ] {
            assert_eq!(
                of_clocks(voters, was_off, &others),
                want,
                "{voters} {was_off} {others:?}"
            );
        }
    }

    #[test]
    fn a_wrong_state_weighs_more_than_a_wrong_clock() {
        let heard = Heard {
            marks: marks("64a"),
            ahead_ms: 9_000,
            uncertain_ms: 0,
        };
        let own = Own {
            marks: marks("64x"),
            clock_off: false,
        };
        let verdict = judge(3, &own, &[heard.clone(), heard]);
        assert!(
            matches!(verdict, Verdict::Diverged { index: 64, .. }),
            "{verdict:?}"
        );
    }
}
