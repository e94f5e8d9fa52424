//! The replicated state of the cluster: `apply(index, command)` is a function of the state and its arguments, and of nothing else.
//!
//! No clock, no randomness, no I/O, no float and no panic: times and ids come with the command, what is to be done goes out
//! as [`Effect`]s. A command is applied whole or not at all. It does not decide what runs where: `scheduler` proposes that.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

mod change;
pub mod codec;
pub mod commands;
mod decisions;
mod digest;
mod history;
mod holds;
pub mod invariants;
#[cfg(test)]
mod random_tests;
pub mod records;
mod rows;
pub mod rules;
mod table;
mod teams;
#[cfg(test)]
pub(crate) mod testing;
mod transition;
pub mod view;

use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::spec::RetrySpec;
use mlctl_proto::units::UtcMs;

pub use commands::{Body, Command, IdempotencyKey};
pub use digest::Digest;
pub use transition::legal;

use records::{
    Attempt, BudgetAccount, ClosedSegment, Decision, DeviceHold, EndKind, HistoryBatch,
    Idempotency, Job, Node, PartKey, Reply, Segment, Settings, Spec, Team, TeamUsage,
};
use rules::{Inventory, Request};
use table::Table;
use view::{Indexes, SpecFacts};

/// Everything the members agree on. A clone is cheap and shares all rows; it is what readers get.
#[derive(Debug, Clone, Default)]
pub struct State {
    applied_index: u64,
    digest: Digest,
    settings: Table<Settings>,
    teams: Table<Team>,
    nodes: Table<Node>,
    specs: Table<Spec>,
    jobs: Table<Job>,
    attempts: Table<Attempt>,
    keys: Table<Idempotency>,
    tail: Table<HistoryBatch>,
    segments: Table<Segment>,
    usages: Table<TeamUsage>,
    accounts: Table<BudgetAccount>,
    decisions: Table<Decision>,
    holds: Table<DeviceHold>,
    indexes: Indexes,
}

/// What one command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For whoever proposed it.
    pub reply: Reply,
    /// For the leader; followers drop them.
    pub effects: Vec<Effect>,
    /// What watchers see, in the order of first change, each once.
    pub changed: Vec<Changed>,
    /// Every row that differs now, for the index.
    pub rows: Vec<Row>,
    /// Segments of history that were closed, with the bytes of their files.
    pub closed: Vec<ClosedSegment>,
}

/// What the leader has to do. Each may be done twice without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Have `node` start its allocation of (`job`, `epoch`).
    Start {
        /// The node.
        node: String,
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
    /// Have `node` end its allocation of (`job`, `epoch`).
    Stop {
        /// The node.
        node: String,
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Why.
        reason: EndKind,
    },
    /// Tell `node` that events of `journal_id` up to `up_to` are applied, refused ones included.
    EventsApplied {
        /// The node.
        node: String,
        /// Its journal.
        journal_id: String,
        /// The node's event mark.
        up_to: u64,
    },
    /// Have `node` forget parts of checkpoints, which do not count any more.
    Forget {
        /// The node.
        node: String,
        /// Which.
        parts: Vec<PartKey>,
    },
    /// Checkpoints of this job, or who holds them, have changed: copies may be due.
    Checkpoints {
        /// The job.
        job: JobId,
    },
    /// The scheduler's answer may differ now, also for jobs that it left waiting.
    Replan,
    /// One more job waits; for all others the scheduler's answer is what it was.
    Queued,
}

/// What changed, for watchers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// A job, one of its attempts or checkpoints.
    Job(JobId),
    /// A node.
    Node(String),
}

/// A row as bytes. `record` is `None` when the row was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its table.
    pub table: u8,
    /// Sorts as the keys do.
    pub key: Vec<u8>,
    /// Versioned protobuf.
    pub record: Option<Vec<u8>>,
}

impl State {
    /// An empty state: it accepts nothing but [`Body::Bootstrap`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a committed command. Several commands may share one index; a lower index than the one applied is the caller's
    /// fault and changes nothing. A rejected command changes nothing but the index.
    pub fn apply(&mut self, index: u64, command: &Command) -> Applied {
        if index < self.applied_index {
            let why = format!(
                "entry {index} came after entry {} was applied",
                self.applied_index
            );
            return Applied::nothing(Reply::Rejected(Refusal::new(Code::Internal, why)));
        }
        self.applied_index = index;
        match commands::remembered::find(self, command) {
            Ok(None) => {}
            Ok(Some(reply)) => return Applied::nothing(reply),
            Err(refusal) => return Applied::nothing(Reply::Rejected(refusal)),
        }
        let mut change = change::Change::new(self.clone());
        match commands::run(&mut change, index, command) {
            Ok(reply) => {
                let (state, applied) = change.finish(reply);
                *self = state;
                applied
            }
            Err(refusal) => {
                if planted(Mutant::IndexApartFromState) {
                    self.applied_index = index.saturating_sub(1);
                }
                Applied::nothing(Reply::Rejected(refusal))
            }
        }
    }

    /// Whether applying this would only give the reply again that it got before.
    pub fn was_answered(&self, command: &Command) -> bool {
        matches!(commands::remembered::find(self, command), Ok(Some(_)))
    }

    /// Moves the index over an entry that held no command.
    pub fn skip(&mut self, index: u64) {
        self.applied_index = self.applied_index.max(index);
    }

    /// The index of the newest entry that is in here.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// Equal on every member at the same index.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The settings, once the cluster is set up.
    pub fn settings(&self) -> Option<&Settings> {
        self.settings.get(&()).map(Arc::as_ref)
    }

