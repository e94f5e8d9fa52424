//! What an explanation says, as data. Does NOT find it.
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::blocker::Blocker;
use super::edits::Edit;
use crate::scheduler::engine::why::Why;
use crate::state::view::teams::{Flavor, Limit};

/// Everything about why one job waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// The plan of this very state starts it.
    pub starts_now: bool,
    /// What keeps it from starting now: if all of these went it would start, and if all but one went it would not. Empty if it starts.
    pub reasons: Vec<Reason>,
    /// What does not keep it.
    pub checks: Vec<Check>,
    /// When it starts.
    pub eta: Eta,
    /// Where it stands among those that wait.
    pub place: Place,
    /// What would let it start now, or sooner, if it were changed in place.
    pub edits: Vec<Edit>,
}

/// One blocker that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What would have to go.
    pub blocker: Blocker,
    /// The word, with its numbers.
    pub why: Why,
    /// Jobs that it is about: who starts before it, or to whom a start was promised; a few of them.
    pub jobs: Vec<JobId>,
}

/// Something that was asked and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Its team may have what it asks for.
    Quota {
        /// The team.
        team: Arc<str>,
        /// Of what.
        flavor: Flavor,
        /// With it, units that the team and those below hold and claim.
        load: u64,
        /// Its own, units.
        nominal: u64,
        /// What it may have beyond.
        borrow: Limit,
    },
    /// Budgets on the way to the root cover it.
    Budget,
    /// Nodes have devices of a type that it takes.
    Type {
        /// How many nodes.
        nodes: u32,
    },
    /// Nodes that take no work are not what keeps it.
    Closed {
        /// How many.
        nodes: u32,
    },
}

/// When a job starts, as far as anybody can say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Eta {
    /// A start was promised to it.
    At {
        /// When.
        start_ms: UtcMs,
        /// How far off that may be, milliseconds, either way.
        error_ms: u64,
        /// The job whose end it waits for last, if it is one.
        when_ends: Option<JobId>,
    },
    /// After that job, to which a start was promised; not estimated.
    After(JobId),
    /// Not estimated.
    #[default]
    Unknown,
}

/// Where a job stands: 1 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Among its team's jobs that wait and could be chosen.
    pub in_team: u32,
    /// How many these are.
    pub of_team: u32,
    /// Among all.
    pub overall: u32,
    /// How many these are.
    pub of_all: u32,
}
