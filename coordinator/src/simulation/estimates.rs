//! How long jobs of one owner and width ran, from ended jobs only: what a planner may guess from. Does NOT guess.
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use imbl::OrdMap;
use mlctl_proto::units::UtcMs;

use crate::state::view::scene::HistoryKey;

/// The newest ends of each key.
#[derive(Debug, Default)]
pub struct Estimates {
    /// How far back it looks, milliseconds.
    window_ms: u64,
    /// How many it keeps of each key.
    most: usize,
    ended: BTreeMap<HistoryKey, VecDeque<(UtcMs, u64)>>,
}

impl Estimates {
    /// Of ends at most `window_ms` ago, at most `most` a key.
    pub fn new(window_ms: u64, most: usize) -> Self {
        Self {
            window_ms,
            most,
            ended: BTreeMap::new(),
        }
    }

    /// A job has ended that ran so long: `histories` follow.
    pub fn ended(
        &mut self,
        key: HistoryKey,
        now: UtcMs,
        ran_ms: u64,
        histories: &mut OrdMap<HistoryKey, Arc<Vec<u64>>>,
    ) {
        if self.window_ms == 0 {
            return;
        }
        let newest = self.ended.entry(key.clone()).or_default();
        let known = histories.entry(key).or_default();
        let sorted = Arc::make_mut(known);
        newest.push_back((now, ran_ms));
        let place = sorted.partition_point(|one| *one < ran_ms);
        sorted.insert(place, ran_ms);
        let from = now.saturating_sub(i64::try_from(self.window_ms).unwrap_or(i64::MAX));
        while let Some((at, _)) = newest.front()
            && (*at < from || newest.len() > self.most)
        {
            if let Some((_, old)) = newest.pop_front()
                && let Ok(place) = sorted.binary_search(&old)
            {
                sorted.remove(place);
            }
        }
    }
}
