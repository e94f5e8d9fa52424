//! The thread that owns the state machine: applies committed entries in order, publishes, then answers.
//!
//! It does not decide what is committed. An answer to a client leaves only after the state that it speaks of was
//! published, so whoever got one can read what it wrote.

use super::Apply;
use super::driver::Shared;
use super::handle::{Committed, ProposeError, ReadError};
use super::pulls::SnapshotJob;
use super::snapshots::SnapshotStore;
use super::turn::{CommittedEntry, Membership, SnapshotMeta};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError};
use tokio::sync::oneshot;

/// Log bytes after which a snapshot is taken whatever their number of entries.
const SNAPSHOT_BYTES: u64 = 64 << 20;
/// Tasks applied before the state is published.
const MAX_GROUP: usize = 64;

pub(super) type ProposeWaiter<R> = oneshot::Sender<Result<Committed<R>, ProposeError>>;
pub(super) type ReadWaiter = oneshot::Sender<Result<u64, ReadError>>;

/// What the driver asks of the state machine, in order.
pub(super) enum Task<R> {
    /// Apply entries; each with who waits for its replies, one waiter per command or none at all.
    Entries(Vec<(CommittedEntry, Vec<ProposeWaiter<R>>)>),
    /// Replace the state by an installed snapshot.
    Restore(SnapshotMeta),
    /// Answer when `index` is applied.
    Read { index: u64, waiter: ReadWaiter },
    /// This member leads the term, or none.
    Leader(Option<u64>),
    /// Take a snapshot that knows the members of now.
    Snapshot,
}

type Answer<R> = (ProposeWaiter<R>, Committed<R>);

pub(super) struct Applier<A: Apply> {
    machine: A,
    store: Arc<SnapshotStore>,
    shared: Arc<Shared>,
    jobs: SyncSender<SnapshotJob>,
    snapshot_every: u64,
    /// As of `last`.
    members: Arc<Membership>,
    /// (index, term) of the last entry or snapshot that the machine holds.
    last: (u64, u64),
    leads: Option<u64>,
    reads: BTreeMap<u64, Vec<ReadWaiter>>,
    entries_since: u64,
    bytes_since: u64,
    wanted: bool,
}

impl<A: Apply> Applier<A> {
    pub(super) fn new(
        machine: A,
        store: Arc<SnapshotStore>,
        shared: Arc<Shared>,
        jobs: SyncSender<SnapshotJob>,
        snapshot_every: u64,
        members: Arc<Membership>,
        last: (u64, u64),
    ) -> Self {
        Self {
            machine,
            store,
            shared,
            jobs,
            snapshot_every,
            members,
            last,
            leads: None,
            reads: BTreeMap::new(),
            entries_since: 0,
            bytes_since: 0,
            wanted: false,
        }
    }

    /// Ends when the driver does. An error is for the process to end with.
    pub(super) fn run(mut self, tasks: Receiver<Task<A::Reply>>) -> Result<(), String> {
        // What the start restored is there to be read before anything is committed.
        self.publish(Vec::new());
        while let Ok(first) = tasks.recv() {
            let mut answers = Vec::new();
            self.take(first, &mut answers)?;
            for _ in 1..MAX_GROUP {
                match tasks.try_recv() {
                    Ok(task) => self.take(task, &mut answers)?,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            self.publish(answers);
            self.snapshot_if_due()?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        task: Task<A::Reply>,
        answers: &mut Vec<Answer<A::Reply>>,
    ) -> Result<(), String> {
        match task {
            Task::Entries(entries) => {
                for (entry, waiters) in entries {
                    self.apply(entry, waiters, answers)?;
                }
            }
            Task::Restore(meta) => self.restore(&meta)?,
            Task::Read { index, waiter } => self.reads.entry(index).or_default().push(waiter),
            Task::Leader(term) => self.leads = term,
            Task::Snapshot => self.wanted = true,
        }
        Ok(())
    }

    fn apply(
        &mut self,
        entry: CommittedEntry,
        waiters: Vec<ProposeWaiter<A::Reply>>,
        answers: &mut Vec<Answer<A::Reply>>,
    ) -> Result<(), String> {
        let CommittedEntry { index, term, .. } = entry;
        if index != self.last.0 + 1 {
            let last = self.last.0;
            return Err(format!(
                "entry {index} was committed after entry {last}: consensus handed out a hole"
            ));
        }
        let replies = self.machine.apply(index, &entry.commands);
        if replies.len() != entry.commands.len() {
            let (given, wanted) = (replies.len(), entry.commands.len());
            return Err(format!(
                "the state machine gave {given} replies to the {wanted} commands of entry {index}"
            ));
        }
        self.last = (index, term);
        if let Some(members) = entry.members {
            self.members = members;
        }
        self.entries_since += 1;
        self.bytes_since += entry.size as u64;
        for (waiter, reply) in waiters.into_iter().zip(replies) {
            answers.push((waiter, Committed { index, term, reply }));
        }
        Ok(())
    }

    fn restore(&mut self, meta: &SnapshotMeta) -> Result<(), String> {
        let payload = self
            .store
            .payload(meta)
            .map_err(|error| error.to_string())?;
        self.machine
            .restore(meta.index, &payload)
            .map_err(|reason| {
                let index = meta.index;
                format!("the leader's snapshot of index {index} cannot be restored: {reason}")
            })?;
        self.last = (meta.index, meta.term);
        self.members = Arc::new(meta.members.clone());
        (self.entries_since, self.bytes_since) = (0, 0);
        Ok(())
    }

    fn publish(&mut self, answers: Vec<Answer<A::Reply>>) {
        // A leader whose first entry is not applied yet does not know what its predecessors committed.
        let leader_term = self.leads.filter(|term| *term == self.last.1);
        self.machine.published(self.last.0, leader_term);
        self.shared.applied.store(self.last.0, Ordering::Release);
        // Whoever dropped its end gave up waiting.
        for (waiter, committed) in answers {
            let _ = waiter.send(Ok(committed));
        }
        let later = self.reads.split_off(&(self.last.0 + 1));
        for waiter in std::mem::replace(&mut self.reads, later)
            .into_values()
            .flatten()
        {
            let _ = waiter.send(Ok(self.last.0));
        }
    }

    fn snapshot_if_due(&mut self) -> Result<(), String> {
        let due = self.entries_since >= self.snapshot_every
            || self.bytes_since >= SNAPSHOT_BYTES
            || (self.wanted && self.entries_since > 0);
        if !due {
            return Ok(());
        }
        let job = SnapshotJob {
            meta: SnapshotMeta {
                index: self.last.0,
                term: self.last.1,
                members: Membership::clone(&self.members),
                digest: [0; 32],
            },
            encode: self.machine.snapshot(),
        };
        match self.jobs.try_send(job) {
            Ok(()) => {
                (self.entries_since, self.bytes_since) = (0, 0);
                self.wanted = false;
            }
            // The one before is still being written; the next group asks again.
            Err(TrySendError::Full(_)) => {}
            // It reports why it ended.
            Err(TrySendError::Disconnected(_)) => {}
        }
        Ok(())
    }
}
