//! Attempts whose time is over: their keepers count by themselves, and say so when they end the ranks.

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::EndKind;

use super::Core;
use super::types::Stop;

impl Core {
    /// The keeper ended the ranks because of the job's time limit. What had ended it before stays the reason.
    pub(super) fn on_timed_out(&mut self, job: JobId, epoch: Epoch, why: &str) {
        let Some(attempt) = self.connected((job, epoch)) else {
            return;
        };
        if attempt.stop.is_none() && attempt.first_failure.is_none() {
            attempt.stop = Some(Stop {
                reason: EndKind::TimedOut,
                // The keeper knows when it kills; whoever wants that sooner says so.
                grace_ms: u32::MAX,
                why: why.to_owned(),
            });
            // The cluster learns now that the ranks have their last chance to save.
            self.link.next_heartbeat = 0;
        }
    }
}
