//! HoldJobs: a person says that jobs which wait shall not start. What runs goes on. An admin's hold of somebody else's job is only an admin's to release.
use mlctl_proto::errors::{Code, Refusal};

use super::selection::Selection;
use super::{Context, bounded};
use crate::state::change::Change;
use crate::state::records::{Hold, Job, JobState, Reply};
use crate::state::transition::advance;

/// The longest reason, bytes.
const WHY_BYTES_MAX: usize = 256;

/// Which jobs shall not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldJobs {
    /// Which.
    pub which: Selection,
    /// Why, for people; may be empty.
    pub why: String,
}

impl HoldJobs {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_person()?;
        if !self.why.is_empty() {
            bounded("the reason", &self.why, WHY_BYTES_MAX)?;
        }
        let act = |change: &mut Change, job: Job| hold(change, job, &self.why, context);
        self.which.each(change, context, act)
    }
}

/// A hold by whoever asks.
pub(super) fn by(job_owner: &str, why: &str, context: &Context) -> Hold {
    let actor = context.actor;
    Hold {
        user_id: actor.user_id.clone(),
        name: actor.name.clone(),
        admin: actor.admin && actor.user_id != job_owner,
        since_ms: context.now_ms,
        why: why.into(),
    }
}

fn hold(change: &mut Change, mut job: Job, why: &str, context: &Context) -> Result<bool, Refusal> {
    let conflict = |why: String| Err(Refusal::new(Code::Conflict, why));
    if !matches!(job.state, JobState::Pending | JobState::Held) {
        return conflict(format!(
            "job {} is {}: only what waits can be held; `mlctl cancel {}` ends what runs",
            job.id,
            job.state.word(),
            job.id
        ));
    }
    if change.state().in_doubt(job.id).is_some() {
        return conflict(format!(
            "job {} may still run on a node that is silent: wait until that is known, or cancel it",
            job.id
        ));
    }
    let hold = by(&job.owner_id, why, context);
    if job
        .turn
        .hold
        .as_ref()
        .is_some_and(|held| held.admin || !hold.admin)
    {
        return Ok(false);
    }
    job.turn.hold = Some(hold);
    if job.state == JobState::Pending {
        advance(&mut job, JobState::Held)?;
    }
    change.put_job(job);
    change.replan();
    Ok(true)
}

#[cfg(test)]
#[path = "hold_jobs_tests.rs"]
mod tests;
