//! I1, I9: what a client was told is done is there, on every member that has applied that far, for ever. One key, one job.
//! Does NOT look at jobs that nobody was told of.

use std::collections::{BTreeMap, BTreeSet};

use mlctl_coordinator::state::State;
use mlctl_proto::ids::JobId;

use super::{Checked, ensure};

/// What clients were told.
#[derive(Debug, Default)]
pub struct Acknowledged {
    by_key: BTreeMap<[u8; 16], JobId>,
    /// What each key made, whoever was told.
    made: BTreeMap<[u8; 16], JobId>,
    /// Job to the index of its answer.
    jobs: BTreeMap<JobId, u64>,
    cancels: BTreeMap<JobId, u64>,
}

impl Acknowledged {
    /// Applying the request `key` was answered with `job`.
    ///
    /// # Errors
    /// When it was answered with another job before.
    pub fn made(&mut self, key: [u8; 16], job: JobId) -> Checked {
        let first = *self.made.entry(key).or_insert(job);
        ensure(first == job, "I9", || {
            format!("one request made the jobs {first} and {job}")
        })
    }

    /// A client was told that its request `key` made `job`, at `index`.
    ///
    /// # Errors
    /// When the same key made another job, or another key the same one.
    pub fn submitted(&mut self, key: [u8; 16], job: JobId, index: u64) -> Checked {
        let known = *self.by_key.entry(key).or_insert(job);
        ensure(known == job, "I1", || {
            format!("one request made the jobs {known} and {job}")
        })?;
        let first = self.jobs.insert(job, index).is_none();
        let makers = self.by_key.values().filter(|made| **made == job).count();
        ensure(makers == 1, "I1", || {
            format!("two requests were answered with job {job} (first answer: {first})")
        })
    }

    /// A client was told at `index` that `job` is being ended.
    pub fn cancelled(&mut self, job: JobId, index: u64) {
        self.cancels.entry(job).or_insert(index);
    }

    /// Whether everything that was said is true of `state`.
    ///
    /// # Errors
    /// With the first promise that is broken.
    pub fn check(&self, state: &State) -> Checked {
        let here = |index: &u64| *index <= state.applied_index();
        for (job, index) in self.jobs.iter().filter(|(_, index)| here(index)) {
            ensure(state.job(*job).is_some(), "I1", || {
                format!("job {job} was acknowledged at index {index} and is gone")
            })?;
        }
        for (job, index) in self.cancels.iter().filter(|(_, index)| here(index)) {
            let ends = state
                .job(*job)
                .is_some_and(|job| job.cancel_requested || job.state.terminal());
            ensure(ends, "I1", || {
                format!("the cancel of job {job} was acknowledged at index {index} and is gone")
            })?;
        }
        Ok(())
    }

    /// The jobs that clients were told of.
    pub fn jobs(&self) -> BTreeSet<JobId> {
        self.jobs.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_remembered() {
        let (one, two) = (JobId::new(1, 1), JobId::new(1, 2));
        let mut told = Acknowledged::default();
        assert!(told.submitted([1; 16], one, 3).is_ok());
        assert!(
            told.submitted([1; 16], one, 9).is_ok(),
            "the same answer twice"
        );
        assert!(told.submitted([1; 16], two, 9).is_err());
        assert!(told.submitted([2; 16], one, 9).is_err());
        assert!(told.made([3; 16], one).is_ok() && told.made([3; 16], one).is_ok());
        assert!(told.made([3; 16], two).is_err());
        let mut state = State::new();
        assert!(told.check(&state).is_ok(), "it has not come that far");
        state.skip(20);
        assert!(told.check(&state).is_err());
    }
}
