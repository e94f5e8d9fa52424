//! Explains one job: every reason that holds for it now, from the planner's own pass. Changes nothing and promises no time.
use mlctl_proto::ids::JobId;

use super::planner::Planner;
use super::reasons::Reason;
use crate::state::view::{ClusterView, JobState};

/// Why `job` waits, the leading reason first; empty if it is not pending, is unknown, or starts with the next plan.
pub fn explain(view: &ClusterView, job: JobId) -> Vec<Reason> {
    let Some(job) = view
        .state
        .job(job)
        .filter(|job| job.state == JobState::Pending)
    else {
        return Vec::new();
    };
    let mut planner = Planner::new(view);
    for ahead in view.state.pending().take_while(|ahead| ahead.id != job.id) {
        planner.consider(ahead);
    }
    planner.reasons(job)
}
