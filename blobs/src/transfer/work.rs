//! Which lane fetches which chunk: runs of neighbours for each, what nobody has begun goes from a lane that has much to one that has none,
//! and what another holder has kept waiting is asked for a second time. Pure: time comes in. Does NOT move bytes.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::checkpoint::Bits;

/// Chunks of a run: 64 MiB are read from a disk in one piece, and a lane that fails gives little back.
const RUN_CHUNKS: usize = 16;
/// A chunk that has been flying for so long may be asked for at another holder as well, milliseconds.
const LATE_MS: u64 = 1_000;

/// What a lane does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask for this chunk.
    Fetch(u32),
    /// Nothing now; perhaps later.
    Wait,
    /// Nothing any more.
    Done,
}

struct Lane {
    holder: usize,
    /// Given to it and not asked for yet.
    run: VecDeque<u32>,
    /// Asked for, and since when.
    flying: BTreeMap<u32, u64>,
}

/// The chunks of one transfer that are still to come.
pub struct Work {
    queue: VecDeque<VecDeque<u32>>,
    lanes: BTreeMap<usize, Lane>,
    next_lane: usize,
    /// Not written yet.
    left: Bits,
    /// Asked for twice.
    twice: BTreeSet<u32>,
    banned: BTreeSet<usize>,
}

impl Work {
    /// All of `want`.
    pub fn new(want: &Bits) -> Self {
        let mut queue = VecDeque::new();
        let mut run = VecDeque::new();
        for index in want.iter() {
            if run.len() == RUN_CHUNKS {
                queue.push_back(std::mem::take(&mut run));
            }
            run.push_back(index);
        }
        if !run.is_empty() {
            queue.push_back(run);
        }
        Self {
            queue,
            lanes: BTreeMap::new(),
            next_lane: 0,
            left: want.clone(),
            twice: BTreeSet::new(),
            banned: BTreeSet::new(),
        }
    }

    /// Chunks that are not written yet.
    pub fn left(&self) -> u32 {
        self.left.count()
    }

    /// A new lane to `holder`.
    pub fn join(&mut self, holder: usize) -> usize {
        let number = self.next_lane;
        self.next_lane += 1;
        let lane = Lane {
            holder,
            run: VecDeque::new(),
            flying: BTreeMap::new(),
        };
        self.lanes.insert(number, lane);
        number
    }

    /// What `lane` asks for now.
    pub fn next(&mut self, lane: usize, now_ms: u64) -> Next {
        let Some(me) = self.lanes.get(&lane) else {
            return Next::Done;
        };
        let holder = me.holder;
        if self.left.is_empty() || self.banned.contains(&holder) {
            return Next::Done;
        }
        if me.run.is_empty() {
            let run = self.queue.pop_front().or_else(|| self.half_of_another());
            if let Some(me) = self.lanes.get_mut(&lane) {
                me.run = run.unwrap_or_default();
            }
        }
        let fresh = self.lanes.get_mut(&lane).and_then(|me| me.run.pop_front());
        let found = fresh.or_else(|| self.late(holder, now_ms));
        let (Some(index), Some(me)) = (found, self.lanes.get_mut(&lane)) else {
            return Next::Wait;
        };
        me.flying.insert(index, now_ms);
        Next::Fetch(index)
    }

    /// The farther half of the longest run that is given and not begun.
    fn half_of_another(&mut self) -> Option<VecDeque<u32>> {
        let longest = self
            .lanes
            .values_mut()
            .max_by_key(|other| other.run.len())?;
        let keep = longest.run.len() / 2;
        Some(longest.run.split_off(keep)).filter(|run| !run.is_empty())
    }

    /// The chunk that another holder has kept waiting longest, if that is too long.
    fn late(&mut self, holder: usize, now_ms: u64) -> Option<u32> {
        let others = self.lanes.values().filter(|lane| lane.holder != holder);
        let flying = others.flat_map(|lane| &lane.flying);
        let late = flying.filter(|(index, since)| {
            now_ms.saturating_sub(**since) >= LATE_MS && !self.twice.contains(index)
        });
        let (index, _) = late.min_by_key(|(_, since)| **since)?;
        let index = *index;
        self.twice.insert(index);
        Some(index)
    }

