//! Withdraw: what is kept for some jobs is kept no longer: they are gone, fit elsewhere, or what was kept is lost. Who was told to end for them ends all
//! the same, and waits again: it has the first claim on its devices, by its place in the queue.
use mlctl_proto::errors::Refusal;
use mlctl_proto::ids::JobId;

use super::{Context, holds};
use crate::state::change::Change;
use crate::state::records::Reply;

/// Nothing is kept for these jobs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdraw {
    /// Those for which nothing is kept are passed over.
    pub jobs: Vec<JobId>,
}

impl Withdraw {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        for job in &self.jobs {
            holds::release(change, *job, context.now_ms);
        }
        Ok(Reply::Done)
    }
}
