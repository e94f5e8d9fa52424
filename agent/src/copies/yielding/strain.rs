//! Whether training on this node is held up while checkpoints travel: by how long threads of ranks waited for a core, and by how full the
//! network is. Pure, integers only: what was counted comes in. Does NOT read anything and paces nothing.
//!
//! Counters are compared between two looks. What ranks wait while nothing travels is usual (they may be more threads than there are cores);
//! only what comes on top of that counts.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

/// Shares are counted in so many parts.
const WHOLE: u64 = 10_000;
/// So much more of their time may ranks wait for a core than they usually do: two percent, as a step may take 1.02 times as long.
const MARGIN: u64 = 200;
/// The network is full when so many percent of its speed are used,
const FULL_PERCENT: u64 = 90;
/// and that counts when others use more than so many.
const OTHERS_PERCENT: u64 = 10;

/// What the scheduler counted of one thread since it began, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// On a core.
    pub(super) ran: u64,
    /// Ready to run, and waiting for one.
    pub(super) waited: u64,
}

/// Threads of ranks, by id.
pub(super) type Threads = BTreeMap<u32, Times>;

/// Bytes in one direction, since some time in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Through the interface.
    pub(super) all: u64,
    /// Of checkpoints that this node sends or receives.
    pub(super) own: u64,
}

/// The interface that checkpoints take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wire {
    /// Bytes a second that it can carry in each direction.
    pub(super) speed: u64,
    /// What left, and what came.
    pub(super) ways: [Traffic; 2],
}

/// What was seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    /// When.
    pub(super) now_ms: u64,
    /// What is known of ranks.
    pub(super) threads: Threads,
    /// `None`: nothing is known of the network.
    pub(super) wire: Option<Wire>,
}

/// Why ranks are held up, if they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// They wait for cores more than usual.
    pub(super) cores: bool,
    /// They and others want the network, and it is full.
    pub(super) network: bool,
}

impl Verdict {
    /// Are they?
    pub(super) fn is_busy(self) -> bool {
        self.cores || self.network
    }
}

/// What was seen last, and what is usual.
#[derive(Debug, Default)]
pub(super) struct Strain {
    last: Option<Look>,
    /// The share of their time that ranks wait while nothing travels, of [`WHOLE`].
    usual: Option<u64>,
}

impl Strain {
    /// Something travels: were ranks held up since the last look? `None`: there was none.
    pub(super) fn moving(&mut self, look: Look) -> Option<Verdict> {
        let usual = self.usual.unwrap_or(0);
        let judged = self.last.as_ref().map(|last| Verdict {
            cores: waiting(last, &look).is_some_and(|share| share > usual.saturating_add(MARGIN)),
            network: is_full(last, &look),
        });
        self.last = Some(look);
        judged
    }

    /// Nothing travels: what ranks wait now is usual. The newest looks count most, for what is usual changes.
    pub(super) fn still(&mut self, look: Look) {
        if let Some(share) = self.last.as_ref().and_then(|last| waiting(last, &look)) {
            let before = self.usual.unwrap_or(share);
            // Neither is above WHOLE.
            self.usual = Some((before + share) / 2);
        }
        self.last = Some(look);
    }

    /// Something begins to travel, or nothing does any more: what was seen before is not compared with what follows.
    pub(super) fn turn(&mut self) {
        self.last = None;
    }

