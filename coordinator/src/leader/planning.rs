//! Makes a plan and proposes it. When that is due is `step`'s business; apply checks the plan again.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_proto::errors::Code;
use mlctl_proto::ids::JobId;
use tracing::Instrument;

use super::step::plan_again_in;
use crate::published::Soft;
use crate::scheduler::Plan;
use crate::shared::{CallError, Shared};
use crate::state::Body;
use crate::state::commands::{StartAttempts, Withdraw};
use crate::state::records::Reply;
use crate::state::view::ClusterView;

/// Starts in one command: keeps it far below the limit of a command.
const STARTS_PER_COMMAND: usize = 128;

/// Plans on the newest state and proposes the result. Answers with when to plan again by time alone, milliseconds, and whether the deadline of some
/// job is over.
pub(super) async fn plan(
    shared: Arc<Shared>,
    heard: BTreeSet<String>,
    salvaging: BTreeSet<JobId>,
) -> (Option<u64>, bool) {
    let state = shared.state();
    let now = shared.clock.stamp(state.now_ms());
    let span = tracing::info_span!(
        "plan",
        pending = tracing::field::Empty,
        starts = tracing::field::Empty
    );
    let inner = span.clone();
    let promised = shared.published.reservations();
    let planner = shared.clone();
    let planned = tokio::task::spawn_blocking(move || {
        let _entered = inner.entered();
        let view = ClusterView::new((*state).clone(), heard)
            .salvaging(salvaging)
            .promised(promised);
        let plan = planner.published.plan(&view, now);
        let soft = Soft {
            heard: view.heard,
            salvaging: view.salvaging,
            reservations: plan.reservations.clone(),
        };
        (plan, soft)
    });
    let (plan, soft) = match planned.await {
        Ok(planned) => planned,
        Err(error) => {
            tracing::error!(%error, "the scheduler failed");
            return (plan_again_in(None, now, false), false);
        }
    };
    span.record("pending", plan.explanations.len());
    span.record("starts", plan.starts.len());
    let bodies = commands(&plan);
    shared.published.explain(plan.explanations, soft);
    let mut whole = true;
    for body in bodies {
        whole &= propose(&shared, body).instrument(span.clone()).await;
    }
    let again_in = plan_again_in(plan.next, now, whole);
    (again_in.map(|ms| shared.clock.wait(ms)), plan.late)
}

/// What a plan comes to, in the order in which it is proposed: what is not needed any more is let go first.
pub fn commands(plan: &Plan) -> Vec<Body> {
    let mut bodies = Vec::new();
    if !plan.withdrawn.is_empty() {
        let jobs = plan.withdrawn.clone();
        bodies.push(Body::Withdraw(Withdraw { jobs }));
    }
    for starts in plan.starts.chunks(STARTS_PER_COMMAND) {
        let starts = starts.to_vec();
        bodies.push(Body::StartAttempts(StartAttempts { starts }));
    }
    bodies.extend(plan.preemptions.iter().cloned().map(Body::Preempt));
    bodies
}

/// Whether all of it was carried out.
async fn propose(shared: &Shared, body: Body) -> bool {
    let preempts = matches!(body, Body::Preempt(_));
    match shared
        .propose(shared.system(), "scheduler", None, body)
        .await
    {
        Ok(committed) => match committed.reply {
            Reply::Started { refused, .. } => {
                for (job, reason) in &refused {
                    tracing::info!(%job, %reason, "a start was stale");
                }
                refused.is_empty()
            }
            _ => true,
        },
        Err(CallError::Elsewhere) => false,
        // Why nothing is started was said when it began.
        Err(CallError::Refused(refusal))
            if matches!(refusal.code, Code::DiskFull | Code::ReadOnly) =>
        {
            tracing::debug!(%refusal, "a plan waits");
            false
        }
        // The state has moved on: the next plan sees it.
        Err(CallError::Refused(refusal)) if preempts && refusal.code == Code::Conflict => {
            tracing::info!(%refusal, "a preemption was stale");
            false
        }
        Err(CallError::Refused(refusal)) => {
            tracing::warn!(%refusal, "a plan was not carried out");
            false
        }
    }
}
