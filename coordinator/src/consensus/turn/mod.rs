//! The pure heart of consensus: `Core::turn(inputs) -> outputs` around raft's `RawNode`.
//!
//! It does not own a thread, read a clock, draw randomness, log or touch a disk or a network: ticks and messages
//! come in as [`Input`], everything that must happen comes out as [`Outputs`]. The same seed and the same inputs
//! give the same outputs bit for bit, which is what lets a simulator run it. It knows bytes, never what they mean.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

mod changes;
mod core;
mod election;
mod frame;
#[cfg(test)]
mod member_tests;
mod members;
mod promise;
mod quiet;
mod reads;
#[cfg(test)]
mod restore_tests;
mod steps;
mod storage;
#[cfg(test)]
mod tests;
mod wire;

pub use self::changes::{Change, ChangeRefusal};
pub use self::core::Core;
pub use self::frame::{FrameError, decode_commands, encode_commands};
pub use self::members::{INFO_BYTES_MAX, Membership};
pub use self::promise::{Promise, promise};
pub use self::steps::Step;
pub use self::wire::{MAX_MESSAGE_BYTES, WireError, check_change, is_snapshot};

use super::MemberId;
use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};
use std::sync::Arc;

/// What one member's core is told about itself. Ticks are the only unit of time.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This member; never 0.
    pub id: MemberId,
    /// The members before the first entry of the log; a snapshot's own replace them.
    pub founders: Membership,
    /// Election timeouts are a function of this, the id and the term.
    pub seed: u64,
    /// Fewest ticks without a leader before this member asks to be elected; the most are twice as many.
    pub election_tick: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_tick: usize,
    /// The index that the state machine already holds.
    pub applied: u64,
    /// Bytes of entries in one append message.
    pub max_message_bytes: u64,
    /// Append messages under way to one follower.
    pub max_inflight: usize,
    /// Bytes proposed but not yet committed, above which proposals are refused.
    pub max_uncommitted_bytes: u64,
    /// Bytes of committed entries handed out by one turn.
    pub max_committed_bytes: u64,
    /// Ticks after which an unanswered read fails.
    pub read_ticks: u64,
    /// Ticks after which a follower that took an offered snapshot without a word is offered it again.
    pub snapshot_retry_ticks: u64,
}

impl CoreConfig {
    /// The defaults for a tick of 20 ms: heartbeats each 100 ms, elections after 240 to 460 ms, reads fail after 2 s.
    pub fn new(id: MemberId, voters: Vec<MemberId>, seed: u64) -> Self {
        Self {
            id,
            founders: Membership::of(&voters),
            seed,
            election_tick: 12,
            heartbeat_tick: 5,
            applied: 0,
            max_message_bytes: 1 << 20,
            max_inflight: 64,
            max_uncommitted_bytes: 64 << 20,
            max_committed_bytes: 8 << 20,
            read_ticks: 100,
            snapshot_retry_ticks: 250,
        }
    }
}

/// What identifies a snapshot: the bytes themselves travel and rest elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last index whose effect the snapshot holds.
    pub index: u64,
    /// The term of the entry at `index`.
    pub term: u64,
    /// The members as of `index`.
    pub members: Membership,
    /// BLAKE3 of the snapshot file (see `snapshots`).
    pub digest: [u8; 32],
}

/// What the disk held at start.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term, vote and a lower bound of the commit index.
    pub hard_state: HardState,
    /// (index, term) just before the first entry kept; (0, 0) for a log that was never cut.
    pub floor: (u64, u64),
    /// All entries after `floor`, without a hole.
    pub entries: Vec<Entry>,
    /// The newest verified snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The second newest verified snapshot.
    pub older: Option<SnapshotMeta>,
}

/// Everything that can happen to a core.
#[derive(Clone, Debug)]
pub enum Input {
    /// One tick of time passed.
    Tick,
    /// Bytes that the authenticated member `from` sent. Hostile bytes are counted in `Outputs::ignored`.
    Step {
        /// Who sent them, from the peer's certificate.
        from: MemberId,
        /// One encoded Raft message.
        message: Bytes,
    },
    /// Append these commands as one entry. `id` is the caller's and comes back with the outcome.
    Propose {
        /// Never 0, never used twice by this process.
        id: u64,
        /// Opaque commands.
        commands: Vec<Bytes>,
    },
    /// Change the membership, if this member leads and the change may be made now; see `Outputs::changes`.
    ChangeMembers {
        /// The caller's name for the change.
        id: u64,
        /// What is to change.
        change: Change,
    },
    /// Ask for an index that a linearizable read may rest on.
    ReadIndex {
        /// The caller's name for the read.
        id: u64,
    },
    /// What `Outputs::persist` asked for with this number is on stable storage.
    Persisted {
        /// The number of the `Persist`.
        number: u64,
    },
    /// The state machine holds everything up to `index`.
    Applied {
        /// An index handed out before, or that of an installed snapshot.
        index: u64,
    },
    /// A snapshot of the local state was written and verified. Cuts the log below the older of the two newest.
    SnapshotTaken(SnapshotMeta),
    /// The snapshot that an offer announced is verified on this disk; `message` is the offer's.
    SnapshotReceived {
        /// The message of the `SnapshotOffer`.
        message: Bytes,
    },
    /// A message to this peer could not be sent.
    Unreachable(MemberId),
    /// How the transfer of a snapshot to a follower ended.
    SnapshotStatus {
        /// The follower.
        to: MemberId,
        /// Whether it has it.
        finished: bool,
    },
    /// Hand the leadership to this member, if we hold it.
    TransferLeader(MemberId),
    /// From now on lead only if nobody else can (true), or as any other (false). Leadership that is held stays.
    Abstain(bool),
}

