//! Explains one job: every reason that holds for it now, from the planner's own pass. Changes nothing and promises no time.
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::planner::Planner;
use super::reasons::Reason;
use crate::state::view::{ClusterView, Job, JobState, Liveness};

/// Why `job` waits, the leading reason first; empty if it is unknown or starts with the next plan. A job with an attempt waits only
/// if that is kept on a silent node; one that is held waits for a person.
pub fn explain(view: &ClusterView, job: JobId, now_ms: UtcMs) -> Vec<Reason> {
    let Some(job) = view.state.job(job) else {
        return Vec::new();
    };
    if job.state != JobState::Pending {
        let held = Reason::of_hold(job);
        return held.or_else(|| silent(view, job)).into_iter().collect();
    }
    let mut planner = Planner::new(view, now_ms);
    for ahead in view.state.queue().take_while(|ahead| ahead.id != job.id) {
        planner.consider(ahead);
    }
    planner.reasons(job)
}

/// An attempt that is kept on nodes that are Lost, because its job says so.
fn silent(view: &ClusterView, job: &Job) -> Option<Reason> {
    let attempt = view.state.current_attempt(job)?;
    let open = attempt.allocations.iter().filter(|one| one.end.is_none());
    let lost = open.filter(|one| {
        let node = view.state.node(&one.node);
        node.is_some_and(|node| node.liveness == Liveness::Lost)
    });
    let nodes: Vec<String> = lost.map(|one| one.node.clone()).collect();
    (!nodes.is_empty()).then_some(Reason::NodeSilent {
        nodes,
        policy: job.on_disconnect,
    })
}
