//! What a failed attempt does to its job's record: counts, back-off, nodes to avoid, a hold. What follows from which end is `rules`'.
use std::sync::Arc;

use mlctl_proto::errors::Refusal;
use mlctl_proto::limits::POISON_LOSSES;
use mlctl_proto::spec::RetrySpec;
use mlctl_proto::units::UtcMs;

use crate::state::State;
use crate::state::records::{End, HoldReason, Job, JobState, Retries};
use crate::state::rules::{Backoff, Ended, Verdict, count, verdict};
use crate::state::transition::advance;

/// What decides over the failures of one job.
#[derive(Debug)]
pub(super) struct Failures {
    retry: Option<Arc<RetrySpec>>,
    backoff: Backoff,
}

impl Failures {
    /// As its spec and the cluster say.
    pub fn of(state: &State, job: &Job) -> Self {
        Self {
            retry: state.retry(job).cloned(),
            backoff: Backoff::of(state.settings().is_some_and(|settings| settings.dev)),
        }
    }

    /// What becomes of the job.
    pub fn verdict(&self, job: &Job, ended: &Ended) -> Verdict {
        verdict(job, self.retry.as_deref(), ended)
    }

    /// Counts the end of an attempt of a job that waits again, or is held.
    pub fn count(&self, job: &mut Job, ended: &Ended, now_ms: UtcMs) {
        let verdict = self.verdict(job, ended);
        let until = match verdict {
            Verdict::Held => 0,
            _ => self.backoff.until(&job.retries, ended.end.kind, now_ms),
        };
        count(job, verdict, ended, until);
        if verdict == Verdict::Held {
            job.retries.hold = Some(HoldReason::SuspectedPoison);
        }
    }

    /// A job whose attempt is lost, but not for good, waits as if it were: a person may see it go on after all.
    pub fn wait(&self, job: &mut Job, end: &End, now_ms: UtcMs) {
        job.retries.not_before_ms = self.backoff.until(&job.retries, end.kind, now_ms);
    }

    /// Counts an attempt that is lost for good, after its job has gone its own way.
    pub fn count_lost(&self, job: &mut Job, ended: &Ended) {
        // A job that is held or over is not held once more.
        let verdict = match self.verdict(job, ended) {
            Verdict::Over | Verdict::Held => Verdict::Restarted,
            again => again,
        };
        let until = job.retries.not_before_ms;
        count(job, verdict, ended, until);
    }
}

/// A pending job that has lost too much by what has become known meanwhile is held.
pub(super) fn hold_if_suspect(job: &mut Job) -> Result<(), Refusal> {
    if job.state == JobState::Pending && job.retries.losses >= POISON_LOSSES {
        advance(job, JobState::Held)?;
        job.retries.hold = Some(HoldReason::SuspectedPoison);
    }
    Ok(())
}

/// A person looked at it: everything that was held against the job and its nodes is forgotten.
pub(super) fn forgive(job: &mut Job) {
    job.infrastructure_restarts = 0;
    job.retries = Retries::default();
}

/// For the records of a job that is ended while it waits: nothing holds it any more.
pub(super) fn release(job: &mut Job) {
    job.retries.hold = None;
    job.turn.hold = None;
}

#[cfg(test)]
#[path = "failures_tests.rs"]
mod tests;
