//! SupersedeAttempt: every node of a successor is ready, so the attempt in doubt before it ends here. Whatever its node says of it
//! later is refused. Only after this the successor is told to go.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};

use super::current::Current;
use super::{Context, in_doubt};
use crate::state::change::Change;
use crate::state::records::Reply;

/// A successor takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupersedeAttempt {
    /// The job.
    pub job: JobId,
    /// The successor.
    pub epoch: Epoch,
}

impl SupersedeAttempt {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        let current = Current::load(change, self.job, self.epoch, context.now_ms);
        let takes_over = |current: &Current| {
            let attempt = &current.attempt;
            !attempt.closed() && !attempt.stopping && !attempt.in_doubt
        };
        let Some(mut current) = current.filter(takes_over) else {
            let why = format!(
                "attempt {} of job {} takes over from nobody: it is not current, or is being ended",
                self.epoch, self.job
            );
            return Err(Refusal::new(Code::Conflict, why));
        };
        let why = format!("attempt {} took over while its node was silent", self.epoch);
        in_doubt::close(change, &mut current.job, context.now_ms, &why);
        change.put_job(current.job);
        Ok(Reply::Done)
    }
}
