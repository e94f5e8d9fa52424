//! The scheduler's immutable input: the replicated state with its indexes, and what only the leader knows.
//! A view is taken once and never changes; what it says may be stale by the time a plan is applied, so apply checks again.
mod indexes;

use std::collections::BTreeSet;

pub use indexes::Indexes;

/// What the scheduler sees of the rest of the state: the rows of a view, and the shape of what it proposes.
pub use super::commands::{Placement, StartAttempt};
pub use super::records::{Admin, Checkpoint, Job, JobState, Liveness, Node};

use super::State;

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// The replicated state; a cheap clone.
    pub state: State,
    /// Nodes that this leader has heard from since it leads. No plan needs a node that was not heard.
    pub heard: BTreeSet<String>,
}

impl ClusterView {
    /// A view of `state` by a leader that has heard from `heard`.
    pub fn new(state: State, heard: BTreeSet<String>) -> Self {
        Self { state, heard }
    }

    /// Whether new work may be placed on a node now.
    pub fn usable(&self, node: &Node) -> bool {
        node.schedulable() && self.heard.contains(&node.facts.name)
    }
}
