//! A job and its spec.
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::OnDisconnect;
use mlctl_proto::units::UtcMs;

use super::{Array, Checkpoint, End, Lineage, Marks, Retries, Turn};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobState {
    /// Waits for devices.
    Pending,
    /// Waits for a person.
    Held,
    /// An attempt is committed; not all ranks run yet.
    Starting,
    /// All ranks of the current attempt were started.
    Running,
    /// The current attempt is being ended.
    Stopping,
    /// All ranks exited 0.
    Completed,
    /// Ended otherwise.
    Failed,
    /// A person ended it.
    Cancelled,
    /// Its time limit ended it.
    TimedOut,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Held,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
    ];

    /// Never changes again.
    pub fn terminal(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Cancelled | Self::TimedOut
        )
    }

    /// The word people and programs see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Held => "Held",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Stopping => "Stopping",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::TimedOut => "TimedOut",
        }
    }
}

/// A spec, stored once by content hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Canonical JSON.
    pub json: Vec<u8>,
    /// Jobs that name it.
    pub uses: u64,
}

impl Spec {
    /// BLAKE3 of the canonical JSON: its key.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.json).as_bytes()
    }
}

/// What a user submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// For people.
    pub name: String,
    /// From the certificate of the submitter.
    pub owner_id: String,
    /// For people.
    pub owner_name: String,
    /// Its team.
    pub team: String,
    /// Names its spec.
    pub spec_hash: [u8; 32],
    /// Blob of its code manifest, empty: none.
    pub code_manifest: String,
    /// Bytes of its code.
    pub code_bytes: u64,
    /// Where it is in its life.
    pub state: JobState,
    /// State time of the submit.
    pub submitted_ms: UtcMs,
    /// When its first attempt ran, 0: not yet.
    pub started_ms: UtcMs,
    /// When it ended, 0: not yet.
    pub ended_ms: UtcMs,
    /// Log index of the submit: the last key of order.
    pub submit_index: u64,
    /// Counter of the newest epoch, 0: none yet. Only grows.
    pub epoch_counter: u64,
    /// Restarts after a lost node, keeper or device.
    pub infrastructure_restarts: u32,
    /// Why it ended, once it has.
    pub outcome: Option<End>,
    /// A person asked to end it.
    pub cancel_requested: bool,
    /// Who, for people.
    pub cancelled_by: String,
    /// Trace of the submit.
    pub traceparent: String,
    /// Oldest first, bounded.
    pub checkpoints: Vec<Checkpoint>,
    /// Advice for the node's user map.
    pub submitter_uid: u32,
    /// Counter of the attempt that goes on although a later one had been committed, 0: the newest counts.
    pub recalled_counter: u64,
    /// What becomes of it when its node falls silent: its spec's word.
    pub on_disconnect: OnDisconnect,
    /// Its tasks, if it is an array. Shared by the copies of a job that do not change them.
    pub array: Option<Arc<Array>>,
    /// What failed attempts led to.
    pub retries: Retries,
    /// The job that this one is another try of.
    pub lineage: Option<Lineage>,
    /// When its turn comes.
    pub turn: Turn,
    /// What running, and taking devices or losing them, has left on it.
    pub marks: Marks,
}

impl Job {
    /// The tasks of an array job, to change.
    pub fn array_mut(&mut self) -> Option<&mut Array> {
        self.array.as_mut().map(Arc::make_mut)
    }

    /// An array of which tasks wait beside those that run.
    pub fn fills(&self) -> bool {
        let active = matches!(self.state, JobState::Starting | JobState::Running);
        active && (self.array.as_ref()).is_some_and(|array| !array.pending.is_empty())
    }

    /// The current attempt's epoch, if there was one: the newest, or one that was recalled.
    pub fn epoch(&self) -> Option<Epoch> {
        let counter = match self.recalled_counter {
            0 => self.epoch_counter,
            recalled => recalled,
        };
        (counter > 0).then(|| Epoch::new(self.id.incarnation, counter))
    }
}
