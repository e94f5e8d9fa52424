//! Starting a member: its directory, what the disk holds, the state machine, the threads.
//!
//! It decides whether a member may start at all: not with an empty directory, not under another id, not with a log
//! that lost something. It does not repair anything.

use super::applier::{Applier, Task};
use super::driver::{Driver, DriverState, Fatal, Shared};
use super::handle::{CHANNEL, Handle, Status};
use super::log::engine::LogStore;
use super::log::{LogError, recover};
use super::member::{self, Identity, MemberFileError};
use super::snapshots::{SnapshotError, SnapshotStore};
use super::turn::{Core, CoreConfig, Membership, Recovered, TurnError};
use super::{Apply, MemberId, Transport, pulls, refusal};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::watch;

/// Tasks that wait for the state machine.
const MAX_TASKS: usize = 256;

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
    /// The member's own directory. Who is in it stands in it.
    pub dir: PathBuf,
    /// What to do with a directory in which no member has begun yet. One in which a member has begun is resumed.
    pub begin: Begin,
    /// The length of one tick.
    pub tick: Duration,
    /// Fewest ticks without a leader before an election; the most are twice as many.
    pub election_tick: usize,
    /// Ticks between heartbeats.
    pub heartbeat_tick: usize,
    /// Spreads election timeouts, together with the member's id; any number.
    pub seed: u64,
    /// Applied entries between snapshots.
    pub snapshot_every: u64,
}

/// How a member begins.
#[derive(Clone, Debug)]
pub enum Begin {
    /// Not at all: an empty directory is refused.
    Resume,
    /// As a founder of a cluster that is only now being created.
    Found {
        /// This member; among `members`.
        id: MemberId,
        /// The voters of the new cluster.
        members: Membership,
    },
    /// As a learner that the cluster has let in, in a directory that [`member::begin_join`] prepared.
    Join {
        /// The members before the first entry of the cluster's log.
        founders: Membership,
        /// The members of now, as the leader named them.
        members: Membership,
        /// The cluster's incarnation.
        incarnation: u64,
    },
}

impl Config {
    /// The defaults: ticks of 20 ms, heartbeats each 100 ms, elections after 240 to 460 ms, a snapshot each 10,000
    /// entries.
    pub fn new(dir: impl Into<PathBuf>, begin: Begin) -> Self {
        let core = CoreConfig::new(1, Vec::new(), 1);
        Self {
            dir: dir.into(),
            begin,
            tick: Duration::from_millis(20),
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
        "{} is empty: a member whose disk was wiped must not vote again under its old id, because it forgot its votes; start it with --rejoin, and it joins again under a new member id (or with --bootstrap, if the cluster is only now being created)",
        dir.display()
    )]
    Empty {
        /// The data directory.
        dir: PathBuf,
    },
    /// The cluster goes on without it.
    #[error(
        "{} belongs to member {id}, which was removed from the cluster, so its votes would not count; start it with --rejoin, and it joins again under a new member id",
        dir.display()
    )]
    Removed {
        /// The data directory.
        dir: PathBuf,
        /// Who was removed.
        id: MemberId,
    },
    /// The directory's identity cannot be read.
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

impl StartError {
    /// Whether this directory can never vote again as it is, so that only a new member id helps. What the operating
    /// system refuses may pass, and is no reason to give a directory up.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Empty { .. } | Self::Removed { .. } | Self::Restore { .. } => true,
            Self::Member(error) => matches!(error, MemberFileError::Unreadable { .. }),
            Self::Log(error) => !matches!(error, LogError::Io { .. }),
            Self::Snapshot(error) => !matches!(error, SnapshotError::Io { .. }),
            Self::Core(error) => !matches!(error, TurnError::Undecodable { .. }),
            Self::Config(_) | Self::Thread(_) => false,
        }
    }
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
    check(&config)?;
    let (log, store, identity) = open(&config)?;
    let recovered = recover::judge(log.dir(), log.mark(), log.entries()?, &store.verified())?;
    let (recovered, applied) = restore(&mut machine, &store, recovered, log.dir())?;
    let core_config = CoreConfig {
        founders: identity.founders.clone(),
        election_tick: config.election_tick,
        heartbeat_tick: config.heartbeat_tick,
        applied: applied.0,
        read_ticks: ticks(Duration::from_secs(2), config.tick),
        snapshot_retry_ticks: ticks(Duration::from_secs(5), config.tick),
        ..CoreConfig::new(identity.id, Vec::new(), config.seed)
    };
    let core = Core::new(core_config, recovered)?;
    if core.status().members.was_removed(identity.id) {
        return Err(StartError::Removed {
            dir: config.dir,
            id: identity.id,
        });
    }
    launch(
        &config, identity, machine, core, log, store, transport, on_fatal, applied,
    )
}

