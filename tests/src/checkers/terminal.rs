//! I4: a job reaches one terminal state and never leaves it; Completed means that every rank of its last epoch exited 0.
//! Does NOT ask when: `liveness` does.

use mlctl_coordinator::state::State;
use mlctl_coordinator::state::records::{AllocationPhase, Job, JobState};
use mlctl_proto::ids::JobId;

use super::{Checked, ClosedEpochs, ensure};

/// How jobs end.
#[derive(Debug, Default)]
pub struct Terminal {
    ended: u64,
}

impl Terminal {
    /// One command took `before` to `after` and changed `jobs`. `truth` knows what the ranks really did.
    ///
    /// # Errors
    /// With the first job that ended wrongly.
    pub fn step(
        &mut self,
        before: &State,
        after: &State,
        jobs: &[JobId],
        truth: &ClosedEpochs,
    ) -> Checked {
        for id in jobs {
            let Some(new) = after.job(*id) else {
                return ensure(false, "I4", || format!("job {id} disappeared"));
            };
            let old = before.job(*id).filter(|old| old.state.terminal());
            if let Some(old) = old {
                let same = (old.state, &old.outcome, old.ended_ms)
                    == (new.state, &new.outcome, new.ended_ms);
                ensure(same, "I4", || {
                    let (was, is) = (old.state.word(), new.state.word());
                    format!("job {id} was {was} and is {is}, or its outcome changed")
                })?;
            } else if new.state.terminal() {
                self.ended += 1;
                completes(after, new, truth)?;
            }
        }
        Ok(())
    }

    /// Jobs that reached their end.
    pub fn ended(&self) -> u64 {
        self.ended
    }
}

fn completes(state: &State, job: &Job, truth: &ClosedEpochs) -> Checked {
    if job.state != JobState::Completed {
        return Ok(());
    }
    let id = job.id;
    if let Some(array) = &job.array {
        let missing = array
            .tasks
            .iter()
            .find(|task| !truth.task_succeeded(id, *task));
        return ensure(missing.is_none(), "I4", || {
            format!("job {id} completed, but its task {missing:?} never exited 0")
        });
    }
    let each = state.request(job).map_or(0, |request| request.ranks);
    let world = state.width(job).saturating_mul(each);
    let Some(attempt) = state.current_attempt(job) else {
        return ensure(false, "I4", || {
            format!("job {id} completed without an attempt")
        });
    };
    let all_ended = attempt
        .allocations
        .iter()
        .all(|one| one.phase == AllocationPhase::Ended);
    ensure(all_ended, "I4", || {
        format!("job {id} completed while it still held something")
    })?;
    let good = truth.succeeded((id, attempt.epoch));
    ensure(good == world as usize, "I4", || {
        let epoch = attempt.epoch;
        format!("job {id} completed, but {good} of {world} ranks of epoch {epoch} exited 0")
    })
}
