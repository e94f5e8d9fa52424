//! I2': no result, completion or checkpoint of a closed epoch is ever accepted; what is accepted was really so; a node says
//! that it holds nothing only when that is true; a superseded attempt is stopped soon after its node is back.
//! Does NOT believe any core: it is told by the world what ranks really did.

use std::collections::{BTreeMap, BTreeSet};

use mlctl_coordinator::state::State;
use mlctl_coordinator::state::records::{AllocationPhase, Attempt, Checkpoint, EndKind, Job};
use mlctl_proto::ids::{Epoch, JobId};

use super::{Checked, ensure};

/// (job, epoch).
pub type Key = (JobId, Epoch);

/// A superseded attempt is stopped within this once its node can be spoken with, milliseconds.
const STOPPED_WITHIN_MS: u64 = 2_000;

/// How a rank really ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RankFate {
    /// The rank.
    pub rank: u32,
    /// Its exit code.
    pub code: i32,
    /// The signal that ended it, 0: none.
    pub signal: i32,
}

/// What ranks really did.
#[derive(Debug, Default)]
pub struct ClosedEpochs {
    /// How the ranks of an attempt ended, and where.
    fates: BTreeMap<Key, BTreeSet<(String, RankFate)>>,
    alive: BTreeMap<(String, Key), u32>,
    /// The highest epoch of each job whose ranks ever ran on a node.
    begun: BTreeMap<(String, JobId), Epoch>,
    /// Since when an attempt that still runs on a node should not.
    stale_since: BTreeMap<(String, Key), u64>,
}

impl ClosedEpochs {
    /// `count` ranks of an attempt begin to run on `node`. `state` is the furthest that is committed.
    ///
    /// # Errors
    /// When no committed entry assigned it there, or a later epoch of the job has run there before.
    pub fn ranks_started(&mut self, state: &State, node: &str, key: Key, count: u32) -> Checked {
        let (job, epoch) = key;
        self.alive.insert((node.to_owned(), key), count);
        let attempt = state.attempt(job, epoch);
        let assigned =
            attempt.is_some_and(|attempt| attempt.allocations.iter().any(|one| one.node == node));
        ensure(assigned, "I2'", || {
            format!("job {job} epoch {epoch} runs on {node}, but nothing committed says so")
        })?;
        let begun = self.begun.entry((node.to_owned(), job)).or_insert(epoch);
        let takes_over = state.in_doubt(job).is_none_or(|other| other.epoch == epoch);
        let newest = *begun;
        *begun = newest.max(epoch);
        ensure(takes_over, "I2'", || {
            format!("job {job} epoch {epoch} runs on {node} while the one before it is in doubt")
        })?;
        ensure(newest <= epoch, "I2'", || {
            format!("job {job} epoch {epoch} runs on {node} after epoch {newest} did")
        })
    }

    /// A rank ended.
    pub fn rank_ended(&mut self, node: &str, key: Key, fate: RankFate) {
        let fates = self.fates.entry(key).or_default();
        fates.insert((node.to_owned(), fate));
        if let Some(alive) = self.alive.get_mut(&(node.to_owned(), key)) {
            *alive = alive.saturating_sub(1);
        }
    }

    /// One more task of an array runs where others of its wave ran.
    pub fn task_started(&mut self, node: &str, key: Key) {
        *self.alive.entry((node.to_owned(), key)).or_default() += 1;
    }

    /// Whether a task of an array exited 0, in any wave.
    pub fn task_succeeded(&self, job: JobId, index: u32) -> bool {
        let (first, last) = (Epoch::new(0, 0), Epoch::new(u32::MAX, u64::MAX));
        let mut fates = self.fates.range((job, first)..=(job, last));
        let good = |fate: &RankFate| (fate.rank, fate.code, fate.signal) == (index, 0, 0);
        fates.any(|(_, fates)| fates.iter().any(|(_, fate)| good(fate)))
    }

    /// All processes of an attempt on `node` are gone at once.
    pub fn vanished(&mut self, node: &str, key: Key) {
        self.alive.remove(&(node.to_owned(), key));
    }

    /// How many ranks of an attempt exited 0.
    pub fn succeeded(&self, key: Key) -> usize {
        let good = |(_, fate): &&(String, RankFate)| (fate.code, fate.signal) == (0, 0);
        let fates = self.fates.get(&key);
        fates.map_or(0, |fates| fates.iter().filter(good).count())
    }