/// One encoded message and who is to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The receiver.
    pub to: MemberId,
    /// The encoded message.
    pub message: Bytes,
}

/// What must reach stable storage, in one synced write, before `messages_after_persist` leave.
#[derive(Clone, Debug, PartialEq)]
pub struct Persist {
    /// Give it back in `Input::Persisted`.
    pub number: u64,
    /// Term, vote and commit index to store.
    pub hard_state: HardState,
    /// Entries to append. Entries stored at or above the first one's index are overwritten.
    pub entries: Vec<Entry>,
    /// A snapshot that replaces the whole log; `entries` then follow it.
    pub install: Option<SnapshotMeta>,
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Set iff a proposal of this process became this entry.
    pub proposal: Option<u64>,
    /// Its commands; none for the entry with which a leader opens its term, and none for a change of the membership.
    pub commands: Vec<Bytes>,
    /// Set iff it changed the membership: the members from this index on.
    pub members: Option<Arc<Membership>>,
    /// Bytes of the entry's data.
    pub size: usize,
}

/// A leader says that it has a snapshot which this member needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The leader.
    pub from: MemberId,
    /// What is offered.
    pub meta: SnapshotMeta,
    /// Hand it back in `Input::SnapshotReceived`.
    pub message: Bytes,
}

/// Why a proposal or a read did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing happened: this member does not lead.
    NotLeader,
    /// Nothing happened: too much is under way.
    Overloaded,
    /// Leadership changed under it; it may or may not be committed (a read: was not served).
    Lost,
    /// The read was not answered in time.
    TimedOut,
}

/// A member's part in the current term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows, or knows no leader.
    #[default]
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads the term.
    Leader,
}

/// Where this member stands after a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreStatus {
    /// Its role.
    pub role: Role,
    /// The leader that it knows.
    pub leader: Option<MemberId>,
    /// Its term.
    pub term: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// The last index in its log, stored or not.
    pub last: u64,
    /// Who votes and who learns, as of the last committed change.
    pub members: Arc<Membership>,
}

/// What must happen after a turn; [`Outputs::steps`] has the order.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// May leave at once.
    pub messages: Vec<Envelope>,
    /// To be written and synced.
    pub persist: Option<Persist>,
    /// May leave only when `persist` is on stable storage.
    pub messages_after_persist: Vec<Envelope>,
    /// To be applied, in order. When `persist` installs a snapshot, that comes first.
    pub committed: Vec<CommittedEntry>,
    /// Reads answered: (id, index that must be applied before the read is served).
    pub reads: Vec<(u64, u64)>,
    /// Reads that failed.
    pub refused_reads: Vec<(u64, Refusal)>,
    /// Proposals that failed or whose fate is unknown.
    pub refused: Vec<(u64, Refusal)>,
    /// Changes of the membership that are committed or were not made.
    pub changes: Vec<(u64, Result<(), ChangeRefusal>)>,
    /// Snapshots to pull.
    pub offers: Vec<SnapshotOffer>,
    /// A new member needs a snapshot that knows it: take one of the state once everything in `committed` is applied.
    pub snapshot_wanted: bool,
    /// The log is no longer needed up to and including this (index, term).
    pub cut: Option<(u64, u64)>,
    /// Messages that were dropped because they were malformed, not for us, or not of a kind that travels.
    pub ignored: u32,
    /// Another turn (without inputs) has more to say.
    pub more: bool,
    /// Role, leader, term and commit index after the turn.
    pub status: CoreStatus,
}

/// A turn that cannot be continued: the process must stop, because to go on would be to guess.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// A committed entry is not in the format of this release.
    #[error(
        "the committed entry {index} of term {term} cannot be read ({reason}); it is never skipped: start the release that wrote it, or start this member with --rejoin: it joins again under a new member id"
    )]
    Undecodable {
        /// Its index.
        index: u64,
        /// Its term.
        term: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The leader proves that this member once stored more than it has.
    #[error(
        "member {from} says that index {commit} is committed and stored here, but the log ends at {last}: synced entries are gone; this member must not vote again under its id: start it with --rejoin, and it joins again under a new member id"
    )]
    LogTooShort {
        /// The leader.
        from: MemberId,
        /// What it says we hold.
        commit: u64,
        /// What we hold.
        last: u64,
    },
    /// raft itself refused to go on.
    #[error("raft cannot start or continue: {0}")]
    Raft(String),
}
