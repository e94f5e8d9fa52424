//! PURE: who is asked whether a silent node is there, and what the answers together say. A node that nobody hears, its keepers neither,
//! is lost long before `lost_after`; one that only this side cannot hear is left alone.
//!
//! Soft: a leader that has not heard from a node in its own term knows no port of it and asks nobody. Silence decides then, as it
//! does where too few nodes are there to ask.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::mutants::{Mutant, planted};

use super::liveness::Mono;

/// Who was asked has answered by then, or does not count.
pub const ANSWER_MS: u64 = 4_000;
/// After an inquiry without a result the next one begins this much later.
const AGAIN_MS: u64 = 1_000;

/// Somebody on a node who answers questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// A UDP port.
    pub port: u16,
    /// What questions to it are made with.
    pub key: [u8; 32],
}

/// Everybody on a node who could answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Its agent and the keepers of its attempts.
    pub targets: Vec<Target>,
    /// Every keeper whose ranks may run is among them: then their silence says something.
    pub whole: bool,
}

/// What an answer leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Others were asked too.
    Open,
    /// Somebody hears it: it is not lost.
    Seen,
    /// Nobody hears it.
    Lost,
}

#[derive(Debug)]
struct Inquiry {
    id: u64,
    /// Asked, not answered yet.
    waiting: BTreeSet<String>,
    deadline: Mono,
}

/// A silent node.
#[derive(Debug)]
enum Asking {
    Asked(Inquiry),
    /// To be asked for again.
    Later(Mono),
}

/// One leader's inquiries.
#[derive(Debug, Default)]
pub struct Witnesses {
    known: BTreeMap<String, Targets>,
    silent: BTreeMap<String, Asking>,
    last: u64,
}

impl Witnesses {
    /// A node tells who would answer there.
    pub fn learn(&mut self, node: &str, targets: Targets) {
        self.known.insert(node.to_owned(), targets);
    }

    /// A node was heard of: nobody needs to be asked.
    pub fn heard(&mut self, node: &str) {
        self.silent.remove(node);
    }

    /// A node fell silent. Asked for now.
    pub fn fell_silent(&mut self, node: &str, now: Mono) {
        self.silent
            .entry(node.to_owned())
            .or_insert(Asking::Later(now));
    }

    /// What came of an inquiry could not be recorded: asked for again.
    pub fn again(&mut self, node: &str, now: Mono) {
        self.later(node, now + AGAIN_MS);
    }

    /// When somebody has to be asked or given up.
    pub fn next(&self) -> Option<Mono> {
        let due = self.silent.values().map(|asking| match asking {
            Asking::Asked(inquiry) => inquiry.deadline,
            Asking::Later(at) => *at,
        });
        due.min()
    }

    /// Nodes that have to be asked for now. What was not answered in time counts for nothing.
    pub fn due(&mut self, now: Mono) -> Vec<String> {
        let late = |asking: &Asking| match asking {
            Asking::Asked(inquiry) => inquiry.deadline <= now,
            Asking::Later(at) => *at <= now,
        };
        let due = self.silent.iter().filter(|(_, asking)| late(asking));
        due.map(|(node, _)| node.clone()).collect()
    }

    /// Begins to ask `witnesses` for `node`; `None` if there are none, or nobody there could answer for all that may run.
    pub fn ask(
        &mut self,
        node: &str,
        witnesses: &[String],
        now: Mono,
    ) -> Option<(u64, Vec<Target>)> {
        let known = self.known.get(node).filter(|known| known.whole);
        let Some(known) = known.filter(|known| !witnesses.is_empty() && !known.targets.is_empty())
        else {
            self.later(node, now + AGAIN_MS);
            return None;
        };
        let targets = known.targets.clone();
        self.last += 1;
        let inquiry = Inquiry {
            id: self.last,
            waiting: witnesses.iter().cloned().collect(),
            deadline: now + ANSWER_MS,
        };
        self.silent.insert(node.to_owned(), Asking::Asked(inquiry));
        Some((self.last, targets))
    }

