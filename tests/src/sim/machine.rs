//! What a simulated coordinator does with committed entries: applies them, checks every property, takes snapshots.
//! Does NOT decide what is committed.

use std::collections::BTreeSet;

use mlctl_coordinator::consensus::turn::{CommittedEntry, Input};
use mlctl_coordinator::leader::step;
use mlctl_coordinator::state::commands::ArchiveJobs;
use mlctl_coordinator::state::records::PartKey;
use mlctl_coordinator::state::{Body, Changed, Effect, State, codec, invariants};
use mlctl_proto::ids::JobId;

use super::coordinator::{MEMBERS, Waiter, system};
use super::disk::SnapshotFile;
use super::world::{Event, Process, World};
use crate::checkers::{Checkpoints, Violation};

/// Between two looks at what may leave for history, entries, and so many jobs leave at most.
const ARCHIVE_EVERY: u64 = 16;
const ARCHIVED: u32 = 64;
const SNAPSHOT_EVERY: u64 = 15;
/// Every so many entries the whole state is checked, not only the step.
const CHECK_ALL_EVERY: u64 = 2_000;

fn job_of(changed: &Changed) -> Option<JobId> {
    match changed {
        Changed::Job(job) => Some(*job),
        Changed::Node(_) => None,
    }
}

impl World {
    pub(super) fn apply(&mut self, who: usize, entry: CommittedEntry) {
        let id = MEMBERS[who];
        let Some(member) = &self.coordinators[who].live else {
            return;
        };
        let term = member.term();
        let checked = self.checkers.consensus.committed(id, term, &entry);
        self.check(checked);
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let mut state = member.state.clone();
        let (before, first) = (
            state.clone(),
            entry.index > self.head.applied_index() && member.vitals.flipped.is_none(),
        );
        if entry.commands.is_empty() {
            state.skip(entry.index);
        }
        let (mut effects, mut changed, mut reply) = (Vec::new(), BTreeSet::new(), None);
        for bytes in &entry.commands {
            let command = match codec::decode_command(bytes) {
                Ok(command) => command,
                Err(error) => return self.broken(who, &error.to_string()),
            };
            let applied = state.apply(entry.index, &command);
            if first {
                self.observe(&before, &command, &applied);
            }
            effects.extend(applied.effects);
            changed.extend(applied.changed);
            reply = Some(applied.reply);
        }
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        member.state = state;
        member.last = (entry.index, entry.term);
        member.inbox.push(Input::Applied { index: entry.index });
        self.checkers.leases.committed(entry.term, self.now);
        self.applied(who, &before, &changed, effects);
        if let (Some(proposal), Some(reply)) = (entry.proposal, reply) {
            self.settle(who, proposal, Some((entry.index, reply)));
        }
        self.snapshot_if_due(who);
        self.archive_if_due(who);
    }

    /// A leader lets jobs that are over leave the tables.
    fn archive_if_due(&mut self, who: usize) {
        let Some(member) = &self.coordinators[who].live else {
            return;
        };
        let (state, index) = (&member.state, member.last.0);
        let due = member.lead.is_some() && index.is_multiple_of(ARCHIVE_EVERY);
        if due && state.archive_due(state.now_ms(), 1) > 0 {
            let body = Body::ArchiveJobs(ArchiveJobs { most: ARCHIVED });
            self.propose(who, system("coordinator"), None, body, Waiter::Nobody);
        }
    }

    /// Checks one applied entry and hands its effects to the leader's loop.
    fn applied(
        &mut self,
        who: usize,
        before: &State,
        changed: &BTreeSet<Changed>,
        effects: Vec<Effect>,
    ) {
        let id = MEMBERS[who];
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let (state, (index, term)) = (member.state.clone(), member.last);
        let flipped = member.vitals.flipped.is_some();
        member.vitals.applied(index, state.digest().to_bytes());
        let overflowed = false;
        self.led(
            who,
            step::Event::Effects {
                effects,
                overflowed,
            },
        );
        let digest = state.digest();
        self.print.update(&digest.to_bytes());
        let checked = self
            .checkers
            .applied
            .applied(id, index, state.applied_index());
        self.check(checked);
        if flipped {
            return;
        }
        let checked = self.checkers.digests.saw(id, index, digest);
        self.check(checked);
        if index > self.head.applied_index() {
            let checked = self.checkers.judged.step(before, &state, term, self.now);
            self.check(checked);
            self.head_moved(before, state, changed);
        }
    }

    /// An entry was applied for the first time anywhere.
    fn head_moved(&mut self, before: &State, after: State, changed: &BTreeSet<Changed>) {
        let jobs: Vec<JobId> = changed.iter().filter_map(job_of).collect();
        let epochs = &self.checkers.closed_epochs;
        let mut checked = epochs.step(before, &after, &jobs);
        checked = checked.and(self.checkers.terminal.step(before, &after, &jobs, epochs));
        checked = checked.and(self.checkers.history.step(before, &after));
        let has = |node: &str, part: &PartKey| self.has_part(node, part);
        checked = checked.and(self.checkers.checkpoints.step(before, &after, &jobs, has));
        self.check(checked);
        self.holds(invariants::check_changed(before, &after, changed));
        let again = |id: &&JobId| {
            let counter = |state: &State| state.job(**id).map_or(0, |job| job.epoch_counter);
            counter(&after) > counter(before).max(1)
        };
        self.counts.restarts += jobs.iter().filter(again).count() as u64;
        for job in jobs.iter().filter(again) {
            self.check(Checkpoints::starts(before, &after, *job));
        }
        self.head = after;
        if self.head.applied_index() >= self.checked.applied_index() + CHECK_ALL_EVERY {
            self.check_all();
        }
    }

    /// Checks everything of the furthest state, not only what the newest steps changed.
    pub(super) fn check_all(&mut self) {
        let checked = self
            .checkers
            .acknowledged
            .check(&self.head, &self.checkers.history);
        self.check(checked);
        self.holds(invariants::check_step(&self.checked, &self.head));
        self.holds(invariants::check(&self.head));
        self.checked = self.head.clone();
    }

    fn holds(&mut self, broken: Vec<invariants::Violation>) {
        if let Some(broken) = broken.into_iter().next() {
            let what = format!("{}: {}", broken.rule, broken.what);
            self.violate(Violation {
                property: "state",
                what,
            });
        }
    }

    fn snapshot_if_due(&mut self, who: usize) {
        let life = self.coordinators[who].life;
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        if member.last.0 < member.snapshot_at + SNAPSHOT_EVERY {
            return;
        }
        member.snapshot_at = member.last.0;
        let (state, flipped) = (member.state.clone(), member.vitals.flipped);
        let file = SnapshotFile::new(state, flipped, member.last, &MEMBERS);
        let delay = self.dice.between(5, 60);
        self.after(delay, Event::SnapshotWritten(Process { who, life }, file));
    }
}
