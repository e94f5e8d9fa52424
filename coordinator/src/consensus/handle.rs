//! What the rest of the process holds of consensus: propose, read, step, watch the status, stop.
//!
//! It does not retry and does not forward to the leader: both are the caller's, who knows whether a command is
//! idempotent and how to reach another member.

use super::applier::{Applier, Task};
use super::driver::{Driver, DriverState, Fatal, RETRY_AFTER_MS, Request, Shared};
use super::log::engine::LogStore;
use super::log::{LogError, recover};
use super::member::{self, MemberFileError};
use super::snapshots::{SnapshotError, SnapshotStore};
use super::turn::{Core, CoreConfig, Recovered, Role, TurnError};
use super::{Apply, MemberId, Transport, pulls};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A longer command is refused. With its framing it stays far below the limit of a Raft message.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;

/// Requests of all kinds in the driver's channel; clients may fill half, so Raft messages always find room.
const CHANNEL: usize = 16_384;
const MAX_QUEUED: usize = CHANNEL / 2;
const MAX_QUEUED_BYTES: usize = 64 << 20;
const MAX_TASKS: usize = 256;
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
const READ_DEADLINE: Duration = Duration::from_secs(10);
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Called once, from the thread that cannot go on, with the reason. In production it must end the process.
pub type OnFatal = Box<dyn Fn(String) + Send + Sync>;

/// An [`OnFatal`] that logs the reason and aborts: a member that lost its disk must not live on and answer.
pub fn abort_process() -> OnFatal {
    Box::new(|reason| {
        tracing::error!(%reason, "consensus cannot continue; the process ends");
        std::process::abort();
    })
}

/// How a member is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// The member's own directory.
    pub dir: PathBuf,
    /// This member.
    pub id: MemberId,
    /// All voters, this one among them.
    pub voters: Vec<MemberId>,
    /// Allow an empty directory: only for a cluster that is being created.
    pub bootstrap: bool,
    /// The length of one tick.
    pub tick: Duration,
    /// Fewest ticks without a leader before an election; the most are twice as many.
    pub election_tick: usize,
    /// Ticks between heartbeats.
    pub heartbeat_tick: usize,
    /// Spreads election timeouts; any number.
    pub seed: u64,
    /// Applied entries between snapshots.
    pub snapshot_every: u64,
}

impl Config {
    /// The defaults: ticks of 10 ms, heartbeats each 50 ms, elections after 300 to 600 ms, a snapshot each 10,000
    /// entries, no bootstrap.
    pub fn new(dir: impl Into<PathBuf>, id: MemberId, voters: Vec<MemberId>) -> Self {
        let core = CoreConfig::new(id, Vec::new(), id);
        Self {
            dir: dir.into(),
            id,
            voters,
            bootstrap: false,
            tick: Duration::from_millis(10),
            election_tick: core.election_tick,
            heartbeat_tick: core.heartbeat_tick,
            seed: core.seed,
            snapshot_every: 10_000,
        }
    }
}

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("the consensus configuration is wrong: {0}")]
    Config(String),
    /// Nothing is in the directory and no cluster is being created.
    #[error(
        "{} is empty: a member whose disk was wiped must not vote again under its old id, because it forgot its votes; join it under a new member id (or bootstrap, if the cluster is only now being created)",
        dir.display()
    )]
    Empty {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory's identity does not fit.
    #[error(transparent)]
    Member(#[from] MemberFileError),
    /// The log does not open, or is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshots do not open.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The state machine cannot take its snapshot.
    #[error("the snapshot of index {index} cannot be restored: {reason}")]
    Restore {
        /// The snapshot's index.
        index: u64,
        /// The state machine's reason.
        reason: String,
    },
    /// raft does not take what was recovered.
    #[error(transparent)]
    Core(#[from] TurnError),
    /// No thread to be had.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A command is committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed<R> {
    /// The entry's index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
    /// The state machine's reply.
    pub reply: R,
}

/// Why a command has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened.
    #[error("this coordinator does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<MemberId>,
    },
    /// Nothing happened.
    #[error("too many commands are waiting; try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// It may or may not be committed: try again with the same idempotency key.
    #[error(
        "leadership changed or time ran out while the command was under way; it may or may not be committed"
    )]
    Unknown,
    /// Nothing happened.
    #[error("a command of {size} bytes is over the limit of {MAX_COMMAND_BYTES}")]
    TooLarge {
        /// The command's size.
        size: usize,
    },
    /// This member stopped; the command may or may not be committed.
    #[error("this coordinator's consensus has stopped")]
    Stopped,
}

