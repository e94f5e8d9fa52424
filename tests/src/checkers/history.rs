//! A job leaves the tables only when it is over, and lies in history as it was, once.
//! Does NOT read segments: what it looks at is the tail, in which every job begins its stay in history.

use std::collections::BTreeSet;

use mlctl_coordinator::state::{State, codec};
use mlctl_proto::ids::JobId;

use super::{Checked, ensure};

/// The jobs that were seen to leave.
#[derive(Debug, Default)]
pub struct History {
    left: BTreeSet<JobId>,
}

impl History {
    /// One entry took `before` to `after`.
    ///
    /// # Errors
    /// With the first job that left and should not have, or that lies in history as something else.
    pub fn step(&mut self, before: &State, after: &State) -> Checked {
        let next = before.next_seq();
        if after.next_seq() == next {
            return Ok(());
        }
        for batch in after.tail().filter(|batch| batch.first_seq >= next) {
            for (id, bytes) in &batch.jobs {
                ensure(self.left.insert(*id), "history", || {
                    format!("job {id} went into history twice")
                })?;
                let was = before.job(*id).filter(|job| job.state.terminal());
                let lies = codec::decode_archived(bytes).ok();
                let same = was
                    .zip(lies)
                    .is_some_and(|(was, lies)| **was == lies.job && after.job(*id).is_none());
                ensure(same, "history", || {
                    format!("job {id} was not over, or lies in history as another than it was")
                })?;
            }
        }
        Ok(())
    }

    /// Whether a job is in history.
    pub fn holds(&self, job: JobId) -> bool {
        self.left.contains(&job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_in_history_that_was_not_seen_to_leave() {
        let mut history = History::default();
        assert!(history.step(&State::new(), &State::new()).is_ok());
        assert!(!history.holds(JobId::new(1, 1)));
    }
}
