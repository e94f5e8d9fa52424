//! PURE: which jobs wait a moment before they start again, because a node that is there has checkpoints of their last attempt of
//! which word has not been applied. Nothing on its way: nobody waits. Counts durations of one process.
use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::ids::JobId;
use mlctl_proto::limits::SALVAGE_MS;

use super::Note;
use crate::leader::gang::{Key, Report};
use crate::leader::liveness::Mono;
use crate::state::State;
use crate::state::records::{JobState, Timers};

/// What is on its way, and since when it is waited for.
#[derive(Debug)]
pub(super) struct Salvage {
    limit_ms: u64,
    /// By node: the newest event that announces a checkpoint, of each attempt that has one.
    moving: BTreeMap<String, BTreeMap<Key, u64>>,
    waits: BTreeMap<Key, Wait>,
}

#[derive(Debug)]
struct Wait {
    since: Mono,
    /// It was waited for long enough.
    over: bool,
}

impl Salvage {
    /// A cluster that gives nodes up sooner waits no longer than that.
    pub(super) fn new(timers: Timers) -> Self {
        Self {
            limit_ms: SALVAGE_MS.min(u64::from(timers.lost_after_ms)),
            moving: BTreeMap::new(),
            waits: BTreeMap::new(),
        }
    }

    /// All that is on its way from `node`. Answers whether anything was before.
    pub(super) fn said(&mut self, node: &str, reports: &[Report]) -> bool {
        let moving = reports.iter().filter(|report| report.moving_up_to > 0);
        let moving: BTreeMap<Key, u64> = moving
            .map(|report| (report.key, report.moving_up_to))
            .collect();
        let before = self.moving.remove(node).is_some();
        if !moving.is_empty() {
            self.moving.insert(node.to_owned(), moving);
        }
        before
    }

    /// Whether anything was on its way from `node` when it last spoke.
    pub(super) fn waits_for(&self, node: &str) -> bool {
        self.moving.contains_key(node)
    }

    /// When the first wait is over.
    pub(super) fn next(&self) -> Option<Mono> {
        let running = self.waits.values().filter(|wait| !wait.over);
        running.map(|wait| wait.since + self.limit_ms).min()
    }

    /// The jobs that shall not start yet, and what people should read.
    /// `incomplete`: parts of checkpoints are missing that these nodes can still give.
    pub(super) fn held(
        &mut self,
        now: Mono,
        state: &State,
        incomplete: &BTreeMap<Key, Vec<String>>,
    ) -> (BTreeSet<JobId>, Vec<Note>) {
        let mut wanted = wanted(&self.moving, state);
        for (key, nodes) in incomplete {
            let nodes = nodes.iter().map(String::as_str);
            wanted.entry(*key).or_default().extend(nodes);
        }
        let (mut held, mut notes) = (BTreeSet::new(), Vec::new());
        self.waits.retain(|key, wait| {
            let stays = wanted.contains_key(key);
            if !stays && !wait.over {
                let (key, in_time) = (*key, true);
                notes.push(Note::Salvaged { key, in_time });
            }
            stays
        });
        for (key, nodes) in wanted {
            let wait = self.waits.entry(key).or_insert_with(|| {
                let nodes = nodes.join(", ");
                notes.push(Note::Salvaging { key, nodes });
                Wait {
                    since: now,
                    over: false,
                }
            });
            if now < wait.since + self.limit_ms {
                held.insert(key.0);
            } else if !std::mem::replace(&mut wait.over, true) {
                let in_time = false;
                notes.push(Note::Salvaged { key, in_time });
            }
        }
        (held, notes)
    }
}

/// Last attempts of pending jobs of which something is on its way, and from which nodes.
fn wanted<'a>(
    moving: &'a BTreeMap<String, BTreeMap<Key, u64>>,
    state: &State,
) -> BTreeMap<Key, Vec<&'a str>> {
    let mut wanted: BTreeMap<Key, Vec<&str>> = BTreeMap::new();
    for (node, moving) in moving {
        let mark = state.node(node).map_or(0, |node| node.event_mark);
        let unapplied = moving.iter().filter(|(_, up_to)| **up_to > mark);
        for (key, _) in unapplied {
            let (job, epoch) = *key;
            let waits = state
                .job(job)
                .is_some_and(|job| job.state == JobState::Pending && job.epoch() == Some(epoch));
            if waits {
                wanted.entry(*key).or_default().push(node);
            }
        }
    }
    wanted
}