fn check(config: &Config) -> Result<(), StartError> {
    let wrong = |what: &str| Err(StartError::Config(what.to_owned()));
    if let Begin::Found { id, members } = &config.begin {
        if *id == 0 || !members.votes(*id) {
            return wrong("a founder's id must not be 0 and must be among the voters");
        }
        if let Err(why) = members.check() {
            return wrong(why);
        }
    }
    if config.tick.is_zero() || config.snapshot_every == 0 {
        return wrong("the tick and the number of entries between snapshots must not be 0");
    }
    Ok(())
}

fn ticks(time: Duration, tick: Duration) -> u64 {
    u64::try_from(time.as_nanos() / tick.as_nanos().max(1)).map_or(u64::MAX, |n| n.max(1))
}

/// Who is to begin in this directory, if nobody has; with the incarnation to begin in.
fn beginner(config: &Config, found: Option<&Identity>) -> Result<(Identity, u64), StartError> {
    match (&config.begin, found) {
        (Begin::Found { id, members }, None) => {
            let identity = Identity {
                id: *id,
                info: members.info.get(id).cloned().unwrap_or_default(),
                joining: false,
                founders: members.clone(),
                members: members.clone(),
            };
            Ok((identity, 1))
        }
        (
            Begin::Join {
                founders,
                members,
                incarnation,
            },
            Some(found),
        ) => {
            let identity = Identity {
                joining: false,
                founders: founders.clone(),
                members: members.clone(),
                ..found.clone()
            };
            let checked = founders.check().and(members.check());
            checked.map_err(|why| StartError::Config(why.to_owned()))?;
            Ok((identity, *incarnation))
        }
        _ => Err(StartError::Empty {
            dir: config.dir.clone(),
        }),
    }
}

fn open(config: &Config) -> Result<(LogStore, Arc<SnapshotStore>, Identity), StartError> {
    let dir = &config.dir;
    let found = member::identity(dir)?;
    let log_dir = dir.join("log");
    let lost = |found: &str| LogError::Damaged {
        dir: log_dir.clone(),
        found: found.to_owned(),
    };
    if let Some(reason) = refusal::read(dir) {
        return Err(lost(&reason).into());
    }
    let resumed = found.as_ref().filter(|identity| !identity.joining).cloned();
    let beginner = match &resumed {
        Some(_) if !log_dir.exists() => {
            return Err(lost("it is gone, but this member has voted before").into());
        }
        Some(_) => None,
        None => Some(beginner(config, found.as_ref())?),
    };
    let mut log = LogStore::open(&log_dir)?;
    let store = SnapshotStore::open(&dir.join("snapshots"), log.mark().floor.0)?;
    if resumed.is_some() && log.is_fresh() {
        return Err(lost("it is empty, but this member has voted before").into());
    }
    let Some((identity, incarnation)) = beginner else {
        let identity = resumed.ok_or_else(|| StartError::Empty { dir: dir.clone() })?;
        return Ok((log, Arc::new(store), identity));
    };
    let used = log.mark().term > 0 || !store.verified().is_empty();
    if used || (!log.is_fresh() && !log.entries()?.is_empty()) {
        return Err(lost("it is in use, but member.json beside it is missing").into());
    }
    if log.is_fresh() {
        log.initialize(incarnation)?;
    }
    sync(dir)?;
    member::write(dir, &identity)?;
    Ok((log, Arc::new(store), identity))
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
    identity: Identity,
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
    let members = core.status().members;
    let (status_sender, status) = watch::channel(Status {
        id: identity.id,
        members: Arc::clone(&members),
        applied: applied.0,
        ..Status::default()
    });
    let applier = Applier::new(
        machine,
        Arc::clone(&store),
        Arc::clone(&shared),
        jobs,
        config.snapshot_every,
        members,
        applied,
    );
    let incarnation = log.mark().incarnation;
    let reports = internal.0.clone();
    let founders = Arc::new(identity.founders.clone());
    let driver = Driver {
        identity,
        dir: config.dir.clone(),
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
        founders,
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
