//! What a simulated coordinator does with committed entries: applies them, checks every property, takes snapshots.
//! Does NOT decide what is committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_coordinator::consensus::turn::{CommittedEntry, Input, SnapshotMeta};
use mlctl_coordinator::leader::step;
use mlctl_coordinator::state::records::Reply;
use mlctl_coordinator::state::{Changed, Effect, State, codec, invariants};
use mlctl_proto::ids::JobId;

use super::coordinator::MEMBERS;
use super::world::{Event, Process, World};
use crate::checkers::Violation;

const SNAPSHOT_EVERY: u64 = 15;
/// Every so many entries the whole state is checked, not only the step.
const CHECK_ALL_EVERY: u64 = 25;

impl World {
    pub(super) fn apply(&mut self, who: usize, entry: CommittedEntry) {
        let id = MEMBERS[who];
        let checked = self.checkers.consensus.committed(id, &entry);
        self.check(checked);
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let before = member.state.clone();
        if entry.commands.is_empty() {
            member.state.skip(entry.index);
        }
        let (mut effects, mut jobs, mut reply) = (Vec::new(), BTreeSet::new(), None);
        let mut made = Vec::new();
        for bytes in &entry.commands {
            let command = match codec::decode_command(bytes) {
                Ok(command) => command,
                Err(error) => return self.broken(who, &error.to_string()),
            };
            let applied = member.state.apply(entry.index, &command);
            if let (Some(key), Reply::Submitted { job }) = (&command.key, &applied.reply) {
                made.push((key.uuid, *job));
            }
            effects.extend(applied.effects);
            jobs.extend(
                applied
                    .changed
                    .into_iter()
                    .filter_map(|changed| match changed {
                        Changed::Job(job) => Some(job),
                        Changed::Node(_) => None,
                    }),
            );
            reply = Some(applied.reply);
        }
        member.last = (entry.index, entry.term);
        member.inbox.push(Input::Applied { index: entry.index });
        let jobs: Vec<JobId> = jobs.into_iter().collect();
        for (key, job) in made {
            let checked = self.checkers.acknowledged.made(key, job);
            self.check(checked);
        }
        self.checkers.leases.committed(entry.term, self.now);
        self.applied(who, &before, &jobs, effects);
        if let (Some(proposal), Some(reply)) = (entry.proposal, reply) {
            self.settle(who, proposal, Some((entry.index, reply)));
        }
        self.snapshot_if_due(who);
    }

    /// Checks one applied entry and hands its effects to the leader's loop.
    fn applied(&mut self, who: usize, before: &State, jobs: &[JobId], effects: Vec<Effect>) {
        let id = MEMBERS[who];
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let (state, (index, term)) = (member.state.clone(), member.last);
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
        let checked = self.checkers.digests.saw(id, index, digest);
        self.check(checked);
        if index > self.head.applied_index() {
            let checked = self.checkers.judged.step(before, &state, term, self.now);
            self.check(checked);
            self.head_moved(before, state, jobs);
        }
    }

    /// An entry was applied for the first time anywhere.
    fn head_moved(&mut self, before: &State, after: State, jobs: &[JobId]) {
        let epochs = &self.checkers.closed_epochs;
        let mut checked = epochs.step(before, &after, jobs);
        checked = checked.and(self.checkers.terminal.step(before, &after, jobs, epochs));
        let mut broken = invariants::check_step(before, &after);
        if after.applied_index().is_multiple_of(CHECK_ALL_EVERY) {
            checked = checked.and(self.checkers.acknowledged.check(&after));
            broken.extend(invariants::check(&after));
        }
        self.check(checked);
        if let Some(broken) = broken.into_iter().next() {
            let what = format!("{}: {}", broken.rule, broken.what);
            self.violate(Violation {
                property: "state",
                what,
            });
        }
        let again = |id: &&JobId| {
            let counter = |state: &State| state.job(**id).map_or(0, |job| job.epoch_counter);
            counter(&after) > counter(before).max(1)
        };
        self.counts.restarts += jobs.iter().filter(again).count() as u64;
        self.head = after;
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
        let bytes = codec::encode_snapshot(&member.state);
        let meta = SnapshotMeta {
            index: member.last.0,
            term: member.last.1,
            voters: MEMBERS.to_vec(),
            digest: *blake3::hash(&bytes).as_bytes(),
        };
        let delay = self.dice.between(5, 60);
        let file = (meta, Arc::new(bytes));
        self.after(delay, Event::SnapshotWritten(Process { who, life }, file));
    }
}
