//! The scheduler's whole input, immutable: what `plan` says follows from it and from the time alone. State's hooks keep it, and `mlctl simulate` makes one
//! from a trace by the same calls. A clone is cheap. Does NOT decide anything.
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::jobs::{Hold, Reservation, Running, Waiting};
use super::nodes::NodeView;
use super::policy::SchedSettings;
use super::teams::TeamView;

/// Whose jobs are alike: their lengths are guessed from each other's. Owner (in traces without users: team) and GPUs in all, units.
pub type HistoryKey = (Arc<str>, u64);

/// What a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scene {
    /// By name.
    pub nodes: OrdMap<Arc<str>, Arc<NodeView>>,
    /// By path; parents before children.
    pub teams: OrdMap<Arc<str>, Arc<TeamView>>,
    /// As of when teams' usage is decayed.
    pub decayed_ms: UtcMs,
    /// By log index of the submit: an array once.
    pub waiting: OrdMap<(u64, JobId), Arc<Waiting>>,
    /// Attempts that hold something.
    pub running: OrdMap<(JobId, Epoch), Arc<Running>>,
    /// By job.
    pub reservations: OrdMap<JobId, Arc<Reservation>>,
    /// By beneficiary.
    pub holds: OrdMap<JobId, Arc<Hold>>,
    /// How long ended jobs ran, milliseconds, ascending; the newest few hundred of each key.
    pub histories: OrdMap<HistoryKey, Arc<Vec<u64>>>,
    /// Named countables: all of each, and what is held.
    pub licenses: BTreeMap<String, (u32, u32)>,
    /// What an admin decides.
    pub settings: Arc<SchedSettings>,
    /// Starts are paused (`mlctl admin pause starts`).
    pub starts_paused: bool,
    /// Preemption is.
    pub preemption_paused: bool,
}
