//! Under which conditions a job seeks a place, as numbers: jobs with the same one may go to the same nodes, so that what finds no place for one finds none for another.
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::state::view::ask::Gpus;
use crate::state::view::jobs::{Class, Waiting};

/// Numbers of conditions.
#[derive(Debug)]
pub struct Numbers {
    owners: bool,
    windows: bool,
    known: BTreeMap<Key, u32>,
}

type Key = (
    Option<Arc<str>>,
    Option<Arc<str>>,
    bool,
    Option<(Class, Option<u64>)>,
    Option<u64>,
);

impl Numbers {
    /// Whether nodes have owners, and windows: what no node cares about distinguishes nobody.
    pub fn new(owners: bool, windows: bool) -> Self {
        Self {
            owners,
            windows,
            known: BTreeMap::new(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// The number of a job's conditions.
    pub fn of(&mut self, job: &Waiting) -> u32 {
        let shares = matches!(job.ask.gpus, Gpus::Share(_));
        let alone = !job.avoid.is_empty() || !job.rank_0.is_empty();
        let team = (self.owners || shares).then(|| job.team.clone());
        let user = shares.then(|| job.user.clone());
        if !(self.owners || self.windows || shares || alone) {
            return 0;
        }
        let span = (self.windows && !job.preemptible).then_some((job.class, job.limit_ms));
        let key = (
            team,
            user,
            (self.owners || self.windows) && job.preemptible,
            span,
            alone.then_some(job.submit_index),
        );
        let next = u32::try_from(self.known.len() + 1).unwrap_or(u32::MAX);
        *self.known.entry(key).or_insert(next)
    }
}