    /// State time: the highest time that any accepted command brought, 0 before the first.
    pub fn now_ms(&self) -> UtcMs {
        self.settings().map_or(0, |settings| settings.now_ms)
    }

    /// A job.
    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// All jobs by id.
    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.iter().map(|(_, job)| job)
    }

    /// An attempt.
    pub fn attempt(&self, job: JobId, epoch: Epoch) -> Option<&Arc<Attempt>> {
        self.attempts.get(&(job, epoch))
    }

    /// The current attempt of a job: its newest, unless an earlier one was recalled.
    pub fn current_attempt(&self, job: &Job) -> Option<&Arc<Attempt>> {
        self.attempt(job.id, job.epoch()?)
    }

    /// Nodes of a job's current attempt; before the first the fewest on which it runs.
    pub fn width(&self, job: &Job) -> u32 {
        let current = self.current_attempt(job).map(|attempt| attempt.width());
        let fewest = || self.request(job).map_or(0, |request| request.nodes);
        current.unwrap_or_else(fewest)
    }

    /// Ranks of that attempt of a job that had the most.
    pub fn most_ranks(&self, job: &Job) -> u32 {
        let Some(request) = self.request(job) else {
            return 0;
        };
        let widths = self.attempts_of(job.id).map(|attempt| attempt.width());
        let most = widths.max().unwrap_or(request.nodes);
        most.saturating_mul(request.ranks)
    }

    /// All attempts of a job, oldest first.
    pub fn attempts_of(&self, job: JobId) -> impl Iterator<Item = &Arc<Attempt>> {
        let (first, last) = (Epoch::new(0, 0), Epoch::new(u32::MAX, u64::MAX));
        self.attempts
            .range((job, first)..=(job, last))
            .map(|(_, attempt)| attempt)
    }

    /// The attempt of a job that may still run on a node that is Lost by silence. There is at most one.
    pub fn in_doubt(&self, job: JobId) -> Option<&Arc<Attempt>> {
        self.attempts_of(job).find(|attempt| attempt.in_doubt)
    }

    /// Whether an earlier attempt of a pending job is still being ended: the next one waits for that.
    pub fn ends_attempt(&self, job: JobId) -> bool {
        self.attempts_of(job)
            .any(|attempt| !attempt.closed() && !attempt.in_doubt)
    }

    /// All attempts by job and epoch.
    pub fn attempts(&self) -> impl Iterator<Item = &Arc<Attempt>> {
        self.attempts.iter().map(|(_, attempt)| attempt)
    }

    /// Attempts that still hold something, by job.
    pub fn active_attempts(&self) -> impl Iterator<Item = &Arc<Attempt>> {
        self.indexes
            .open_attempts()
            .filter_map(|key| self.attempts.get(key))
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().map(|(_, node)| node)
    }

    /// A spec by its hash.
    pub fn spec(&self, hash: &[u8; 32]) -> Option<&Arc<Spec>> {
        self.specs.get(hash)
    }

    /// What a job asks of the inventory.
    pub fn request(&self, job: &Job) -> Option<&Arc<Request>> {
        self.indexes.request(&job.spec_hash)
    }

    /// What the scheduler has to know of a job's spec.
    pub fn spec_facts(&self, job: &Job) -> Option<&Arc<SpecFacts>> {
        self.indexes.facts(&job.spec_hash)
    }

    /// How often a job starts again by itself, if its spec says so.
    pub fn retry(&self, job: &Job) -> Option<&Arc<RetrySpec>> {
        self.indexes.retry(&job.spec_hash)
    }

    /// All teams by name.
    pub fn teams(&self) -> impl Iterator<Item = &Arc<Team>> {
        self.teams.iter().map(|(_, team)| team)
    }

    /// Pending jobs in submit order.
    pub fn pending(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.indexes.pending().filter_map(|id| self.jobs.get(&id))
    }

    /// What a plan may start, in submit order: pending jobs, and arrays that run and of which more tasks wait.
    pub fn queue(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.indexes.queue().filter_map(|id| self.jobs.get(&id))
    }

    /// Jobs that wait for something to become of this one.
    pub fn dependents(&self, id: JobId) -> impl Iterator<Item = JobId> {
        self.indexes.dependents(id)
    }

    /// When it is too late for which job that is not over, the earliest first.
    pub fn deadlines(&self) -> impl Iterator<Item = (UtcMs, JobId)> {
        self.indexes.deadlines()
    }

    /// How many jobs of a user are pending or held.
    pub fn pending_count_of(&self, user_id: &str) -> usize {
        self.indexes.pending_count_of(user_id)
    }

    /// Which attempt holds a device.
    pub fn device_holder(&self, node: &str, uuid: &str) -> Option<(JobId, Epoch)> {
        self.indexes.device_holder(node, uuid)
    }

    /// Attempts with an open allocation on a node.
    pub fn open_allocations_on(&self, node: &str) -> Vec<(JobId, Epoch)> {
        self.indexes.open_allocations_on(node)
    }

    /// What there is, whatever its state and whoever holds it.
    pub fn inventory(&self) -> &Inventory {
        self.indexes.inventory()
    }

    /// Ranks of jobs without GPUs that run on a node or were assigned to it.
    pub fn cpu_ranks_on(&self, node: &str) -> u32 {
        self.indexes.cpu_ranks_on(node)
    }
}

impl Applied {
    fn nothing(reply: Reply) -> Self {
        Self {
            reply,
            effects: Vec::new(),
            changed: Vec::new(),
            rows: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Whether the command was refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.reply {
            Reply::Rejected(refusal) => Some(refusal),
            _ => None,
        }
    }
}