    /// `witness` answers inquiry `id` about `node`. `period`: a node that somebody heard is not asked for again before.
    pub fn answered(
        &mut self,
        node: &str,
        witness: &str,
        id: u64,
        seen: bool,
        (now, period): (Mono, u64),
    ) -> Finding {
        let Some(Asking::Asked(inquiry)) = self.silent.get_mut(node) else {
            return Finding::Open;
        };
        if inquiry.id != id || !inquiry.waiting.remove(witness) {
            return Finding::Open;
        }
        if seen && !planted(Mutant::WitnessIgnored) {
            self.later(node, now + period);
            return Finding::Seen;
        }
        if !inquiry.waiting.is_empty() {
            return Finding::Open;
        }
        // Until the loss is recorded, or could not be.
        self.later(node, now + ANSWER_MS);
        Finding::Lost
    }

    fn later(&mut self, node: &str, at: Mono) {
        self.silent.insert(node.to_owned(), Asking::Later(at));
    }

    /// Nobody is asked for this node any more: it is lost, or gone.
    pub fn forget(&mut self, node: &str) {
        self.silent.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: u64 = 3_000;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    fn known(whole: bool) -> Witnesses {
        let mut witnesses = Witnesses::default();
        let target = Target {
            port: 9,
            key: [1; 32],
        };
        let targets = vec![target];
        witnesses.learn("a", Targets { targets, whole });
        witnesses.fell_silent("a", 100);
        witnesses
    }

    #[test]
    fn only_the_silence_of_all_is_a_loss() {
        let mut witnesses = known(true);
        assert_eq!(witnesses.due(100), ["a"]);
        let (id, targets) = witnesses.ask("a", &names(&["b", "c"]), 100).expect("asked");
        assert_eq!(targets.len(), 1);
        assert!(witnesses.due(101).is_empty());
        let mut said =
            |witness, id, seen| witnesses.answered("a", witness, id, seen, (200, PERIOD));
        assert_eq!(said("b", id, false), Finding::Open);
        assert_eq!(said("b", id, false), Finding::Open, "it counts once");
        assert_eq!(said("z", id, false), Finding::Open, "nobody asked it");
        assert_eq!(said("c", id + 1, false), Finding::Open, "another inquiry");
        assert_eq!(said("c", id, false), Finding::Lost);
        assert_eq!(said("c", id, false), Finding::Open, "once");
    }

    #[test]
    fn one_that_hears_it_is_enough() {
        let mut witnesses = known(true);
        let (id, _) = witnesses.ask("a", &names(&["b", "c"]), 100).expect("asked");
        let finding = witnesses.answered("a", "b", id, true, (200, PERIOD));
        assert_eq!(finding, Finding::Seen);
        let late = witnesses.answered("a", "c", id, false, (210, PERIOD));
        assert_eq!(late, Finding::Open);
        assert_eq!(witnesses.next(), Some(200 + PERIOD), "it may die later");
        assert_eq!(witnesses.due(200 + PERIOD), ["a"]);
    }

    #[test]
    fn a_witness_that_does_not_answer_says_nothing() {
        let mut witnesses = known(true);
        let (id, _) = witnesses.ask("a", &names(&["b", "c"]), 100).expect("asked");
        witnesses.answered("a", "b", id, false, (200, PERIOD));
        assert_eq!(witnesses.next(), Some(100 + ANSWER_MS));
        assert_eq!(witnesses.due(100 + ANSWER_MS), ["a"], "asked again");
        let (again, _) = witnesses.ask("a", &names(&["b"]), 5_000).expect("asked");
        let late = witnesses.answered("a", "c", id, false, (5_100, PERIOD));
        assert_eq!(late, Finding::Open);
        let finding = witnesses.answered("a", "b", again, false, (5_200, PERIOD));
        assert_eq!(finding, Finding::Lost);
    }

    #[test]
    fn nobody_is_asked_where_silence_would_say_nothing() {
        let mut unknown = Witnesses::default();
        unknown.fell_silent("a", 0);
        assert_eq!(unknown.ask("a", &names(&["b"]), 0), None);
        assert_eq!(known(false).ask("a", &names(&["b"]), 100), None);
        let mut alone = known(true);
        assert_eq!(alone.ask("a", &[], 100), None);
        assert_eq!(alone.next(), Some(100 + AGAIN_MS));
    }

    #[test]
    fn what_is_heard_again_is_asked_for_no_more() {
        let mut witnesses = known(true);
        let (id, _) = witnesses.ask("a", &names(&["b"]), 100).expect("asked");
        witnesses.heard("a");
        assert_eq!(witnesses.next(), None);
        let finding = witnesses.answered("a", "b", id, false, (200, PERIOD));
        assert_eq!(finding, Finding::Open);
    }
}
