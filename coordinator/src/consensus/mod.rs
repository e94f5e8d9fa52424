//! Consensus: Raft for a service that is a deterministic state machine over opaque commands.
//!
//! It knows bytes, not jobs: whoever uses it brings an [`Apply`] (what a command does) and a [`Transport`] (how
//! bytes reach another member). It does not authenticate peers, does not retry proposals and does not decide who
//! should be a member: it makes the change that it is asked for, or says why not.
//!
//! `turn` is the pure protocol; `log` and `snapshots` are what is on disk; `driver` is the thread that owns both;
//! `start` decides whether a member may start; `handle` is what the rest of the process holds.
//!
//! **Truth on disk is the newest verified snapshot plus the log.** No vote, no append response and no answer to a
//! client leaves before the write it rests on is synced. A log that is damaged, or shorter than something else on
//! this disk proves it was, stops the member: it must not vote again.

mod applier;
#[cfg(test)]
mod damage_tests;
mod driver;
mod handle;
pub mod log;
mod member;
mod pulls;
mod refusal;
pub mod snapshots;
mod start;
#[cfg(test)]
mod tests;
pub mod turn;

pub use handle::{Committed, Handle, MAX_COMMAND_BYTES, ProposeError, ReadError, Status};
pub use member::{Identity, MemberFileError, begin_join, identity, set_aside};
pub use start::{Begin, Config, OnFatal, StartError, abort_process, start};
pub use turn::{Change, ChangeRefusal, Membership, Role, SnapshotMeta};

use bytes::Bytes;

/// A Raft member's number: random, never 0, bound to one data directory and never used again.
pub type MemberId = u64;

/// The state machine. It is owned by one thread, the only one that changes it.
pub trait Apply: Send + 'static {
    /// What a command answers.
    type Reply: Send + 'static;

    /// All commands of one committed entry, in order; one reply per command. Never fails, never panics.
    /// An entry without commands (a leader opens each term with one) only moves the index.
    fn apply(&mut self, index: u64, commands: &[Bytes]) -> Vec<Self::Reply>;

    /// At the start, after a group of entries, and whenever leadership comes or goes: publish what readers may see. `leader_term`
    /// is `Some(term)` iff this member leads that term *and* has applied everything that earlier leaders committed.
    fn published(&mut self, applied: u64, leader_term: Option<u64>);

    /// A cheap clone of the state; the closure encodes it on the snapshot thread, and first brings to the disk what the snapshot
    /// refers to. An error of it is one of writing the snapshot.
    fn snapshot(&self) -> Box<dyn FnOnce() -> Result<Vec<u8>, Unsaved> + Send>;

    /// Replaces the state by what a snapshot of `index` holds.
    ///
    /// # Errors
    /// A text that says what cannot be read; the member then stops.
    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String>;

    /// The index that the state already holds, 0 for an empty one.
    fn applied(&self) -> u64;
}

/// What a snapshot refers to is not on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsaved {
    /// There was only no room; the next snapshot is tried when it is due. Else the process ends.
    pub full: bool,
    /// Why.
    pub reason: String,
}

/// How bytes reach another member. Raft bytes are opaque; the receiver passes them to [`Handle::step`].
pub trait Transport: Send + Sync + 'static {
    /// Non-blocking, may drop (the transport has a bounded queue per peer).
    fn send(&self, to: MemberId, message: Bytes);

    /// The snapshot file that `from` announced, as its [`Handle::read_snapshot`] returns it. Blocks; called on a
    /// helper thread; must have a deadline of its own.
    ///
    /// # Errors
    /// A text for the log; the leader offers the snapshot again.
    fn pull_snapshot(
        &self,
        from: MemberId,
        index: u64,
        digest: [u8; 32],
    ) -> Result<Vec<u8>, String>;
}
