//! Attempts that have a keeper on this node, as far as copies care: whose ranks must not be held up, and whose end is near.
//! Does NOT know whether ranks run (see `sight`) and ends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use mlctl_proto::ids::{Epoch, JobId};

use super::super::lock;

type Key = (JobId, Epoch);

/// All of them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::copies) struct Attempts(Arc<Mutex<BTreeMap<Key, Here>>>);

#[derive(Debug, Clone, Copy)]
struct Here {
    /// Its keeper's process.
    keeper: u32,
    /// Its ranks were told to end.
    ending: bool,
}

/// An attempt counts as being here until this is dropped.
#[derive(Debug)]
pub(crate) struct AttemptHere {
    attempts: Attempts,
    key: Key,
}

impl Attempts {
    /// This attempt has a keeper here.
    pub(in crate::copies) fn enter(&self, key: Key, keeper: u32) -> AttemptHere {
        let ending = false;
        lock(&self.0).insert(key, Here { keeper, ending });
        AttemptHere {
            attempts: self.clone(),
            key,
        }
    }

    /// The processes of their keepers.
    pub(in crate::copies) fn keepers(&self) -> BTreeSet<u32> {
        lock(&self.0).values().map(|here| here.keeper).collect()
    }

    /// An attempt of this job is being ended here: what it saves now is the last that it saves.
    pub(in crate::copies) fn is_ending(&self, job: JobId) -> bool {
        let here = lock(&self.0);
        let mut its = here.iter().filter(|((other, _), _)| *other == job);
        its.any(|(_, one)| one.ending)
    }
}

impl AttemptHere {
    /// Its ranks were told to end. It stays so.
    pub(crate) fn ends(&self) {
        if let Some(here) = lock(&self.attempts.0).get_mut(&self.key) {
            here.ending = true;
        }
    }
}

impl Drop for AttemptHere {
    fn drop(&mut self) {
        lock(&self.attempts.0).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_here_while_somebody_keeps_it() {
        let attempts = Attempts::default();
        let job = JobId::new(1, 7);
        let old = attempts.enter((job, Epoch::new(1, 1)), 10);
        let new = attempts.enter((job, Epoch::new(1, 2)), 20);
        assert_eq!(attempts.keepers(), BTreeSet::from([10, 20]));
        assert!(!attempts.is_ending(job));
        old.ends();
        assert!(attempts.is_ending(job) && !attempts.is_ending(JobId::new(1, 8)));
        drop(old);
        assert!(!attempts.is_ending(job), "the new one runs");
        assert_eq!(attempts.keepers(), BTreeSet::from([20]));
        drop(new);
        assert!(attempts.keepers().is_empty());
    }
}