    /// Other ranks run: nothing is known of them.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// The share of their time that threads waited for a core between two looks, of [`WHOLE`]. `None`: none of them ran or waited.
fn waiting(before: &Look, after: &Look) -> Option<u64> {
    let (mut ran, mut waited) = (0_u64, 0_u64);
    for (id, now) in &after.threads {
        // Who is new has no past; whose counters go backwards is another thread with the same id.
        let past = before.threads.get(id);
        let grown = past.and_then(|past| {
            let ran = now.ran.checked_sub(past.ran)?;
            Some((ran, now.waited.checked_sub(past.waited)?))
        });
        let (more_ran, more_waited) = grown.unwrap_or((0, 0));
        ran = ran.saturating_add(more_ran);
        waited = waited.saturating_add(more_waited);
    }
    let both = ran.saturating_add(waited);
    if both == 0 {
        return None;
    }
    // A step is late by no more than all threads waited together. While that is below two percent of the time that passed, its share of
    // what little ranks ran says nothing.
    let passed_ns = passed_ms(before, after).saturating_mul(1_000_000);
    if waited.saturating_mul(WHOLE) <= passed_ns.saturating_mul(MARGIN) {
        return Some(0);
    }
    Some((waited.saturating_mul(WHOLE) / both).min(WHOLE))
}

/// Was the network full in one direction, and was that not by checkpoints alone?
fn is_full(before: &Look, after: &Look) -> bool {
    let (Some(past), Some(now)) = (&before.wire, &after.wire) else {
        return false;
    };
    let could = now.speed.saturating_mul(passed_ms(before, after)) / 1_000;
    if could == 0 || now.speed != past.speed {
        return false;
    }
    let above =
        |bytes: u64, percent: u64| bytes.saturating_mul(100) > could.saturating_mul(percent);
    past.ways.iter().zip(&now.ways).any(|(past, now)| {
        let all = now.all.saturating_sub(past.all);
        let own = now.own.saturating_sub(past.own);
        above(all, FULL_PERCENT) && above(all.saturating_sub(own), OTHERS_PERCENT)
    })
}

fn passed_ms(before: &Look, after: &Look) -> u64 {
    after.now_ms.saturating_sub(before.now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const GBIT: u64 = 125_000_000;

    /// Threads 1, 2, … with so many milliseconds (ran, waited).
    fn look(now_ms: u64, threads: &[(u64, u64)]) -> Look {
        let times = |(ran, waited): &(u64, u64)| Times {
            ran: ran * MS,
            waited: waited * MS,
        };
        Look {
            now_ms,
            threads: (1..).zip(threads.iter().map(times)).collect(),
            wire: None,
        }
    }

    fn cores(verdict: Option<Verdict>) -> Option<bool> {
        verdict.map(|verdict| verdict.cores)
    }

    #[test]
    fn without_anything_usual_two_percent_are_too_much() {
        let mut strain = Strain::default();
        assert_eq!(strain.moving(look(0, &[(0, 0)])), None, "the first look");
        let next = strain.moving(look(1_000, &[(980, 15)]));
        assert_eq!(cores(next), Some(false), "below two percent");
        let next = strain.moving(look(2_000, &[(1_930, 65)]));
        assert_eq!(cores(next), Some(true), "five");
        assert!(next.is_some_and(Verdict::is_busy));
        strain.turn();
        let next = strain.moving(look(3_000, &[(2_000, 900)]));
        assert_eq!(next, None, "nothing to compare with");
    }

    #[test]
    fn what_ranks_wait_anyway_is_usual() {
        let mut strain = Strain::default();
        // Twice as many threads as cores: each waits half of its time.
        strain.still(look(0, &[(0, 0), (0, 0)]));
        strain.still(look(10_000, &[(5_000, 5_000), (5_000, 5_000)]));
        strain.turn();
        let begun = look(10_000, &[(5_000, 5_000), (5_000, 5_000)]);
        assert_eq!(strain.moving(begun), None);
        let same = look(11_000, &[(5_500, 5_500), (5_500, 5_500)]);
        assert_eq!(cores(strain.moving(same)), Some(false));
        let more = look(12_000, &[(5_950, 6_050), (5_950, 6_050)]);
        assert_eq!(cores(strain.moving(more)), Some(true), "55 %");
        // What is usual follows what is.
        strain.turn();
        strain.still(look(20_000, &[(6_000, 6_100), (6_000, 6_100)]));
        for looks in 1..8 {
            let passed = looks * 10_000;
            let threads = [(6_000 + passed, 6_100), (6_000 + passed, 6_100)];
            strain.still(look(20_000 + passed, &threads));
        }
        strain.turn();
        strain.moving(look(100_000, &[(0, 0)]));
        let next = strain.moving(look(101_000, &[(940, 60)]));
        assert_eq!(cores(next), Some(true), "six percent are a lot again");
        strain.forget();
        assert_eq!((strain.usual, &strain.last), (None, &None));
    }

    #[test]
    fn threads_come_and_go_and_their_ids_are_used_again() {
        let mut strain = Strain::default();
        strain.moving(look(0, &[(100, 0), (50_000, 50_000)]));
        // The second is another thread now, and the third is new: the first alone counts.
        let next = strain.moving(look(1_000, &[(1_100, 0), (10, 400), (10, 60_000)]));
        assert_eq!(cores(next), Some(false));
        let next = strain.moving(look(2_000, &[(1_600, 500)]));
        assert_eq!(cores(next), Some(true));
        let next = strain.moving(look(3_000, &[]));
        assert_eq!(cores(next), Some(false), "all have gone");
        // Forwards in one counter only is no thread of before either.
        strain.moving(look(4_000, &[(500, 500)]));
        let next = strain.moving(look(5_000, &[(400, 900)]));
        assert_eq!(cores(next), Some(false));
    }

    #[test]
    fn ranks_that_hardly_run_are_not_held_up_by_hardly_anything() {
        let mut strain = Strain::default();
        strain.moving(look(0, &[(0, 0)]));
        let next = strain.moving(look(1_000, &[(10, 5)]));
        assert_eq!(cores(next), Some(false), "a third of 15 ms in a second");
        strain.turn();
        strain.still(look(1_000, &[(10, 5)]));
        strain.still(look(11_000, &[(100, 95)]));
        assert_eq!(strain.usual, Some(0));
    }

    #[test]
    fn absurd_numbers_do_no_harm() {
        let most = Times {
            ran: u64::MAX,
            waited: u64::MAX,
        };
        let all = |now_ms, wire| Look {
            now_ms,
            threads: [(1, most), (2, most)].into(),
            wire,
        };
        let way = Traffic {
            all: u64::MAX,
            own: 0,
        };
        let wire = |speed| {
            Some(Wire {
                speed,
                ways: [way; 2],
            })
        };
        let mut strain = Strain::default();
        strain.moving(look(9, &[(0, 0), (0, 0)]));
        strain.moving(all(9, wire(0)));
        let next = strain.moving(all(9, wire(0)));
        assert!(next.is_some(), "no time has passed");
        strain.still(all(0, wire(u64::MAX)));
        strain.moving(all(u64::MAX, wire(u64::MAX)));
        assert!(strain.usual.is_none_or(|usual| usual <= WHOLE));
    }

    /// A second at 1 Gbit/s with these percents: all, and of checkpoints.
    fn network(all: u64, own: u64) -> Option<bool> {
        let mut strain = Strain::default();
        let wire = |all, own| {
            let idle = Traffic { all: 7, own: 7 };
            Some(Wire {
                speed: GBIT,
                ways: [idle, Traffic { all, own }],
            })
        };
        let at = |now_ms, wire| Look {
            wire,
            ..look(now_ms, &[])
        };
        strain.moving(at(0, wire(5, 3)));
        let (all, own) = (5 + all * GBIT / 100, 3 + own * GBIT / 100);
        let next = strain.moving(at(1_000, wire(all, own)));
        next.map(|next| next.network)
    }

    #[test]
    fn a_full_network_counts_where_others_want_it() {
        assert_eq!(network(95, 50), Some(true));
        assert_eq!(network(95, 95), Some(false), "all of it is ours");
        assert_eq!(network(96, 90), Some(false), "nearly");
        assert_eq!(network(85, 10), Some(false), "there is room");
        assert_eq!(network(95, 99), Some(false), "not yet on the wire");
        let mut strain = Strain::default();
        strain.moving(look(0, &[]));
        let next = strain.moving(look(1_000, &[]));
        assert_eq!(next.map(|next| next.network), Some(false), "not known");
    }
}