/// Why a read has no index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This member does not lead.
    #[error("this coordinator does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<MemberId>,
    },
    /// No majority answered in time.
    #[error("no majority confirmed the read in time")]
    TimedOut,
    /// Too much is waiting.
    #[error("too many requests are waiting; try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// This member stopped.
    #[error("this coordinator's consensus has stopped")]
    Stopped,
}

/// Where this member stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: MemberId,
    /// Its role.
    pub role: Role,
    /// The leader that it knows.
    pub leader: Option<MemberId>,
    /// Its term.
    pub term: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What its state machine holds; may lag by a tick.
    pub applied: u64,
    /// Who votes.
    pub voters: Vec<MemberId>,
}

/// A running member. Clones share it; the threads end with [`Handle::shutdown`] or with the last clone.
pub struct Handle<R> {
    requests: SyncSender<Request<R>>,
    status: watch::Receiver<Status>,
    shared: Arc<Shared>,
    store: Arc<SnapshotStore>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    incarnation: u64,
}

impl<R> Clone for Handle<R> {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            status: self.status.clone(),
            shared: Arc::clone(&self.shared),
            store: Arc::clone(&self.store),
            threads: Arc::clone(&self.threads),
            incarnation: self.incarnation,
        }
    }
}

impl<R: Send + 'static> Handle<R> {
    /// Replicates a command; returns when it is committed and applied here.
    ///
    /// # Errors
    /// See [`ProposeError`]: only `Unknown` and `Stopped` leave open whether it happened.
    pub async fn propose(&self, command: Bytes) -> Result<Committed<R>, ProposeError> {
        let size = command.len();
        if size > MAX_COMMAND_BYTES {
            return Err(ProposeError::TooLarge { size });
        }
        if let Some(leader) = self.other_leader() {
            return Err(ProposeError::NotLeader { leader });
        }
        let (waiter, answer) = oneshot::channel();
        match self.enqueue(size, Request::Propose { command, waiter }) {
            Enqueued::Yes => {}
            Enqueued::Full => {
                return Err(ProposeError::Overloaded {
                    retry_after_ms: RETRY_AFTER_MS,
                });
            }
            Enqueued::Stopped => return Err(ProposeError::Stopped),
        }
        match tokio::time::timeout(PROPOSE_DEADLINE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// An index at least as new as everything acknowledged before the call, already applied here: what is read from
    /// the state machine now is linearizable.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        if let Some(leader) = self.other_leader() {
            return Err(ReadError::NotLeader { leader });
        }
        let (waiter, answer) = oneshot::channel();
        match self.enqueue(0, Request::Read(waiter)) {
            Enqueued::Yes => {}
            Enqueued::Full => {
                return Err(ReadError::Overloaded {
                    retry_after_ms: RETRY_AFTER_MS,
                });
            }
            Enqueued::Stopped => return Err(ReadError::Stopped),
        }
        match tokio::time::timeout(READ_DEADLINE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::TimedOut),
        }
    }

    /// Hands over bytes that the authenticated member `from` sent. Never blocks; false if they were dropped.
    pub fn step(&self, from: MemberId, message: Bytes) -> bool {
        if message.len() > super::turn::MAX_MESSAGE_BYTES {
            return false;
        }
        self.requests
            .try_send(Request::Step { from, message })
            .is_ok()
    }

    /// Tells the leader's side that a peer could not be reached. Never blocks.
    pub fn unreachable(&self, peer: MemberId) {
        self.nudge(Request::Unreachable(peer));
    }

    /// Asks for the leadership to move to `to`; nothing happens if this member does not lead.
    pub fn transfer_leader(&self, to: MemberId) {
        self.nudge(Request::TransferLeader(to));
    }

    /// Role, leader, term and progress, as they change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The cluster's incarnation as stored with the log.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The snapshot file that was announced to a follower, for the transport's server side. Blocks on the disk.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`] if a newer one replaced it; the follower will be offered that.
    pub fn read_snapshot(&self, index: u64, digest: [u8; 32]) -> Result<Vec<u8>, SnapshotError> {
        self.store.file(index, &digest)
    }

    /// Ends the threads and waits until the log is closed. Commands under way get `Stopped`.
    pub async fn shutdown(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.nudge(Request::Wake);
        let threads = {
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *threads)
        };
        let join = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic was already reported as fatal.
                let _ = thread.join();
            }
        });
        if tokio::time::timeout(STOP_DEADLINE, join).await.is_err() {
            tracing::warn!("consensus did not stop in time");
        }
    }

    /// Best effort: if the channel is full, the driver is awake and raft finds out by itself.
    fn nudge(&self, request: Request<R>) {
        if self.requests.try_send(request).is_err() {
            tracing::debug!("the consensus queue is full or closed");
        }
    }

    /// `Some(leader)` if this member is known not to lead.
    fn other_leader(&self) -> Option<Option<MemberId>> {
        let status = self.status.borrow();
        (status.role != Role::Leader).then_some(status.leader)
    }

    fn enqueue(&self, bytes: usize, request: Request<R>) -> Enqueued {
        let shared = &self.shared;
        let count = shared.queued.fetch_add(1, Ordering::AcqRel);
        let queued = shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let outcome = if count >= MAX_QUEUED || queued + bytes > MAX_QUEUED_BYTES {
            Enqueued::Full
        } else {
            match self.requests.try_send(request) {
                Ok(()) => return Enqueued::Yes,
                Err(mpsc::TrySendError::Full(_)) => Enqueued::Full,
                Err(mpsc::TrySendError::Disconnected(_)) => Enqueued::Stopped,
            }
        };
        shared.queued.fetch_sub(1, Ordering::AcqRel);
        shared.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        outcome
    }
}

