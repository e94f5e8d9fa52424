//! What was asked for so far: how often each class of asks came, of the most frequent ones. It says which free parts of nodes are of use to somebody, and
//! is all that the placement knows of what may come. Does NOT know anything of asks that have not come yet.
use std::cmp::Ordering;

use crate::state::view::amounts::Amounts;
use crate::state::view::ask::{Ask, Gpus, Kind};
use crate::state::view::scene::Scene;

/// At most so many classes are kept.
pub const CLASSES_MAX: usize = 256;

/// What of an ask says where it fits: one node's part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub gpus: Gpus,
    pub amounts: Option<Amounts>,
    pub kinds: Vec<Kind>,
    pub pools: Vec<String>,
}

impl Shape {
    fn compare(&self, ask: &Ask) -> Ordering {
        (self.gpus, self.amounts)
            .cmp(&(ask.gpus, ask.amounts))
            .then_with(|| self.kinds.cmp(&ask.kinds))
            .then_with(|| self.pools.cmp(&ask.pools))
    }
}

/// Counts per class of asks, of at most [`CLASSES_MAX`] classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mix {
    /// Sorted.
    counts: Vec<(Shape, u64)>,
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
        let at = match self
            .counts
            .binary_search_by(|(shape, _)| shape.compare(ask))
        {
            Ok(at) => {
                let count = &mut self.counts[at].1;
                *count = count.saturating_add(parts);
                return;
            }
            Err(at) => at,
        };
        let shape = Shape {
            gpus: ask.gpus,
            amounts: ask.amounts,
            kinds: ask.kinds.clone(),
            pools: ask.pools.clone(),
        };
        self.counts.insert(at, (shape, parts));
        if self.counts.len() > CLASSES_MAX {
            let others = self
                .counts
                .iter()
                .enumerate()
                .filter(|(place, _)| *place != at);
            let rarest = others
                .min_by_key(|(_, (_, count))| *count)
                .map(|(place, _)| place);
            if let Some(rarest) = rarest {
                let inherited = self.counts[rarest].1;
                self.counts[at].1 = parts.saturating_add(inherited);
                self.counts.remove(rarest);
            }
        }
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
