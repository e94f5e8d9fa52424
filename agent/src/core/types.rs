//! The words between the core and its driver: events in, actions out, records for the journal.
//! Plain data; does NOT know the wire (see `link/convert.rs`) and does NOT decide anything.

use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{
    AgentEvent, CheckpointSealed, DirtyDevice, EndKind, OomKill, RankExited,
};
use mlctl_proto::units::Oom;

use super::parts::{CheckpointFound, PartKey, Restore};
use super::record::Record;
use crate::tasks::{TaskEnds, Wave};

use crate::witness::packet::ProbePort;

/// Milliseconds on CLOCK_BOOTTIME.
pub type BoottimeMs = u64;

/// One node of a gang.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Its name.
    pub node: String,
    /// Where its ranks are reached.
    pub rank_address: String,
    /// UUIDs of the devices it gives.
    pub devices: Vec<String>,
}

/// A committed start: this node's part of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The job.
    pub job: JobId,
    /// The attempt's epoch.
    pub epoch: Epoch,
    /// For people.
    pub job_name: String,
    /// The owner's server-made id.
    pub owner_id: String,
    /// The owner's name, for people.
    pub owner_name: String,
    /// Canonical JSON of the job spec.
    pub spec: Vec<u8>,
    /// Blob id of the code's manifest; empty: no code.
    pub code_manifest: String,
    /// Every node of the gang in node-rank order.
    pub members: Vec<Member>,
    /// This node's place in `members`.
    pub node_rank: u32,
    /// Name of the checkpoint to resume from; empty: none.
    pub resume_from: String,
    /// W3C trace context of the submit; empty: none.
    pub traceparent: String,
    /// Advice for the node's user map.
    pub submitter_uid: u32,
    /// Whether the cluster lets jobs run as root.
    pub allow_root: bool,
    /// No other node takes part and nothing has to be superseded: ranks start once they can, without a word to go.
    pub alone: bool,
    /// The tasks to run here, if the job is an array.
    pub wave: Option<Wave>,
    /// Its keeper ends the ranks when no leader confirms this node any more; `None`: it does not.
    pub fence: Option<Fence>,
    /// The job whose checkpoint `resume_from` names, if it is not its own.
    pub resume_job: Option<JobId>,
    /// What that checkpoint is made of; `None`: only its directory on this node, if there is one.
    pub restore: Option<Restore>,
}

/// When a keeper ends its ranks by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// After the last confirmed heartbeat was sent, milliseconds.
    pub after_ms: u32,
    /// Between TERM and KILL, milliseconds.
    pub grace_ms: u32,
}

impl Start {
    /// A start of which only the ids are known: what is re-adopted when nothing else could be read.
    pub fn bare(job: JobId, epoch: Epoch) -> Self {
        Self {
            job,
            epoch,
            job_name: String::new(),
            owner_id: String::new(),
            owner_name: String::new(),
            spec: Vec::new(),
            code_manifest: String::new(),
            members: Vec::new(),
            node_rank: 0,
            resume_from: String::new(),
            traceparent: String::new(),
            submitter_uid: 0,
            allow_root: false,
            alone: false,
            wave: None,
            fence: None,
            resume_job: None,
            restore: None,
        }
    }
}

/// Where an attempt stands on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Code is fetched, directories are made, the keeper is started.
    Preparing,
    /// The keeper waits for the gang.
    Ready,
    /// Ranks run.
    Running,
    /// Ranks are being ended.
    Stopping,
    /// Nothing is left of it here; the cluster has not acknowledged that yet.
    Ended,
}

/// One line of the full set that hello and heartbeats carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub epoch: Epoch,
    /// Where it stands.
    pub phase: Phase,
    /// The port leased on node rank 0, else 0.
    pub master_port: u16,
    /// The newest event that announces a checkpoint of it and is not acknowledged, 0: none; the highest number: one is being sealed. While
    /// there is one the cluster waits a moment before it starts the job again.
    pub moving_up_to: u64,
    /// Where its keeper answers witnesses.
    pub probe: Option<ProbePort>,
}

/// An order to end an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Why, as it will be recorded.
    pub reason: EndKind,
    /// Between TERM and KILL, milliseconds.
    pub grace_ms: u32,
    /// One sentence for people.
    pub why: String,
}

/// Where the gang meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// Host or IP of node rank 0.
    pub address: String,
    /// The port leased there.
    pub port: u16,
}

