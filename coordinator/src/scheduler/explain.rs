//! Explains one job: every reason that holds for it now, from a plan's own pass. Changes nothing and promises no time.
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::engine::explain::{Explanation, Foresight, foresee_with};
use super::engine::{self, Why};
use super::reasons::Reason;
use super::said::{self, Said};
use super::starts::starts;
use super::waits;
use crate::state::view::{ClusterView, Job, JobState, Liveness, scene};

/// What the scheduler says of one job.
#[derive(Debug, Clone, Default)]
pub struct Explained {
    /// Why it waits: first what the plan says, then everything else that holds. Empty if it starts with the next plan, or does not wait.
    pub reasons: Vec<Reason>,
    /// What was asked besides, when it starts, and what would help; `None`: it does not wait for a plan.
    pub found: Option<Explanation>,
    /// How it starts with the next plan, if it does.
    pub start: Option<Start>,
}

/// How a job would start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// On these nodes, in node-rank order.
    pub nodes: Vec<String>,
    /// Beyond its team's nominal, at some level: what is borrowed may be taken back.
    pub borrowed: bool,
}

/// Everything about why `job` waits, the leading reason first, and how it starts if it does not. A job with an attempt waits only if that is kept on a silent node; one that
/// is held waits for a person.
pub fn look(view: &ClusterView, job: JobId, now_ms: UtcMs) -> Explained {
    let Some(job) = view.state.job(job) else {
        return Explained::default();
    };
    if job.state != JobState::Pending {
        let reasons = said::held(job).or_else(|| silent(view, job));
        return Explained {
            reasons: reasons.into_iter().collect(),
            ..Explained::default()
        };
    }
    let now_ms = now_ms.max(view.state.now_ms());
    let scene = scene(view, now_ms);
    // The leading word is the plan's own: at the job's turn not everything has started that does.
    let mut memo = engine::Memo::default();
    let proposal = engine::propose_with(&mut memo, &scene, now_ms);
    let Some(seen) = foresee_with(&mut memo, &scene, now_ms, job.id) else {
        return Explained::default();
    };
    let starts = starts(view, &scene, &proposal.starts).len();
    let mut said = Said::new(view, starts, now_ms);
    let leading = waits(&scene, &proposal, now_ms).remove(&job.id);
    Explained {
        reasons: reasons(&mut said, job, (leading.as_ref(), &seen.found)),
        start: start(&seen),
        found: Some(seen.found),
    }
}

/// In the words of people: of what holds beside the leading reason, what was not said yet.
fn reasons(
    said: &mut Said<'_>,
    job: &Job,
    (leading, found): (Option<&Why>, &Explanation),
) -> Vec<Reason> {
    let Some(leading) = leading else {
        return Vec::new();
    };
    let mut all = said.reasons(job, leading);
    for one in &found.reasons {
        let word = one.why.word();
        // Nodes that take no work are said by name, and as what they are.
        let same =
            |known: &Reason| known.word() == word || is_closed(known.word()) && is_closed(word);
        if word == leading.word() || all.iter().any(same) {
            continue;
        }
        let named = said.reasons(job, &one.why);
        let named = named.into_iter().find(|known| known.word() == word);
        all.push(named.unwrap_or_else(|| Reason::Rule(one.why.clone())));
    }
    all
}

fn is_closed(word: &str) -> bool {
    matches!(word, "NodeDrained" | "NodeUnhealthy")
}

fn start(seen: &Foresight) -> Option<Start> {
    let mut starts = seen.starts.iter();
    let own = starts.find(|start| start.job == seen.found.job)?;
    seen.found.starts_now.then(|| Start {
        nodes: own.seats.iter().map(|seat| seat.node.to_string()).collect(),
        borrowed: seen.borrowed,
    })
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

/// Only why it waits.
#[cfg(test)]
pub fn explain(view: &ClusterView, job: JobId, now_ms: UtcMs) -> Vec<Reason> {
    look(view, job, now_ms).reasons
}
