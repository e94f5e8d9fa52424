//! PURE: who was heard of when, and whom silence makes Unreachable or Lost.
//!
//! Counts milliseconds of one process's monotonic clock, given in. It proposes; whether a node is Lost is decided when
//! the command is applied. A proof of death (a new boot id) needs no judge and is not here.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use std::collections::BTreeMap;

use mlctl_proto::mutants::{Mutant, planted};

use crate::state::records::{Liveness, Timers};

/// Milliseconds since the process began to count.
pub type Mono = u64;

/// A judge that was itself held up this much longer than it meant to sleep has missed heartbeats that lie unread:
/// it judges nobody for one period.
const STALL_MS: u64 = 1_000;

/// What silence makes of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No new work.
    Unreachable(String),
    /// What it held has ended.
    Lost(String),
}

/// One leader's knowledge of who was heard of.
#[derive(Debug)]
pub struct Judge {
    timers: Timers,
    /// Silence before this does not count: when this leader began, or when it was last held up.
    since: Mono,
    heard: BTreeMap<String, Mono>,
    /// When it meant to judge next.
    planned: Mono,
}

impl Judge {
    /// A judge that begins `now`: every node has one full period before it is judged.
    pub fn new(timers: Timers, now: Mono) -> Self {
        let mut judge = Self {
            timers,
            since: now,
            heard: BTreeMap::new(),
            planned: now,
        };
        judge.planned = now + judge.soonest();
        if planted(Mutant::LeaseNotExtended) {
            judge.planned = now;
        }
        judge
    }

    /// `node` was heard of.
    pub fn heard(&mut self, node: &str, now: Mono) {
        match self.heard.get_mut(node) {
            Some(last) => *last = (*last).max(now),
            None => {
                self.heard.insert(node.to_owned(), now);
            }
        }
    }

    /// Whether `node` was heard of within three heartbeats.
    pub fn is_fresh(&self, node: &str, now: Mono) -> bool {
        let last = self.heard.get(node).copied();
        last.is_some_and(|last| now <= last + 3 * u64::from(self.timers.heartbeat_ms))
    }

    /// When to judge next. No silence becomes a verdict before.
    pub fn next(&self) -> Mono {
        self.planned
    }

    /// Judges every node at `now` and says when to judge next.
    pub fn judge<'a>(
        &mut self,
        nodes: impl Iterator<Item = (&'a str, Liveness)>,
        now: Mono,
    ) -> Vec<Verdict> {
        if now > self.planned + STALL_MS {
            self.since = now;
        }
        let mut verdicts = Vec::new();
        let mut next = now + self.soonest();
        for (node, liveness) in nodes {
            if liveness == Liveness::Lost {
                continue;
            }
            let last = self.heard.get(node).copied().unwrap_or(0).max(self.since);
            let unreachable_at = last + u64::from(self.timers.node_timeout_ms);
            let lost_at = last + u64::from(self.timers.lost_after_ms);
            let silent_before = planted(Mutant::LeaseNotExtended) && !self.heard.contains_key(node);
            if now >= lost_at || silent_before {
                verdicts.push(Verdict::Lost(node.to_owned()));
            } else if liveness == Liveness::Unreachable {
                next = next.min(lost_at);
            } else if now >= unreachable_at {
                verdicts.push(Verdict::Unreachable(node.to_owned()));
                next = next.min(lost_at);
            } else {
                next = next.min(unreachable_at);
            }
        }
        self.planned = next;
        verdicts
    }

    /// Judge again no later than `at`: a verdict could not be carried out.
    pub fn again_at(&mut self, at: Mono) {
        self.planned = self.planned.min(at);
    }

    /// A node that registers now cannot fall silent earlier than this.
    fn soonest(&self) -> u64 {
        u64::from(self.timers.node_timeout_ms.min(self.timers.lost_after_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timers = Timers {
        heartbeat_ms: 500,
        node_timeout_ms: 3_000,
        lost_after_ms: 10_000,
        fence_after_ms: 2_000,
        kill_grace_ms: 300,
    };

    fn check(judge: &mut Judge, at: Mono, liveness: Liveness, want: &[Verdict]) {
        let got = judge.judge([("n1", liveness)].into_iter(), at);
        assert_eq!(got, want, "at {at}, {liveness:?}");
    }

    fn lost() -> Verdict {
        Verdict::Lost("n1".into())
    }

    fn unreachable() -> Verdict {
        Verdict::Unreachable("n1".into())
    }

    #[test]
    fn silence_becomes_unreachable_then_lost() {
        let mut judge = Judge::new(T, 1_000);
        judge.heard("n1", 2_000);
        check(&mut judge, 4_000, Liveness::Ready, &[]);
        assert_eq!(judge.next(), 5_000);
        check(&mut judge, 5_000, Liveness::Ready, &[unreachable()]);
        assert_eq!(judge.next(), 8_000, "at the latest one period later");
        check(&mut judge, 8_000, Liveness::Unreachable, &[]);
        check(&mut judge, 11_000, Liveness::Unreachable, &[]);
        assert_eq!(judge.next(), 12_000);
        check(&mut judge, 12_000, Liveness::Unreachable, &[lost()]);
        check(&mut judge, 12_500, Liveness::Lost, &[]);
    }

    #[test]
    fn a_new_leader_judges_nobody_for_one_full_period() {
        let mut judge = Judge::new(T, 100_000);
        for at in [100_000, 102_999] {
            check(&mut judge, at, Liveness::Ready, &[]);
        }
        check(&mut judge, 103_000, Liveness::Ready, &[unreachable()]);
        for at in [105_999, 108_000, 109_999] {
            check(&mut judge, at, Liveness::Unreachable, &[]);
        }
        check(&mut judge, 110_000, Liveness::Unreachable, &[lost()]);
    }

    #[test]
    fn a_judge_that_slept_gives_everybody_a_new_period() {
        let mut judge = Judge::new(T, 0);
        judge.heard("n1", 10);
        check(&mut judge, 60_000, Liveness::Ready, &[]);
        check(&mut judge, 62_999, Liveness::Ready, &[]);
        check(&mut judge, 63_000, Liveness::Ready, &[unreachable()]);
    }

    #[test]
    fn with_equal_timers_a_node_is_lost_at_once() {
        let equal = Timers {
            lost_after_ms: 3_000,
            ..T
        };
        let mut judge = Judge::new(equal, 0);
        judge.heard("n1", 500);
        check(&mut judge, 3_000, Liveness::Ready, &[]);
        assert_eq!(judge.next(), 3_500);
        check(&mut judge, 3_500, Liveness::Ready, &[lost()]);
    }

    #[test]
    fn a_verdict_that_failed_is_given_again() {
        let mut judge = Judge::new(T, 0);
        check(&mut judge, 3_000, Liveness::Ready, &[unreachable()]);
        judge.again_at(3_200);
        assert_eq!(judge.next(), 3_200);
        check(&mut judge, 3_200, Liveness::Ready, &[unreachable()]);
    }
}
