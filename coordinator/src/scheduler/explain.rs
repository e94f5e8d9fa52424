//! Explains one job: every reason that holds for it now, from a plan's own pass. Changes nothing and promises no time.
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::engine;
use super::reasons::Reason;
use super::said::{self, Said};
use super::starts::starts;
use super::waits;
use crate::state::view::{ClusterView, Job, JobState, Liveness, scene};

/// Why `job` waits, the leading reason first; empty if it is unknown or starts with the next plan. A job with an attempt waits only
/// if that is kept on a silent node; one that is held waits for a person.
pub fn explain(view: &ClusterView, job: JobId, now_ms: UtcMs) -> Vec<Reason> {
    let Some(job) = view.state.job(job) else {
        return Vec::new();
    };
    if job.state != JobState::Pending {
        return said::held(job)
            .or_else(|| silent(view, job))
            .into_iter()
            .collect();
    }
    let now_ms = now_ms.max(view.state.now_ms());
    let scene = scene(view, now_ms);
    let proposal = engine::propose(&scene, now_ms);
    let waits = waits(&scene, &proposal, now_ms);
    let why = waits.get(&job.id);
    let starts = starts(view, &scene, &proposal.starts).len();
    let mut said = Said::new(view, starts, now_ms);
    why.map(|why| said.reasons(job, why)).unwrap_or_default()
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
