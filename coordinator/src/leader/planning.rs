//! When to plan, and what becomes of a plan: one at a time, wishes that come meanwhile are one more plan.
//!
//! The plan itself is the scheduler's; apply checks it again.
use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::Instrument;

use super::liveness::Mono;
use crate::scheduler;
use crate::shared::{CallError, Shared, now_ms};
use crate::state::Body;
use crate::state::commands::{StartAttempt, StartAttempts};
use crate::state::records::Reply;
use crate::state::view::ClusterView;

/// Starts in one command: keeps it far below the limit of a command.
const STARTS_PER_COMMAND: usize = 128;
/// After a plan that was refused or could not be proposed, milliseconds.
const AGAIN_MS: u64 = 500;

/// When to plan next.
#[derive(Debug)]
pub(super) struct Planning {
    wanted: bool,
    running: bool,
    at: Option<Mono>,
}

/// What became of a plan.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its answer may differ after this long, milliseconds, by time alone.
    again_in: Option<u64>,
}

impl Planning {
    /// A plan is due at once.
    pub(super) fn wanted() -> Self {
        Self {
            wanted: true,
            running: false,
            at: None,
        }
    }

    /// Something changed.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether a plan has to begin; then it has begun.
    pub(super) fn begin(&mut self, now: Mono) -> bool {
        let due = self.wanted || self.at.is_some_and(|at| at <= now);
        if self.running || !due {
            return false;
        }
        (self.wanted, self.running, self.at) = (false, true, None);
        true
    }

    /// When time alone asks for a plan.
    pub(super) fn next(&self) -> Option<Mono> {
        self.at.filter(|_| !self.running)
    }

    /// The plan's end.
    pub(super) fn ended(&mut self, planned: Planned, now: Mono) {
        self.running = false;
        self.at = planned.again_in.map(|ms| now + ms.max(1));
    }
}

/// Plans on the newest state and proposes the result.
pub(super) async fn plan(shared: Arc<Shared>, heard: BTreeSet<String>) -> Planned {
    let state = shared.state();
    let now = now_ms();
    let span = tracing::info_span!(
        "plan",
        pending = tracing::field::Empty,
        starts = tracing::field::Empty
    );
    let inner = span.clone();
    let planned = tokio::task::spawn_blocking(move || {
        let _entered = inner.entered();
        let view = ClusterView::new((*state).clone(), heard);
        (scheduler::plan(&view, now), view.heard)
    });
    let (plan, heard) = match planned.await {
        Ok(planned) => planned,
        Err(error) => {
            tracing::error!(%error, "the scheduler failed");
            return Planned {
                again_in: Some(AGAIN_MS),
            };
        }
    };
    span.record("pending", plan.explanations.len());
    span.record("starts", plan.starts.len());
    shared.published.explain(plan.explanations, heard);
    let mut again_in = plan.next.map(|at| u64::try_from(at - now).unwrap_or(0));
    for starts in plan.starts.chunks(STARTS_PER_COMMAND) {
        if !propose(&shared, starts).instrument(span.clone()).await {
            again_in = Some(again_in.unwrap_or(AGAIN_MS).min(AGAIN_MS));
        }
    }
    Planned { again_in }
}

/// Whether all of them were started.
async fn propose(shared: &Shared, starts: &[StartAttempt]) -> bool {
    let body = Body::StartAttempts(StartAttempts {
        starts: starts.to_vec(),
    });
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
        Err(CallError::Refused(refusal)) => {
            tracing::warn!(%refusal, "a plan was not carried out");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_during_a_plan_are_one_more_plan() {
        let mut planning = Planning::wanted();
        assert!(planning.begin(0));
        assert!(!planning.begin(0));
        planning.want();
        planning.want();
        assert!(!planning.begin(1), "one at a time");
        planning.ended(Planned { again_in: None }, 2);
        assert!(planning.begin(2));
        planning.ended(
            Planned {
                again_in: Some(100),
            },
            3,
        );
        assert_eq!(planning.next(), Some(103));
        assert!(!planning.begin(102));
        assert!(planning.begin(103));
        assert_eq!(planning.next(), None);
    }
}