enum Enqueued {
    Yes,
    Full,
    Stopped,
}

/// Opens or creates a member's directory, restores the state machine and starts the threads.
///
/// # Errors
/// See [`StartError`]. A member that finds its log damaged does not start.
pub fn start<A: Apply>(
    config: Config,
    mut machine: A,
    transport: Arc<dyn Transport>,
    on_fatal: OnFatal,
) -> Result<Handle<A::Reply>, StartError> {
    let mut config = config;
    config.voters.sort_unstable();
    config.voters.dedup();
    check(&config)?;
    let (log, store) = open(&config)?;
    let recovered = recover::judge(log.dir(), log.mark(), log.entries()?, &store.verified())?;
    let (recovered, applied) = restore(&mut machine, &store, recovered, log.dir())?;
    let core_config = CoreConfig {
        election_tick: config.election_tick,
        heartbeat_tick: config.heartbeat_tick,
        applied: applied.0,
        read_ticks: ticks(Duration::from_secs(2), config.tick),
        snapshot_retry_ticks: ticks(Duration::from_secs(5), config.tick),
        ..CoreConfig::new(config.id, config.voters.clone(), config.seed)
    };
    let core = Core::new(core_config, recovered)?;
    launch(
        &config, machine, core, log, store, transport, on_fatal, applied,
    )
}

fn check(config: &Config) -> Result<(), StartError> {
    let wrong = |what: &str| Err(StartError::Config(what.to_owned()));
    if config.id == 0 || !config.voters.contains(&config.id) {
        return wrong("the member's id must not be 0 and must be among the voters");
    }
    if config.tick.is_zero() || config.snapshot_every == 0 {
        return wrong("the tick and the number of entries between snapshots must not be 0");
    }
    Ok(())
}

fn ticks(time: Duration, tick: Duration) -> u64 {
    u64::try_from(time.as_nanos() / tick.as_nanos().max(1)).map_or(u64::MAX, |n| n.max(1))
}

fn open(config: &Config) -> Result<(LogStore, Arc<SnapshotStore>), StartError> {
    let dir = &config.dir;
    let known = member::check(dir, config.id, &config.voters)?;
    if !known && !config.bootstrap {
        return Err(StartError::Empty { dir: dir.clone() });
    }
    let log_dir = dir.join("log");
    let lost = |found: &str| LogError::Damaged {
        dir: log_dir.clone(),
        found: found.to_owned(),
    };
    if known && !log_dir.exists() {
        return Err(lost("it is gone, but this member has voted before").into());
    }
    let mut log = LogStore::open(&log_dir)?;
    let store = SnapshotStore::open(&dir.join("snapshots"), log.mark().floor.0)?;
    if known && log.is_fresh() {
        return Err(lost("it is empty, but this member has voted before").into());
    }
    if !known {
        let used = log.mark().term > 0 || !store.verified().is_empty();
        if used || (!log.is_fresh() && !log.entries()?.is_empty()) {
            return Err(lost("it is in use, but member.json beside it is missing").into());
        }
        if log.is_fresh() {
            log.initialize()?;
        }
        sync(dir)?;
        member::write(dir, config.id, &config.voters)?;
    }
    Ok((log, Arc::new(store)))
}

