//! The thread that owns the core and the log: gathers inputs, runs one turn, does what the turn says.
//!
//! It does not apply commands nor encode snapshots; other threads do. The order of a turn is fixed: send what may
//! leave at once, one synced write for everything gathered (group commit), send what had to wait for it, hand on
//! what is committed. Anything that the disk refuses ends the process.

use super::applier::{ProposeWaiter, ReadWaiter, Task};
use super::handle::{ProposeError, ReadError, Status};
use super::log::engine::LogStore;
use super::member::{self, Identity};
use super::pulls;
use super::refusal;
use super::snapshots::SnapshotStore;
use super::start::OnFatal;
use super::turn::{
    Change, ChangeRefusal, Core, CoreStatus, Envelope, Input, Membership, Outputs, Persist,
    Refusal, SnapshotMeta, SnapshotOffer, Step, TurnError,
};
use super::{MemberId, Transport};
use bytes::Bytes;
use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Requests taken into one turn.
const MAX_GATHER: usize = 4096;
/// Commands and bytes of commands that share an entry.
const MAX_ENTRY_COMMANDS: usize = 512;
const MAX_ENTRY_BYTES: usize = 1 << 20;
/// Ticks made up for after the thread was held up; more would look like the leader's silence.
const MAX_TICKS_OWED: u32 = 5;
/// A state machine that takes nothing for this long is stuck.
const APPLY_DEADLINE: Duration = Duration::from_secs(30);
pub(super) const RETRY_AFTER_MS: u64 = 100;

pub(super) type ChangeWaiter = oneshot::Sender<Result<(), ChangeRefusal>>;

/// What a handle asks.
pub(super) enum Request<R> {
    Propose {
        command: Bytes,
        waiter: ProposeWaiter<R>,
    },
    Read(ReadWaiter),
    Change {
        change: Change,
        waiter: ChangeWaiter,
    },
    Step {
        from: MemberId,
        message: Bytes,
    },
    Unreachable(MemberId),
    TransferLeader(MemberId),
    Abstain(bool),
    /// Only wakes the thread.
    Wake,
}

/// What helper threads report.
pub(super) enum Internal {
    SnapshotTaken(SnapshotMeta),
    PullEnded {
        meta: SnapshotMeta,
        /// The offer's message, if its snapshot is on disk now.
        message: Option<Bytes>,
    },
}

/// What handles and threads share.
#[derive(Default)]
pub(super) struct Shared {
    /// What the state machine holds.
    pub(super) applied: AtomicU64,
    /// Client requests that wait in the channel.
    pub(super) queued: AtomicUsize,
    /// Bytes of their commands.
    pub(super) queued_bytes: AtomicUsize,
    /// Bytes of the Raft messages that wait in the channel.
    pub(super) step_bytes: AtomicUsize,
    /// The driver ends at its next turn.
    pub(super) stop: AtomicBool,
}

/// Reports the one reason for which the process must end.
pub(super) struct Fatal {
    on_fatal: OnFatal,
    reported: AtomicBool,
    shared: Arc<Shared>,
}

impl Fatal {
    pub(super) fn new(on_fatal: OnFatal, shared: Arc<Shared>) -> Self {
        Self {
            on_fatal,
            reported: AtomicBool::new(false),
            shared,
        }
    }

    pub(super) fn report(&self, reason: String) {
        self.shared.stop.store(true, Ordering::Release);
        if !self.reported.swap(true, Ordering::AcqRel) {
            (self.on_fatal)(reason);
        }
    }

    /// Runs a thread's body; an error or a panic is fatal.
    pub(super) fn guard(&self, thread: &str, body: impl FnOnce() -> Result<(), String>) {
        // Nothing of what the body owned is used after a panic.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => self.report(reason),
            Err(panic) => self.report(format!("the {thread} thread panicked: {}", text(&*panic))),
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let as_string = panic.downcast_ref::<String>().map(String::as_str);
    as_string
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}

/// Everything that the thread owns.
pub(super) struct Driver<R> {
    pub(super) identity: Identity,
    pub(super) dir: PathBuf,
    pub(super) core: Core,
    pub(super) log: LogStore,
    pub(super) store: Arc<SnapshotStore>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) requests: Receiver<Request<R>>,
    pub(super) tasks: SyncSender<Task<R>>,
    pub(super) internal: (SyncSender<Internal>, Receiver<Internal>),
    pub(super) status: watch::Sender<Status>,
    pub(super) shared: Arc<Shared>,
    pub(super) tick: Duration,
    pub(super) state: DriverState<R>,
}