/// How a rank ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RankEnd {
    /// The global rank.
    pub rank: u32,
    /// Its exit code, when `signal` is 0.
    pub code: i32,
    /// The signal that ended it, 0 if it exited.
    pub signal: i32,
    /// We had begun to stop the gang: never a failure of its own.
    pub killed_by_us: bool,
    /// The attempt had no memory left on this node.
    pub oom: Option<Oom>,
}

impl From<RankEnd> for RankExited {
    fn from(end: RankEnd) -> Self {
        Self {
            rank: end.rank,
            code: end.code,
            signal: end.signal,
            killed_by_us: end.killed_by_us,
            oom: end.oom.map(|oom| OomKill {
                limit_bytes: oom.limit_bytes,
                peak_bytes: oom.peak_bytes,
            }),
        }
    }
}

impl From<RankExited> for RankEnd {
    fn from(exited: RankExited) -> Self {
        Self {
            rank: exited.rank,
            code: exited.code,
            signal: exited.signal,
            killed_by_us: exited.killed_by_us,
            oom: exited.oom.map(|oom| Oom {
                limit_bytes: oom.limit_bytes,
                peak_bytes: oom.peak_bytes,
            }),
        }
    }
}

impl RankEnd {
    /// Did the rank fail by itself?
    pub fn is_failure(&self) -> bool {
        !self.killed_by_us && (self.code != 0 || self.signal != 0)
    }
}

/// What a keeper says about its attempt when an agent connects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeeperStatus {
    /// It was told to go and has started the ranks.
    pub started: bool,
    /// The ranks that have ended.
    pub exits: Vec<RankEnd>,
    /// Nothing of the attempt is left.
    pub all_ended: bool,
    /// The port leased on node rank 0, else 0.
    pub master_port: u16,
    /// Ranks could not be started; why.
    pub launch_failed: Option<String>,
    /// Of an array: the tasks that have ended.
    pub tasks: TaskEnds,
    /// Its fence ended the ranks; why.
    pub fenced: Option<String>,
    /// Its time limit ended the ranks; why.
    pub timed_out: Option<String>,
}

/// A leader's answer to our hello, as far as decisions depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderHello {
    /// The cluster's incarnation.
    pub incarnation: u32,
    /// Heartbeat period.
    pub heartbeat_ms: u64,
    /// Silence after which a node counts as unreachable.
    pub node_timeout_ms: u64,
    /// Highest event of this journal id that the cluster has applied.
    pub event_mark: u64,
}

/// What a leader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaderMessage {
    /// The answer to our hello.
    Hello(LeaderHello),
    /// The heartbeat is confirmed: a lease, counted from its sending.
    HeartbeatAnswer {
        /// Which one.
        seq: u64,
    },
    /// Begin this attempt.
    Start(Arc<Start>),
    /// End this attempt.
    Stop {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Why and how.
        stop: Stop,
    },
    /// Every node of the gang is ready.
    Go {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Where its ranks meet.
        rendezvous: Rendezvous,
    },
    /// Events up to here are applied and need not be kept.
    EventsApplied {
        /// The highest one.
        up_to: u64,
    },
    /// The cluster does not count on these parts any more.
    Forget(Vec<PartKey>),
    /// The cluster wants to know whether these parts are here.
    Announce(Vec<PartKey>),
}

