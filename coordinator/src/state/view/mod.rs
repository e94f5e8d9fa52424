//! The scheduler's immutable input: the replicated state with its indexes, and what only the leader knows.
//! A view is taken once and never changes; what it says may be stale by the time a plan is applied, so apply checks again.
pub mod amounts;
pub mod ask;
mod hold_indexes;
pub mod holdings;
mod indexes;
pub mod jobs;
mod lengths;
pub mod nodes;
pub mod policy;
mod pools;
pub mod scene;
mod spec_facts;
mod stage;
mod stage_kept;
mod team_indexes;
pub mod teams;

use std::collections::BTreeSet;

pub use indexes::{Holding, Indexes};
pub use spec_facts::SpecFacts;
pub use stage::scene;
pub use stage_kept::Stage;

/// What the scheduler sees of the rest of the state: the rows of a view, and the shape of what it proposes.
pub use super::commands::{Placement, Preempt, PreemptVictim, StartAttempt};
pub use super::records::{
    Admin, Array, Checkpoint, Device, HoldReason, Job, JobState, Liveness, Node, Part, Wave,
};

use mlctl_proto::ids::JobId;

use self::jobs::Reservation;
use super::State;

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// The replicated state; a cheap clone.
    pub state: State,
    /// Nodes that this leader has heard from since it leads. No plan needs a node that was not heard.
    pub heard: BTreeSet<String>,
    /// Jobs whose last attempt left checkpoints of which word is still on its way: they wait a moment.
    pub salvaging: BTreeSet<JobId>,
    /// What this leader's last plan promised. A new leader promises anew: nobody has rights by a promise.
    pub reservations: Vec<Reservation>,
}

impl ClusterView {
    /// A view of `state` by a leader that has heard from `heard`.
    pub fn new(state: State, heard: BTreeSet<String>) -> Self {
        Self {
            state,
            heard,
            salvaging: BTreeSet::new(),
            reservations: Vec::new(),
        }
    }

    /// The same, with jobs that wait for what is being salvaged.
    pub fn salvaging(self, salvaging: BTreeSet<JobId>) -> Self {
        Self { salvaging, ..self }
    }

    /// The same, with what the last plan promised.
    pub fn promised(self, reservations: Vec<Reservation>) -> Self {
        Self {
            reservations,
            ..self
        }
    }

    /// Whether new work may be placed on a node now.
    pub fn usable(&self, node: &Node) -> bool {
        node.schedulable() && self.heard.contains(&node.facts.name)
    }
}