/// What changes from turn to turn.
pub(super) struct DriverState<R> {
    next_id: u64,
    next_tick: Instant,
    waiters: BTreeMap<u64, Vec<ProposeWaiter<R>>>,
    reads: BTreeMap<u64, ReadWaiter>,
    changes: BTreeMap<u64, ChangeWaiter>,
    persisted: Option<u64>,
    more: bool,
    applied: u64,
    leads: Option<u64>,
    pulling: bool,
    said_unsound: bool,
}

impl<R> DriverState<R> {
    pub(super) fn new(applied: u64) -> Self {
        Self {
            next_id: 1,
            next_tick: Instant::now(),
            waiters: BTreeMap::new(),
            reads: BTreeMap::new(),
            changes: BTreeMap::new(),
            persisted: None,
            more: false,
            applied,
            leads: None,
            pulling: false,
            said_unsound: false,
        }
    }
}

impl<R: Send + 'static> Driver<R> {
    /// Ends when told to, or when nobody holds a handle any more.
    pub(super) fn run(mut self) -> Result<(), String> {
        self.state.next_tick = Instant::now() + self.tick;
        while !self.shared.stop.load(Ordering::Acquire) {
            let Some(inputs) = self.gather() else {
                break;
            };
            match self.core.turn(inputs) {
                Ok(out) => self.execute(out)?,
                Err(error) => return Err(self.give_up(&error)),
            }
        }
        Ok(())
    }

    /// A turn that cannot be continued ends the process; a proven loss must not be forgotten by the next start.
    fn give_up(&self, error: &TurnError) -> String {
        if let TurnError::LogTooShort { commit, last, .. } = error {
            let reason = format!(
                "the leader proved that index {commit} was stored here, but it ends at {last}"
            );
            refusal::note(&self.dir, &reason);
        }
        error.to_string()
    }

    /// Waits for the first input unless the last turn left work, then takes what else is there. `None` at the end.
    fn gather(&mut self) -> Option<Vec<Input>> {
        let mut inputs = Vec::new();
        inputs.extend(
            self.state
                .persisted
                .take()
                .map(|number| Input::Persisted { number }),
        );
        let busy = self.state.more || !inputs.is_empty();
        let mut batch = Batch::default();
        let mut first = None;
        if !busy {
            // Nothing happens at the ticks before.
            let quiet = self.core.quiet_ticks().min(MAX_TICKS_OWED) - 1;
            let wake = self.state.next_tick + quiet * self.tick;
            let wait = wake.saturating_duration_since(Instant::now());
            match self.requests.recv_timeout(wait) {
                Ok(request) => first = Some(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        // They passed before what woke this thread: a message begins the count anew.
        self.take_ticks(&mut inputs);
        if let Some(request) = first {
            self.take(request, &mut batch, &mut inputs);
        }
        for _ in 1..MAX_GATHER {
            let Ok(request) = self.requests.try_recv() else {
                break;
            };
            self.take(request, &mut batch, &mut inputs);
        }
        self.close(&mut batch, &mut inputs);
        self.take_internal(&mut inputs);
        let applied = self.shared.applied.load(Ordering::Acquire);
        if applied > self.state.applied {
            self.state.applied = applied;
            inputs.push(Input::Applied { index: applied });
        }
        Some(inputs)
    }

    fn take(&mut self, request: Request<R>, batch: &mut Batch<R>, inputs: &mut Vec<Input>) {
        match request {
            Request::Propose { command, waiter } => {
                self.shared.queued.fetch_sub(1, Ordering::AcqRel);
                self.shared
                    .queued_bytes
                    .fetch_sub(command.len(), Ordering::AcqRel);
                let full = batch.commands.len() == MAX_ENTRY_COMMANDS
                    || batch.bytes + command.len() > MAX_ENTRY_BYTES;
                if full {
                    self.close(batch, inputs);
                }
                batch.bytes += command.len();
                batch.commands.push(command);
                batch.waiters.push(waiter);
            }
            Request::Read(waiter) => {
                self.shared.queued.fetch_sub(1, Ordering::AcqRel);
                let id = self.state.fresh_id();
                self.state.reads.insert(id, waiter);
                inputs.push(Input::ReadIndex { id });
            }
            Request::Change { change, waiter } => {
                let id = self.state.fresh_id();
                self.state.changes.insert(id, waiter);
                inputs.push(Input::ChangeMembers { id, change });
            }
            Request::Step { from, message } => {
                self.shared
                    .step_bytes
                    .fetch_sub(message.len(), Ordering::AcqRel);
                inputs.push(Input::Step { from, message });
            }
            Request::Unreachable(peer) => inputs.push(Input::Unreachable(peer)),
            Request::TransferLeader(to) => inputs.push(Input::TransferLeader(to)),
            Request::Abstain(abstains) => inputs.push(Input::Abstain(abstains)),
            Request::Wake => {}
        }
    }

    fn close(&mut self, batch: &mut Batch<R>, inputs: &mut Vec<Input>) {
        let batch = std::mem::take(batch);
        if batch.commands.is_empty() {
            return;
        }
        let id = self.state.fresh_id();
        self.state.waiters.insert(id, batch.waiters);
        let commands = batch.commands;
        inputs.push(Input::Propose { id, commands });
    }

    fn take_internal(&mut self, inputs: &mut Vec<Input>) {
        while let Ok(event) = self.internal.1.try_recv() {
            match event {
                Internal::SnapshotTaken(meta) => inputs.push(Input::SnapshotTaken(meta)),
                Internal::PullEnded { meta, message } => {
                    self.state.pulling = false;
                    if let Some(message) = message {
                        tracing::info!(index = meta.index, "the leader's snapshot is here");
                        inputs.push(Input::SnapshotReceived { message });
                    }
                }
            }
        }
    }

    fn take_ticks(&mut self, inputs: &mut Vec<Input>) {
        let now = Instant::now();
        for _ in 0..MAX_TICKS_OWED {
            if now < self.state.next_tick {
                return;
            }
            inputs.push(Input::Tick);
            self.state.next_tick += self.tick;
        }
        if now >= self.state.next_tick {
            self.state.next_tick = now + self.tick;
        }
    }

    fn execute(&mut self, out: Outputs) -> Result<(), String> {
        self.state.more = out.more;
        let (ignored, status) = (out.ignored, out.status.clone());
        let (wanted, changes) = (out.snapshot_wanted, out.changes.clone());
        for step in out.steps() {
            self.carry_out(step, status.leader)?;
        }
        if wanted {
            self.hand_on(Task::Snapshot)?;
        }
        if ignored > 0 {
            // Said once: whoever sends one sends more, and one to a member that was here before is such a message too.
            match std::mem::replace(&mut self.state.said_unsound, true) {
                false => {
                    tracing::warn!(
                        count = ignored,
                        "dropped Raft messages that are not sound, or not for this member"
                    );
                }
                true => tracing::debug!(count = ignored, "dropped more of them"),
            }
        }
        self.know(&status.members)?;
        self.report(status);
        // Whoever is told that a change is made finds it in the status.
        for (id, outcome) in changes {
            if let Some(waiter) = self.state.changes.remove(&id) {
                let _ = waiter.send(outcome);
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, step: Step, leader: Option<MemberId>) -> Result<(), String> {
        match step {
            Step::Send(envelopes) => self.send(envelopes),
            Step::Persist(persist) => self.persist(&persist)?,
            Step::Restore(meta) => self.hand_on(Task::Restore(meta))?,
            Step::Leads(leads) if leads == self.state.leads => {}
            Step::Leads(leads) => {
                self.state.leads = leads;
                self.hand_on(Task::Leader(leads))?;
            }
            Step::Apply(committed) => {
                let mut entries = Vec::with_capacity(committed.len());
                for entry in committed {
                    let waiters = entry.proposal.and_then(|id| self.state.waiters.remove(&id));
                    entries.push((entry, waiters.unwrap_or_default()));
                }
                self.hand_on(Task::Entries(entries))?;
            }
            Step::Serve(reads) => {
                for (id, index) in reads {
                    if let Some(waiter) = self.state.reads.remove(&id) {
                        self.hand_on(Task::Read { index, waiter })?;
                    }
                }
            }
            Step::Refuse { proposals, reads } => self.refuse(&proposals, &reads, leader),
            Step::Pull(offer) => self.pull(offer),
            Step::Cut(floor) => self.log.cut(floor).map_err(|error| error.to_string())?,
        }
        Ok(())
    }

    /// Keeps the members for the next start's first dials. Who was removed has nothing more to do here.
    fn know(&mut self, members: &Membership) -> Result<(), String> {
        if members.index <= self.identity.members.index {
            return Ok(());
        }
        tracing::info!(voters = ?members.voters, learners = ?members.learners, joint = members.is_joint(), index = members.index, "members");
        self.identity.members.clone_from(members);
        member::write(&self.dir, &self.identity).map_err(|error| error.to_string())?;
        let id = self.identity.id;
        if members.was_removed(id) {
            return Err(format!(
                "member {id} was removed from the cluster; start it with --rejoin, and it joins again under a new member id"
            ));
        }
        Ok(())
    }

    fn persist(&mut self, persist: &Persist) -> Result<(), String> {
        let (hard_state, entries) = (&persist.hard_state, &persist.entries);
        if let Some(meta) = &persist.install {
            let floor = (meta.index, meta.term);
            self.log
                .install(hard_state, floor)
                .map_err(|error| error.to_string())?;
            self.store.adopt(meta).map_err(|error| error.to_string())?;
        }
        if persist.install.is_none() || !entries.is_empty() {
            self.log
                .write(hard_state, entries)
                .map_err(|error| error.to_string())?;
        }
        self.state.persisted = Some(persist.number);
        Ok(())
    }

    fn send(&self, envelopes: Vec<Envelope>) {
        for envelope in envelopes {
            self.transport.send(envelope.to, envelope.message);
        }
    }

    /// Waits for a slow state machine: a follower lags meanwhile, a leader falls silent and is replaced.
    fn hand_on(&self, mut task: Task<R>) -> Result<(), String> {
        let deadline = Instant::now() + APPLY_DEADLINE;
        loop {
            task = match self.tasks.try_send(task) {
                Ok(()) => return Ok(()),
                // That thread reports why it ended; this one only has to end too.
                Err(TrySendError::Disconnected(_)) => {
                    self.shared.stop.store(true, Ordering::Release);
                    return Ok(());
                }
                Err(TrySendError::Full(task)) => task,
            };
            if Instant::now() >= deadline {
                let seconds = APPLY_DEADLINE.as_secs();
                return Err(format!("the state machine took nothing for {seconds} s"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn refuse(
        &mut self,
        proposals: &[(u64, Refusal)],
        reads: &[(u64, Refusal)],
        leader: Option<MemberId>,
    ) {
        for (id, refusal) in proposals {
            for waiter in self.state.waiters.remove(id).into_iter().flatten() {
                let _ = waiter.send(Err(propose_error(*refusal, leader)));
            }
        }
        for (id, refusal) in reads {
            if let Some(waiter) = self.state.reads.remove(id) {
                let _ = waiter.send(Err(read_error(*refusal, leader)));
            }
        }
    }

    fn pull(&mut self, offer: SnapshotOffer) {
        // The leader repeats its offer, so one at a time is enough.
        if self.state.pulling {
            return;
        }
        self.state.pulling = pulls::pull(
            offer,
            Arc::clone(&self.transport),
            Arc::clone(&self.store),
            self.internal.0.clone(),
        );
    }

    fn report(&self, core: CoreStatus) {
        let status = Status {
            id: self.identity.id,
            role: core.role,
            leader: core.leader,
            term: core.term,
            commit: core.commit,
            applied: self.state.applied,
            members: core.members,
        };
        self.status.send_if_modified(|old| {
            let (role, term) = (old.role, old.term);
            if (role, term) != (status.role, status.term) {
                tracing::info!(role = ?status.role, term = status.term, leader = status.leader, "role");
            }
            // Progress is there for whoever looks; to wake somebody for each entry would cost more than the entry.
            let news = (role, term, old.leader, old.members.index)
                != (status.role, status.term, status.leader, status.members.index);
            *old = status;
            news
        });
    }
}

impl<R> DriverState<R> {
    fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

/// Commands that will share an entry.
struct Batch<R> {
    commands: Vec<Bytes>,
    waiters: Vec<ProposeWaiter<R>>,
    bytes: usize,
}

impl<R> Default for Batch<R> {
    fn default() -> Self {
        Self {
            commands: Vec::new(),
            waiters: Vec::new(),
            bytes: 0,
        }
    }
}

fn propose_error(refusal: Refusal, leader: Option<MemberId>) -> ProposeError {
    match refusal {
        Refusal::NotLeader => ProposeError::NotLeader { leader },
        Refusal::Overloaded => ProposeError::Overloaded {
            retry_after_ms: RETRY_AFTER_MS,
        },
        Refusal::Lost | Refusal::TimedOut => ProposeError::Unknown,
    }
}

fn read_error(refusal: Refusal, leader: Option<MemberId>) -> ReadError {
    match refusal {
        Refusal::NotLeader | Refusal::Lost => ReadError::NotLeader { leader },
        Refusal::Overloaded => ReadError::Overloaded {
            retry_after_ms: RETRY_AFTER_MS,
        },
        Refusal::TimedOut => ReadError::TimedOut,
    }
}
