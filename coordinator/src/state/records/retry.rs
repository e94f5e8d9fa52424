//! What a job has behind it of failed attempts, and what follows from that: how long it waits, where it is not placed, whether it
//! is held. What an end counts for is decided in `rules`.
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::{Checkpoint, EndKind};

/// Counters of failed attempts and their consequences. A person's retry clears all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retries {
    /// Restarts that the spec's `retry.max` counts.
    pub used: u32,
    /// Restarts after any failure.
    pub requeues: u32,
    /// Of these, so many had to wait.
    pub waits: u32,
    /// It does not start before this state time; 0: at once.
    pub not_before_ms: UtcMs,
    /// Nodes and keepers that were lost under it.
    pub losses: u32,
    /// Nodes that failed it, each once, the oldest first.
    pub excluded: Vec<ExcludedNode>,
    /// Why it is Held, while it is.
    pub hold: Option<HoldReason>,
}

impl Retries {
    /// Whether it backs off at this state time.
    pub fn backs_off(&self, now_ms: UtcMs) -> bool {
        self.not_before_ms > now_ms
    }
}

/// A node that failed a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExcludedNode {
    /// Its name.
    pub node: String,
    /// How it failed it last.
    pub why: EndKind,
}

/// Why a job waits for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldReason {
    /// It took nodes or agents down, or broke devices, again and again: it may be the cause.
    SuspectedPoison,
}

impl HoldReason {
    /// The word people and programs see.
    pub fn word(self) -> &'static str {
        match self {
            Self::SuspectedPoison => "SuspectedPoison",
        }
    }
}

/// Where another try of a job comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The job that a person tried again.
    pub retry_of: JobId,
    /// Whose directories hold the checkpoints.
    pub made_by: JobId,
    /// What was left, oldest first.
    pub checkpoints: Vec<Checkpoint>,
}
