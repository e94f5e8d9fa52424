//! How long jobs that are over ran, by owner and size: the scheduler guesses the length of the next one from them. An index over the jobs in the tables,
//! kept by their hook; nothing of it is replicated. Does NOT guess.
use std::sync::Arc;

use imbl::OrdMap;
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::scene::HistoryKey;
use crate::state::records::{Job, JobState};

/// Of each owner and size the newest so many count.
const NEWEST_MAX: usize = 256;

/// All of them. A clone is cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lengths {
    /// By key: when each ended, and how long it ran.
    ended: OrdMap<HistoryKey, OrdMap<(UtcMs, JobId), u64>>,
    /// By key: the newest, ascending.
    sorted: OrdMap<HistoryKey, Arc<Vec<u64>>>,
}

impl Lengths {
    /// By key, milliseconds, ascending.
    pub fn sorted(&self) -> &OrdMap<HistoryKey, Arc<Vec<u64>>> {
        &self.sorted
    }

    /// Hook of the jobs; `units`: of all its GPUs. What a person ended says nothing of how long it would have run.
    pub fn job(&mut self, old: Option<&Job>, new: Option<&Job>, units: u64) {
        let tells = |job: &&Job| {
            let by_itself = job.state.terminal() && job.state != JobState::Cancelled;
            by_itself && job.turn.ran_ms > 0
        };
        let entry = |job: &Job| ((job.ended_ms, job.id), job.turn.ran_ms);
        let (was, is) = (old.filter(tells).map(entry), new.filter(tells).map(entry));
        let Some(owner) = new.or(old).map(|job| job.owner_id.as_str()) else {
            return;
        };
        if was == is {
            return;
        }
        let key = (Arc::from(owner), units);
        let mut ended = self.ended.get(&key).cloned().unwrap_or_default();
        if let Some((at, _)) = was {
            ended.remove(&at);
        }
        if let Some((at, ran_ms)) = is {
            ended.insert(at, ran_ms);
        }
        if ended.is_empty() {
            self.ended.remove(&key);
            self.sorted.remove(&key);
            return;
        }
        let newest = ended.iter().rev().take(NEWEST_MAX);
        let mut sorted: Vec<u64> = newest.map(|(_, ran_ms)| *ran_ms).collect();
        sorted.sort_unstable();
        self.sorted.insert(key.clone(), Arc::new(sorted));
        self.ended.insert(key, ended);
    }
}