fn sync(dir: &Path) -> Result<(), LogError> {
    super::log::sync_directory(dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => super::log::sync_directory(parent),
        _ => Ok(()),
    }
}

/// Loads the newest snapshot into the state machine unless it already holds more. Returns its (index, term).
fn restore<A: Apply>(
    machine: &mut A,
    store: &SnapshotStore,
    mut recovered: Recovered,
    log_dir: &Path,
) -> Result<(Recovered, (u64, u64)), StartError> {
    if let Some(meta) = &recovered.snapshot
        && meta.index > machine.applied()
    {
        let payload = store.payload(meta)?;
        machine
            .restore(meta.index, &payload)
            .map_err(|reason| StartError::Restore {
                index: meta.index,
                reason,
            })?;
    }
    let applied = machine.applied();
    let floor = recovered.floor;
    let term = if applied == floor.0 {
        Some(floor.1)
    } else {
        let position = applied.checked_sub(floor.0 + 1);
        position
            .and_then(|position| recovered.entries.get(position as usize))
            .map(|entry| entry.term)
    };
    let Some(term) = term else {
        return Err(LogError::Damaged {
            dir: log_dir.to_path_buf(),
            found: format!("the state machine holds index {applied}, which the log does not cover"),
        }
        .into());
    };
    // What was applied was committed, whatever the stored lower bound says.
    recovered.hard_state.commit = recovered.hard_state.commit.max(applied);
    Ok((recovered, (applied, term)))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a member, each moved to the thread that owns it"
)]
fn launch<A: Apply>(
    config: &Config,
    machine: A,
    core: Core,
    log: LogStore,
    store: Arc<SnapshotStore>,
    transport: Arc<dyn Transport>,
    on_fatal: OnFatal,
    applied: (u64, u64),
) -> Result<Handle<A::Reply>, StartError> {
    let shared = Arc::new(Shared::default());
    shared.applied.store(applied.0, Ordering::Release);
    let fatal = Arc::new(Fatal::new(on_fatal, Arc::clone(&shared)));
    let (requests, received) = mpsc::sync_channel(CHANNEL);
    let (tasks, taken) = mpsc::sync_channel::<Task<A::Reply>>(MAX_TASKS);
    let (jobs, job_queue) = mpsc::sync_channel(1);
    let internal = mpsc::sync_channel(16);
    let voters = core.status().voters;
    let (status_sender, status) = watch::channel(Status {
        id: config.id,
        voters: voters.clone(),
        applied: applied.0,
        ..Status::default()
    });
    let applier = Applier::new(
        machine,
        Arc::clone(&store),
        Arc::clone(&shared),
        jobs,
        config.snapshot_every,
        voters,
        applied,
    );
    let incarnation = log.mark().incarnation;
    let reports = internal.0.clone();
    let driver = Driver {
        id: config.id,
        core,
        log,
        store: Arc::clone(&store),
        transport,
        requests: received,
        tasks,
        internal,
        status: status_sender,
        shared: Arc::clone(&shared),
        tick: config.tick,
        state: DriverState::new(applied.0),
    };
    let snapshot_store = Arc::clone(&store);
    let threads = vec![
        spawn("raft", &fatal, move || driver.run())?,
        spawn("apply", &fatal, move || applier.run(taken))?,
        spawn("snapshot", &fatal, move || {
            pulls::write_snapshots(&job_queue, &snapshot_store, &reports)
        })?,
    ];
    Ok(Handle {
        requests,
        status,
        shared,
        store,
        threads: Arc::new(Mutex::new(threads)),
        incarnation,
    })
}

fn spawn(
    name: &'static str,
    fatal: &Arc<Fatal>,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let fatal = Arc::clone(fatal);
    thread::Builder::new()
        .name(name.into())
        .spawn(move || fatal.guard(name, body))
        .map_err(StartError::Thread)
}
