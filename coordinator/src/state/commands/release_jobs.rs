//! ReleaseJobs: a person lets jobs start that a person holds. Does NOT release what is held because it may be what kills nodes: a retry does.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;

use super::Context;
use super::selection::Selection;
use crate::state::change::Change;
use crate::state::records::{Job, JobState, Reply};
use crate::state::transition::advance;

/// Which jobs may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseJobs {
    /// Which.
    pub which: Selection,
}

impl ReleaseJobs {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_person()?;
        let act = |change: &mut Change, job: Job| release(change, job, context);
        self.which.each(change, context, act)
    }
}

fn release(change: &mut Change, mut job: Job, context: &Context) -> Result<bool, Refusal> {
    let Some(hold) = job.turn.hold.take() else {
        let why = match job.state {
            JobState::Held => format!(
                "job {} is held because nodes or devices failed under it: look at it, then `mlctl retry {}`",
                job.id, job.id
            ),
            state => format!("job {} is {}, not held", job.id, state.word()),
        };
        return Err(Refusal::new(Code::Conflict, why));
    };
    if hold.admin && !context.actor.admin {
        let why = format!(
            "job {} is held by {}, an admin: ask them",
            job.id,
            clip(&hold.name)
        );
        return Err(Refusal::new(Code::Denied, why));
    }
    // It may be held for another reason too.
    if job.retries.hold.is_none() {
        advance(&mut job, JobState::Pending)?;
    }
    change.put_job(job);
    change.replan();
    Ok(true)
}
