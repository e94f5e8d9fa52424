//! Taking devices back (docs/SCHEDULING.md, Preemption): who may be ended for whom, whether the whole gang fits afterwards, and the transaction that says so. Nobody is ended unless it does.
//! Does NOT end anybody.
mod candidates;
mod commit;
pub mod recheck;
mod search;
pub mod table;

use std::ops::Range;

use super::pass::{Outcome, Pass};
use super::stuck::Stuck;
use crate::scheduler::plan::{Entitlement, Taken};

/// On which grounds devices are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// From those that fewer levels cover.
    Reclaim,
    /// From all that are less entitled.
    Entitled,
    /// From those whose slice is over, if the policy slices.
    Slice,
    /// A reservation is due: from those in overtime, and from guests.
    Due,
}

/// One that may be ended.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its place in [`Pass::runs`].
    pub run: usize,
    /// How entitled it is.
    pub entitlement: Entitlement,
    /// Why.
    pub why: Taken,
}

impl<'a> Pass<'a> {
    /// The list of types again: with reclaim, then with preemption (docs/SCHEDULING.md, Requests). `None`: nobody can be ended for it.
    pub(super) fn take_back(&mut self, at: usize, targets: Range<usize>) -> Option<Outcome> {
        if self.scene.preemption_paused {
            return None;
        }
        for mode in [Mode::Reclaim, Mode::Entitled, Mode::Slice] {
            for target in targets.clone() {
                if let Some(outcome) = self.evict_for(at, target, mode) {
                    return Some(outcome);
                }
            }
        }
        None
    }

    /// Ends others for a job on one target, if that is allowed and the whole gang fits afterwards.
    pub(super) fn evict_for(&mut self, at: usize, target: usize, mode: Mode) -> Option<Outcome> {
        let job = self.jobs[at];
        let charge = self.asks.targets[target]
            .flavor
            .map(|flavor| (flavor, job.units));
        if self.asks.targets[target].ask.mix
            && self.asks.targets[target].flavor.is_none()
            && mode != Mode::Due
        {
            // What it will be charged for is not known before a place is found.
            return None;
        }
        let key = (target, job.terms, job.team, job.class, mode);
        if self.tables.failed.contains(&key) {
            return None;
        }
        if self
            .book
            .budget(job.waiting, job.team, charge.as_slice(), &self.kinds)
            .is_some()
        {
            return None;
        }
        if !self.could_help(at, target, mode) {
            return None;
        }
        if mode != Mode::Due && job.waiting.no_preempt_until_ms > self.now {
            return Some(Outcome::Stuck(Stuck::Cooldown(
                job.waiting.no_preempt_until_ms,
            )));
        }
        let candidates = self.candidates(at, target, mode);
        if candidates.is_empty() {
            return None;
        }
        let done = match self.search(at, target, &candidates) {
            search::Found::Ending => return Some(Outcome::Stuck(Stuck::Ending)),
            search::Found::Victims(victims, choice) => {
                self.evict(at, target, mode, &candidates, victims, choice)
            }
            search::Found::Nothing => false,
        };
        if !done {
            self.tables.failed.insert(key);
        }
        done.then_some(Outcome::Done)
    }
}
