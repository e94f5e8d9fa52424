//! What the rest of the process holds of consensus: propose, read, step, watch the status, stop.
//!
//! It does not retry and does not forward to the leader: both are the caller's, who knows whether a command is
//! idempotent and how to reach another member.

use super::MemberId;
use super::driver::{RETRY_AFTER_MS, Request, Shared};
use super::snapshots::{SnapshotError, SnapshotStore};
use super::turn::{Change, ChangeRefusal, MAX_MESSAGE_BYTES, Membership, Role};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A longer command is refused. With its framing it stays far below the limit of a Raft message.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;

/// Requests of all kinds in the driver's channel; clients may fill half, so Raft messages always find room.
pub(super) const CHANNEL: usize = 16_384;
const MAX_QUEUED: usize = CHANNEL / 2;
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Bytes of Raft messages that wait; more are dropped, and raft sends again what matters.
const MAX_STEP_BYTES: usize = 128 << 20;
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
const READ_DEADLINE: Duration = Duration::from_secs(10);
const STOP_DEADLINE: Duration = Duration::from_secs(20);

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
    /// What its state machine holds; may lag by some ticks.
    pub applied: u64,
    /// Who votes and who learns.
    pub members: Arc<Membership>,
}

/// A running member. Clones share it; the threads end with [`Handle::shutdown`] or with the last clone.
pub struct Handle<R> {
    pub(super) requests: SyncSender<Request<R>>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<SnapshotStore>,
    pub(super) threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    pub(super) incarnation: u64,
    pub(super) founders: Arc<Membership>,
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
            founders: Arc::clone(&self.founders),
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

    /// Changes the membership, if this member leads and the change may be made now. Asking again for what is so already
    /// succeeds.
    ///
    /// # Errors
    /// See [`ChangeRefusal`].
    pub async fn change_members(&self, change: Change) -> Result<(), ChangeRefusal> {
        let (waiter, answer) = oneshot::channel();
        let asked = self.requests.try_send(Request::Change { change, waiter });
        if asked.is_err() {
            return Err(ChangeRefusal::Busy);
        }
        match tokio::time::timeout(PROPOSE_DEADLINE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(ChangeRefusal::Lost),
        }
    }

    /// The members before the first entry of the log, for a learner that begins there.
    pub fn founders(&self) -> &Membership {
        &self.founders
    }

    /// Hands over bytes that the authenticated member `from` sent. Never blocks; false if they were dropped.
    pub fn step(&self, from: MemberId, message: Bytes) -> bool {
        let size = message.len();
        if size > MAX_MESSAGE_BYTES {
            return false;
        }
        let waiting = &self.shared.step_bytes;
        let room = waiting.fetch_add(size, Ordering::AcqRel) + size <= MAX_STEP_BYTES;
        let taken = room
            && self
                .requests
                .try_send(Request::Step { from, message })
                .is_ok();
        if !taken {
            waiting.fetch_sub(size, Ordering::AcqRel);
        }
        taken
    }

    /// Tells the leader's side that a peer could not be reached. Never blocks.
    pub fn unreachable(&self, peer: MemberId) {
        self.nudge(Request::Unreachable(peer));
    }

    /// Asks for the leadership to move to `to`; nothing happens if this member does not lead.
    pub fn transfer_leader(&self, to: MemberId) {
        self.nudge(Request::TransferLeader(to));
    }

    /// A member that should not lead (its clock or its disk is bad) abstains: it still votes and acknowledges, but
    /// waits four times longer before it asks to be elected. Leadership that it holds stays; hand it over with
    /// [`Handle::transfer_leader`]. Forgotten at a restart. Never blocks; say it again if it matters for long, because
    /// a full queue drops it.
    pub fn abstain(&self, abstains: bool) {
        self.nudge(Request::Abstain(abstains));
    }

    /// Where this member stands. Whoever waits is woken when role, leader, term or members change, not for progress; closed when the
    /// member stopped. A new leader may still have entries of earlier leaders to apply: what it may decide on is told to
    /// [`super::Apply::published`].
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
                Err(TrySendError::Full(_)) => Enqueued::Full,
                Err(TrySendError::Disconnected(_)) => Enqueued::Stopped,
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
