//! I1, I9: what a client was told is done is there, on every member that has applied that far, for ever. One key, one job.
//! Does NOT look at jobs that nobody was told of.

use std::collections::{BTreeMap, BTreeSet};

use mlctl_coordinator::state::State;
use mlctl_proto::ids::JobId;

use super::{Checked, History, ensure};

/// What clients were told.
#[derive(Debug, Default)]
pub struct Acknowledged {
    by_key: BTreeMap<[u8; 16], JobId>,
    makers: BTreeMap<JobId, [u8; 16]>,
    /// Job to the index of its answer.
    jobs: BTreeMap<JobId, u64>,
    /// Those of `jobs` that were not over when they were last looked at.
    open: BTreeSet<JobId>,
    cancels: BTreeMap<JobId, u64>,
}

impl Acknowledged {
    /// A client was told that its request `key` made `job`, at `index`.
    ///
    /// # Errors
    /// When the same key made another job, or another key the same one.
    pub fn submitted(&mut self, key: [u8; 16], job: JobId, index: u64) -> Checked {
        let known = *self.by_key.entry(key).or_insert(job);
        ensure(known == job, "I1", || {
            format!("one request made the jobs {known} and {job}")
        })?;
        if self.jobs.insert(job, index).is_none() {
            self.open.insert(job);
        }
        let maker = *self.makers.entry(job).or_insert(key);
        ensure(maker == key, "I1", || {
            format!("two requests were answered with job {job}")
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
    pub fn check(&self, state: &State, history: &History) -> Checked {
        let here = |index: &u64| *index <= state.applied_index();
        for (job, index) in self.jobs.iter().filter(|(_, index)| here(index)) {
            let kept = state.job(*job).is_some() || history.holds(*job);
            ensure(kept, "I1", || {
                format!("job {job} was acknowledged at index {index} and is gone")
            })?;
        }
        for (job, index) in self.cancels.iter().filter(|(_, index)| here(index)) {
            let ends = state.job(*job).map_or_else(
                || history.holds(*job),
                |job| job.cancel_requested || job.state.terminal(),
            );
            ensure(ends, "I1", || {
                format!("the cancel of job {job} was acknowledged at index {index} and is gone")
            })?;
        }
        Ok(())
    }

    /// How many jobs clients were told of.
    pub fn count(&self) -> usize {
        self.jobs.len()
    }

    /// The jobs that clients were told of and that are not over in `state`, each with where it is.
    pub fn unfinished(&mut self, state: &State, history: &History) -> Vec<(JobId, &'static str)> {
        let over = |id: &JobId| {
            let ended = state.job(*id).map(|job| job.state.terminal());
            ended.unwrap_or_else(|| history.holds(*id))
        };
        self.open.retain(|id| !over(id));
        let open = self.open.iter();
        let place = |id: &JobId| state.job(*id).map_or("gone", |job| job.state.word());
        open.map(|id| (*id, place(id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_remembered() {
        let (one, two) = (JobId::new(1, 1), JobId::new(1, 2));
        let (mut told, history) = (Acknowledged::default(), History::default());
        assert!(told.submitted([1; 16], one, 3).is_ok());
        assert!(
            told.submitted([1; 16], one, 9).is_ok(),
            "the same answer twice"
        );
        assert!(told.submitted([1; 16], two, 9).is_err());
        assert!(told.submitted([2; 16], one, 9).is_err());
        let mut state = State::new();
        assert!(
            told.check(&state, &history).is_ok(),
            "it has not come that far"
        );
        state.skip(20);
        assert!(told.check(&state, &history).is_err());
        assert_eq!(
            told.unfinished(&state, &history),
            [(one, "gone")],
            "what is nowhere is not over"
        );
    }
}
