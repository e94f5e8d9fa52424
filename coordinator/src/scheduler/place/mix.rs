//! What was asked for so far: how often each class of asks came, of the most frequent ones. It says which free parts of nodes are of use to somebody, and
//! is all that the placement knows of what may come. Does NOT know anything of asks that have not come yet.
use std::collections::BTreeMap;

use crate::state::view::amounts::Amounts;
use crate::state::view::ask::{Ask, Gpus, Kind};
use crate::state::view::scene::Scene;

/// At most so many classes are kept.
pub const CLASSES_MAX: usize = 64;

/// What of an ask says where it fits: one node's part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub gpus: Gpus,
    pub amounts: Option<Amounts>,
    pub kinds: Vec<Kind>,
    pub pools: Vec<String>,
}

/// Counts per class of asks, of at most [`CLASSES_MAX`] classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mix {
    counts: BTreeMap<Shape, u64>,
}

impl Mix {
    /// Of all jobs of a scene: those that wait and those that run.
    pub fn of(scene: &Scene) -> Self {
        let mut mix = Self::default();
        for running in scene.running.values() {
            mix.see(&running.ask);
        }
        for waiting in scene.waiting.values() {
            mix.see(&waiting.ask);
        }
        mix
    }

    /// One more came. Jobs without GPUs are passed over: what is free of GPUs is of no use to them.
    ///
    /// If there are too many classes, the new one takes the place of the rarest and inherits its count ("space saving": Metwally et al., ICDT'05), so that
    /// a class which comes often is always found among those kept.
    pub fn see(&mut self, ask: &Ask) {
        if matches!(ask.gpus, Gpus::None | Gpus::Mig { .. }) {
            return;
        }
        let parts = u64::from(ask.nodes.least());
        let shape = Shape {
            gpus: ask.gpus,
            amounts: ask.amounts,
            kinds: ask.kinds.clone(),
            pools: ask.pools.clone(),
        };
        if let Some(count) = self.counts.get_mut(&shape) {
            *count = count.saturating_add(parts);
            return;
        }
        let mut inherited = 0;
        if self.counts.len() >= CLASSES_MAX {
            let rarest = self.counts.iter().min_by_key(|(_, count)| **count);
            if let Some((rarest, count)) = rarest.map(|(one, count)| (one.clone(), *count)) {
                self.counts.remove(&rarest);
                inherited = count;
            }
        }
        self.counts.insert(shape, inherited.saturating_add(parts));
    }

    /// Whether nothing came yet.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Each class with its count.
    pub(super) fn classes(&self) -> impl Iterator<Item = (&Shape, u64)> {
        self.counts.iter().map(|(shape, count)| (shape, *count))
    }
}