    /// One command took `before` to `after` and changed `jobs`.
    ///
    /// # Errors
    /// With the first thing that was accepted and should not have been.
    pub fn step(&self, before: &State, after: &State, jobs: &[JobId]) -> Checked {
        for id in jobs {
            let (Some(new), old) = (after.job(*id), before.job(*id)) else {
                continue;
            };
            self.checkpoints(old.map(AsRef::as_ref), new)?;
            for attempt in after.attempts_of(*id) {
                let earlier = before.attempt(*id, attempt.epoch);
                if earlier.is_some_and(|earlier| earlier == attempt) {
                    continue;
                }
                let closed = earlier.is_some_and(|earlier| earlier.closed());
                // The waves of an array are all current until they close.
                let current = new.epoch() == Some(attempt.epoch) || new.array.is_some();
                let open = !closed && (current || only_ends(earlier.map(AsRef::as_ref), attempt));
                ensure(open, "I2'", || {
                    format!(
                        "job {id}: something was accepted for the closed epoch {}",
                        attempt.epoch
                    )
                })?;
                self.attempt(earlier.map(AsRef::as_ref), attempt)?;
                self.tasks(earlier.map(AsRef::as_ref), attempt, new)?;
            }
        }
        Ok(())
    }

    /// New bytes are of the current epoch; who holds what was accepted in time may change.
    fn checkpoints(&self, old: Option<&Job>, new: &Job) -> Checked {
        let part = |one: &Checkpoint| -> Vec<_> {
            let parts = one.parts.iter();
            parts.map(|part| (part.index, part.manifest)).collect()
        };
        let known = |one: &Checkpoint| {
            let mut before = old.iter().flat_map(|old| &old.checkpoints);
            before.any(|was| {
                let was_parts = part(was);
                let same = (was.epoch, &was.name) == (one.epoch, &one.name);
                same && part(one).iter().all(|part| was_parts.contains(part))
            })
        };
        for one in new.checkpoints.iter().filter(|one| !known(one)) {
            ensure(new.epoch() == Some(one.epoch), "I2'", || {
                let (id, name, epoch) = (new.id, &one.name, one.epoch);
                format!("job {id}: checkpoint {name} of the closed epoch {epoch} was accepted")
            })?;
        }
        Ok(())
    }