    /// It arrived at `lane`, was verified and is written. False if it was there already.
    pub fn written(&mut self, lane: usize, index: u32) -> bool {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.flying.remove(&index);
        }
        let first = self.left.get(index);
        self.left.set(index, false);
        first
    }

    /// The lane has ended: what it had not brought goes to others, first of all.
    pub fn leave(&mut self, lane: usize) {
        let Some(lane) = self.lanes.remove(&lane) else {
            return;
        };
        let elsewhere: BTreeSet<u32> = self
            .lanes
            .values()
            .flat_map(|lane| lane.flying.keys().copied())
            .collect();
        let all = lane.flying.keys().chain(&lane.run).copied();
        let back: BTreeSet<u32> = all
            .filter(|index| self.left.get(*index) && !elsewhere.contains(index))
            .collect();
        self.twice.retain(|index| !back.contains(index));
        if !back.is_empty() {
            self.queue.push_front(back.into_iter().collect());
        }
    }

    /// Nothing more from this holder: it sent something wrong, or lacks what it said it has.
    pub fn ban(&mut self, holder: usize) {
        self.banned.insert(holder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(count: u32) -> Work {
        let mut want = Bits::new(count);
        (0..count).for_each(|index| want.set(index, true));
        Work::new(&want)
    }

    fn fetched(next: Next) -> u32 {
        match next {
            Next::Fetch(index) => index,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lanes_get_runs_and_the_idle_one_takes_half() {
        let mut work = all(20);
        let (a, b) = (work.join(0), work.join(1));
        assert_eq!(
            (work.next(a, 0), work.next(a, 0)),
            (Next::Fetch(0), Next::Fetch(1))
        );
        for index in 16..20 {
            assert_eq!(work.next(b, 0), Next::Fetch(index));
        }
        // `a` has 2 to 15 left: `b` takes the farther half.
        for index in 9..16 {
            assert_eq!(work.next(b, 0), Next::Fetch(index));
        }
        assert_eq!(work.next(a, 0), Next::Fetch(2));
    }

    #[test]
    fn what_is_late_is_asked_for_once_more_at_another_holder() {
        let mut work = all(1);
        let (slow, same, other, third) = (work.join(0), work.join(0), work.join(1), work.join(2));
        assert_eq!(work.next(slow, 0), Next::Fetch(0));
        assert_eq!(work.next(other, LATE_MS - 1), Next::Wait);
        assert_eq!(work.next(same, LATE_MS), Next::Wait);
        assert_eq!(work.next(other, LATE_MS), Next::Fetch(0));
        assert_eq!(work.next(third, 3 * LATE_MS), Next::Wait);
        assert!(work.written(other, 0));
        assert!(!work.written(slow, 0));
        assert_eq!(work.next(slow, 0), Next::Done);
    }

    #[test]
    fn what_a_lane_had_goes_to_others() {
        let mut work = all(3);
        let (a, b) = (work.join(0), work.join(1));
        let got = [fetched(work.next(a, 0)), fetched(work.next(a, 0))];
        assert_eq!(got, [0, 1]);
        assert!(work.written(a, 0));
        work.ban(0);
        assert_eq!(work.next(a, 0), Next::Done);
        work.leave(a);
        assert_eq!(work.next(b, 0), Next::Fetch(1));
        assert_eq!(work.next(b, 0), Next::Fetch(2));
        assert_eq!(work.left(), 2);
    }

    proptest! {
        /// Whatever happens in whatever order, each chunk is written, and without late ones and lost lanes none is asked for twice.
        #[test]
        fn everything_comes(
            count in 1_u32..80,
            steps in proptest::collection::vec((0_usize..4, 0_u8..10), 0..400),
            losses in any::<bool>(),
        ) {
            let mut work = all(count);
            let mut asked = 0_u32;
            let mut lanes: Vec<(usize, VecDeque<u32>)> =
                (0..4).map(|holder| (work.join(holder), VecDeque::new())).collect();
            let finish = (0..count * 8).map(|n| ((n % 4) as usize, if n % 8 < 4 { 0 } else { 5 }));
            for (lane, what) in steps.into_iter().chain(finish) {
                let (number, flying) = &mut lanes[lane];
                match what {
                    0..5 => if let Next::Fetch(index) = work.next(*number, 0) {
                        asked += 1;
                        flying.push_back(index);
                    },
                    5..9 => if let Some(index) = flying.pop_front() {
                        work.written(*number, index);
                    },
                    _ if losses => {
                        work.leave(*number);
                        *number = work.join(lane);
                        flying.clear();
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(work.left(), 0);
            prop_assert!(losses || asked == count);
        }
    }
}
