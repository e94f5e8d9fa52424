//! What the journal remembers: the only thing of an agent's mind that outlives it.
//! Plain data; does NOT know its bytes (see `journal/codec.rs`) and does NOT decide anything.

use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{AgentEvent, DirtyDevice};
use mlctl_proto::spec::Ranges;

use super::types::{RankEnd, Start};

/// One thing that the journal keeps.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Highest incarnation of the cluster seen.
    Incarnation(u32),
    /// Highest leader term seen.
    Term(u64),
    /// Events up to here are acknowledged.
    Acknowledged(u64),
    /// An attempt begins. Also the highest epoch of its job.
    Begun(Arc<Start>),
    /// An attempt that never begins here.
    Tombstone {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
    /// Highest epoch of a job, from a journal written anew.
    Mark {
        /// The job.
        job: JobId,
        /// Its highest epoch here.
        epoch: Epoch,
        /// Highest step sealed by earlier attempts.
        step_floor: u64,
    },
    /// What an open attempt has reported so far, from a journal written anew.
    Reported {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// `RanksStarted` was reported.
        started: bool,
        /// Ranks whose end was reported.
        exits: Vec<RankEnd>,
        /// `AllocationEnded` was reported.
        ended: bool,
        /// Names of checkpoints that were reported.
        sealed: Vec<String>,
        /// Tasks whose end was reported.
        tasks: Ranges,
    },
    /// A device with something on it, from a journal written anew.
    Dirty(DirtyDevice),
    /// A numbered event.
    Event(AgentEvent),
}