/// What can happen to an agent. The only input of the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A deadline has passed.
    Tick,
    /// A coordinator was dialled and takes messages.
    Dialled,
    /// The connection is gone.
    LinkDown,
    /// A leader spoke.
    Leader {
        /// Its term.
        term: u64,
        /// What it said.
        message: LeaderMessage,
    },
    /// Everything up to this ticket is on disk.
    JournalSynced {
        /// Of [`Action::Journal`].
        ticket: u64,
    },
    /// The keeper runs and waits; everything is in place.
    Prepared {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// The port leased on node rank 0, else 0.
        master_port: u16,
    },
    /// The preparation ended without a keeper.
    PrepareFailed {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// One sentence for people.
        why: String,
    },
    /// The keeper of an attempt that was under way answers again.
    KeeperConnected {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Everything it knows.
        status: KeeperStatus,
    },
    /// After a restart: no keeper was ever asked for.
    KeeperNeverStarted {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
    /// The keeper is gone without having said that all has ended.
    KeeperLost {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// One sentence for people.
        why: String,
    },
    /// The ranks run.
    RanksStarted {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
    /// The keeper could not start the ranks.
    LaunchFailed {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// One sentence for people.
        why: String,
    },
    /// Where a keeper answers witnesses.
    ProbePort {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// The port with its key.
        probe: ProbePort,
    },
    /// The keeper's fence ends the ranks.
    Fenced {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// One sentence for people.
        why: String,
    },
    /// The time limit of the job ends the ranks.
    TimedOut {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// One sentence for people.
        why: String,
    },
    /// A rank has ended.
    RankExited {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// How.
        exit: RankEnd,
    },
    /// Tasks of an array have ended by themselves.
    TasksEnded {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// How.
        ends: TaskEnds,
    },
    /// No process of the attempt is left.
    AllRanksEnded {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
    /// The devices of an attempt whose processes are gone were looked at.
    DevicesChecked {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Those of them with something on them.
        dirty: Vec<DirtyDevice>,
    },
    /// Devices were looked at beside any attempt.
    DevicesSeen {
        /// Something is on these.
        dirty: Vec<DirtyDevice>,
        /// Nothing is on these, by UUID.
        clean: Vec<String>,
    },
    /// A checkpoint is complete, and sealed if that was possible.
    Checkpoint(CheckpointFound),
    /// A directory of an attempt begins to be sealed, or that is over, in whatever way.
    Sealing {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// It begins.
        begun: bool,
    },
    /// A copy of a part is durable here.
    CopyHeld {
        /// The job that made it.
        job: JobId,
        /// The attempt that made it.
        epoch: Epoch,
        /// All there is to know of it.
        sealed: CheckpointSealed,
    },
    /// A part that was held here is not there any more, or is damaged.
    CopyLost(PartKey),
    /// This node has uploaded a part: all of it is in the object store.
    CopyUploaded(PartKey),
}

/// What is sent to the leader.
#[derive(Debug, Clone, PartialEq)]
pub enum ToLeader {
    /// First on every connection; the link adds what the node is.
    Hello {
        /// Names the numbering of events.
        journal_id: String,
        /// Highest incarnation journaled.
        incarnation: u32,
        /// Highest leader term seen.
        term: u64,
        /// The full set.
        attempts: Vec<Status>,
    },
    /// A sign of life.
    Heartbeat {
        /// Counts per connection.
        seq: u64,
        /// The full set.
        attempts: Vec<Status>,
    },
    /// This node's part of the gang may start.
    Ready {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// The port leased on node rank 0, else 0.
        master_port: u16,
    },
    /// What happened, in order.
    Events(Vec<AgentEvent>),
}

/// What the driver is to do. Nothing here waits: each has its own task and answers with events.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Append and sync, then [`Event::JournalSynced`] with this ticket.
    Journal {
        /// Rises by one.
        ticket: u64,
        /// In this order.
        records: Vec<Record>,
    },
    /// Append; nothing waits for it.
    JournalLazily {
        /// In this order.
        records: Vec<Record>,
    },
    /// Say this to the leader, if one is connected.
    Send(ToLeader),
    /// Leave this coordinator and dial the next.
    Redial {
        /// For the log.
        why: String,
    },
    /// Fetch, make directories, start the keeper: [`Event::Prepared`] or [`Event::PrepareFailed`].
    Prepare(Arc<Start>),
    /// Give up a preparation. It still answers: with `PrepareFailed`, or with `Prepared` if the keeper had been started.
    CancelPrepare {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
    /// After a restart: connect to the keeper, if there is one.
    Adopt(Arc<Start>),
    /// Start the ranks.
    KeeperGo {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Where they meet.
        rendezvous: Rendezvous,
    },
    /// Tell the keeper of a fenced attempt that a heartbeat was confirmed.
    KeeperLease {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// When it was sent.
        confirmed_at: BoottimeMs,
    },
    /// End the ranks: TERM, grace, KILL.
    KeeperStop {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Between TERM and KILL.
        grace_ms: u32,
    },
    /// See whether something is on devices of an attempt that has ended: [`Event::DevicesChecked`], within seconds.
    CheckDevices {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Which.
        uuids: Vec<String>,
    },
    /// The end is journaled: the keeper may go.
    ReleaseKeeper {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
    /// The cluster has acknowledged the end.
    Closed {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
    /// Let go of these parts.
    Forget(Vec<PartKey>),
    /// Say of each whether it is here: [`Event::CopyHeld`] or [`Event::CopyLost`].
    Announce(Vec<PartKey>),
    /// List to the leader all parts that are held and were told of.
    SendInventory,
}