    fn attempt(&self, old: Option<&Attempt>, new: &Attempt) -> Checked {
        let (id, epoch) = (new.job, new.epoch);
        for (position, allocation) in new.allocations.iter().enumerate() {
            let node = &allocation.node;
            let earlier = old.and_then(|old| old.allocations.get(position));
            for exit in &allocation.exits {
                let fate = RankFate {
                    rank: exit.rank,
                    code: exit.code,
                    signal: exit.signal,
                };
                let fates = self.fates.get(&(id, epoch));
                let real = fates.is_some_and(|fates| fates.contains(&(node.clone(), fate)));
                ensure(real, "I2'", || {
                    format!(
                        "job {id} epoch {epoch}: {node} never saw {fate:?}, but it was accepted"
                    )
                })?;
            }
            let ends_now = allocation.phase == AllocationPhase::Ended
                && earlier.is_none_or(|earlier| earlier.phase != AllocationPhase::Ended);
            let by_word = allocation
                .end
                .as_ref()
                .is_some_and(|end| end.kind != EndKind::NodeLost);
            if ends_now && by_word {
                let alive = self.alive.get(&(node.clone(), (id, epoch)));
                let alive = alive.copied().unwrap_or(0);
                ensure(alive == 0, "I2'", || {
                    format!(
                        "job {id} epoch {epoch}: {node} said that it holds nothing, but {alive} ranks run there"
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Ends of tasks that were accepted were real, on that node and in that epoch.
    fn tasks(&self, old: Option<&Attempt>, new: &Attempt, job: &Job) -> Checked {
        let before = old.and_then(|old| old.wave.as_ref());
        let (Some(before), Some(after), Some(array)) = (before, &new.wave, &job.array) else {
            return Ok(());
        };
        let fates = self.fates.get(&(new.job, new.epoch));
        let node = new.allocations.first().map_or("", |one| &one.node);
        for index in before.left.minus(&after.left).iter() {
            let mut groups = array.ended.iter();
            let group = groups.find(|group| group.tasks.contains(index));
            let real = group.zip(fates).is_some_and(|(group, fates)| {
                fates.iter().any(|(at, fate)| {
                    at == node && fate.rank == index && (fate.code, fate.signal) == (group.code, 0)
                })
            });
            ensure(real, "I2'", || {
                let (job, epoch) = (new.job, new.epoch);
                format!(
                    "job {job} epoch {epoch}: {node} never saw task {index} end so, but it was accepted"
                )
            })?;
        }
        Ok(())
    }

    /// Looks at an attempt whose ranks run on `node` and that nobody has told to stop. `quiet_since`: since when the node and
    /// its leader speak with each other undisturbed; `None` while they do not.
    ///
    /// # Errors
    /// When it should have been stopped by now.
    pub fn runs(
        &mut self,
        state: &State,
        node: &str,
        key: Key,
        quiet_since: Option<u64>,
        now: u64,
    ) -> Checked {
        let entry = (node.to_owned(), key);
        if !stale(state, node, key) {
            self.stale_since.remove(&entry);
            return Ok(());
        }
        let since = *self.stale_since.entry(entry).or_insert(now);
        let late = quiet_since.is_some_and(|quiet| now > quiet.max(since) + STOPPED_WITHIN_MS);
        ensure(!late, "I2'", || {
            let (job, epoch) = key;
            format!("job {job} epoch {epoch} is over and still runs on {node}, which is connected")
        })
    }
}

/// Whether an attempt that is not the current one does nothing but end: superseded, or dropped before it ran.
fn only_ends(old: Option<&Attempt>, new: &Attempt) -> bool {
    let kinds = [EndKind::NodeLost, EndKind::Superseded];
    let ends = new.end.as_ref();
    old.is_some_and(|old| {
        let pairs = old.allocations.iter().zip(&new.allocations);
        let quiet = pairs.clone().all(|(old, new)| old.exits == new.exits);
        quiet && (old.end == new.end || ends.is_some_and(|end| kinds.contains(&end.kind)))
    })
}

/// Whether `node` should not run this attempt (any more).
fn stale(state: &State, node: &str, (job, epoch): Key) -> bool {
    let record = state.job(job);
    let array = record.is_some_and(|job| job.array.is_some());
    let current = record.and_then(|job| job.epoch());
    let attempt = state.attempt(job, epoch);
    let held = attempt.is_some_and(|attempt| {
        let mut own = attempt.allocations.iter().filter(|one| one.node == node);
        !attempt.stopping && own.any(|one| one.phase != AllocationPhase::Ended)
    });
    (current != Some(epoch) && !array) || !held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_state_does_not_know_is_to_be_stopped_in_time() {
        let key = (JobId::new(1, 1), Epoch::new(1, 1));
        let check = |quiet_since, now| {
            let mut epochs = ClosedEpochs::default();
            let first = epochs.runs(&State::new(), "n1", key, quiet_since, 1_000);
            first.and_then(|()| epochs.runs(&State::new(), "n1", key, quiet_since, now))
        };
        assert!(check(Some(0), 3_000).is_ok());
        assert!(check(Some(0), 3_001).is_err());
        assert!(check(Some(2_000), 3_001).is_ok());
        assert!(check(None, 90_000).is_ok());
    }

    #[test]
    fn nothing_runs_that_was_not_committed() {
        let key = (JobId::new(1, 1), Epoch::new(1, 1));
        let started = ClosedEpochs::default().ranks_started(&State::new(), "n1", key, 1);
        assert!(started.is_err());
    }

    #[test]
    fn only_ranks_that_exited_0_succeeded() {
        let key = (JobId::new(1, 1), Epoch::new(1, 1));
        let mut epochs = ClosedEpochs::default();
        for (rank, code, signal) in [(0, 0, 0), (1, 1, 0), (2, 0, 9)] {
            epochs.rank_ended("n1", key, RankFate { rank, code, signal });
        }
        assert_eq!(epochs.succeeded(key), 1);
        assert_eq!(epochs.succeeded((key.0, Epoch::new(1, 2))), 0);
    }
}
