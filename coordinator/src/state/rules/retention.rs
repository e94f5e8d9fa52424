//! Which checkpoints of a job may go: all that no rule of its spec keeps. Never the newest, never the newest that is durable, never the next that can
//! become so, never the newest that is uploaded, never the next that can become so, never one that an attempt resumes from, never one that a person
//! pinned.
//! Does NOT remove anything.
use std::collections::BTreeSet;

use mlctl_proto::limits::CHECKPOINTS_PER_JOB_MAX;
use mlctl_proto::spec::{CheckpointSpec, KeepEvery};

use crate::state::State;
use crate::state::records::{Checkpoint, Job};

use super::resume::lives;
use super::{Request, living_copies, resumed_from};

/// So many of those that are not whole may still become so: of older ones some part will never come.
const GROWING_MAX: usize = 8;

/// What a job's spec says of its checkpoints; the defaults where it says nothing.
pub fn checkpoint_rules(state: &State, job: &Job) -> CheckpointSpec {
    let spec = state.spec(&job.spec_hash);
    let spec = spec.and_then(|spec| Request::spec(&spec.json).ok());
    spec.and_then(|spec| spec.checkpoint).unwrap_or_default()
}

/// Places in `job.checkpoints` of those that may go.
pub fn dropped(state: &State, job: &Job) -> BTreeSet<usize> {
    let list = &job.checkpoints;
    if list.len() < 2 {
        return BTreeSet::new();
    }
    let rules = checkpoint_rules(state, job);
    let mut kept = kept_by_rules(list, &rules);
    let mut safe = safe(state, list, rules.replicas as usize);
    kept.extend(&safe);
    // One older than all that stay, and not whole yet, would go as soon as it were.
    let plain = rules.keep_every.is_none() && rules.keep_best.is_none();
    let enough = whole(list).count() >= rules.newest_kept() as usize;
    let overtaken = kept.first().copied().filter(|_| plain && enough);
    let resumed = |name: &str| {
        let current = state.current_attempt(job);
        current.is_some_and(|attempt| !attempt.closed() && attempt.resume_from == name)
    };
    if rules.upload.is_some() {
        let ends = [newest_uploaded(list), next_to_upload(state, list)];
        safe.extend(ends.into_iter().flatten());
        kept.extend(&safe);
    }
    let partial = list
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, one)| !one.is_whole());
    let growing: BTreeSet<usize> = partial.take(GROWING_MAX).map(|(place, _)| place).collect();
    let newest = whole(list).next_back().map(|(place, _)| place);
    let stays = |(place, one): &(usize, &Checkpoint)| {
        kept.contains(place)
            || one.pinned
            // One that grows. When its epoch is over it goes; before that only if nobody would miss it.
            || growing.contains(place) && Some(*place) > overtaken
            || resumed(&one.name)
    };
    let mut gone: BTreeSet<usize> = (list.iter().enumerate())
        .filter(|one| !stays(one))
        .map(|(place, _)| place)
        .collect();
    let going_on = resumed_places(state, job);
    let needed = |place: &usize| safe.contains(place) || going_on.contains(place);
    gone.extend(rewritten(list).into_iter().filter(|place| !needed(place)));
    bound(list, &mut gone, newest);
    gone
}

/// Those without which the loss of a node could cost more than it must: the newest; the newest that is durable; and, as long as some node could
/// take a copy, the oldest that came after it. Were that one dropped for each newer one, a job that saves faster than its copies travel would
/// never have any.
fn safe(state: &State, list: &[Checkpoint], replicas: usize) -> BTreeSet<usize> {
    let durable = |one: &Checkpoint| living_copies(state, one) >= replicas;
    let newest = whole(list).next_back().map(|one| one.0);
    let newest_durable = whole(list).rfind(|one| durable(one.1)).map(|one| one.0);
    let mut after = whole(list).filter(|one| Some(one.0) > newest_durable);
    let coming = after.find(|one| one.1.is_portable() && another_takes(state, one.1));
    let safe = [newest, newest_durable, coming.map(|one| one.0)];
    safe.into_iter().flatten().collect()
}

/// What outlives all nodes.
fn newest_uploaded(list: &[Checkpoint]) -> Option<usize> {
    whole(list)
        .rfind(|one| one.1.is_uploaded())
        .map(|one| one.0)
}

/// The oldest after the newest that is uploaded. It is uploaded before newer ones and stays until it is: a job that saves faster than its uploads
/// travel would never have any.
///
/// One that no living node has all of is passed over: nobody could upload it.
pub fn next_to_upload(state: &State, list: &[Checkpoint]) -> Option<usize> {
    let newest = newest_uploaded(list);
    let is_held = |one: &Checkpoint| {
        one.filled().all(|part| {
            let mut holders = part.holders.iter();
            part.uploaded || holders.any(|node| lives(state, node))
        })
    };
    let can = |one: &Checkpoint| one.is_portable() && is_held(one);
    let mut after = whole(list).filter(|one| Some(one.0) > newest && can(one.1));
    after.next().map(|one| one.0)
}

/// Some node that has nothing of it takes work.
fn another_takes(state: &State, one: &Checkpoint) -> bool {
    let holders = one.holders();
    let mut nodes = state.nodes();
    nodes.any(|node| node.schedulable() && !holders.contains(&node.facts.name.as_str()))
}

/// Where the one lies that the current attempt resumes from.
fn resumed_places(state: &State, job: &Job) -> BTreeSet<usize> {
    let open = state
        .current_attempt(job)
        .filter(|attempt| !attempt.closed() && attempt.resume_job.is_none());
    let from = open.and_then(|attempt| resumed_from(state, job, attempt));
    let places = job.checkpoints.iter().enumerate();
    let same = places.filter(|(_, one)| from.is_some_and(|from| std::ptr::eq(*one, from)));
    same.map(|(place, _)| place).collect()
}

fn whole(list: &[Checkpoint]) -> impl DoubleEndedIterator<Item = (usize, &Checkpoint)> {
    list.iter().enumerate().filter(|(_, one)| one.is_whole())
}

fn kept_by_rules(list: &[Checkpoint], rules: &CheckpointSpec) -> BTreeSet<usize> {
    let last = rules.newest_kept().max(1) as usize;
    let mut kept: BTreeSet<usize> = whole(list).rev().take(last).map(|one| one.0).collect();
    match rules.keep_every {
        Some(KeepEvery::Steps(steps)) => {
            let multiple = |one: &Checkpoint| one.step > 0 && one.step.is_multiple_of(steps);
            kept.extend(whole(list).filter(|one| multiple(one.1)).map(|one| one.0));
        }
        Some(KeepEvery::Ms(length)) => {
            let mut seen = BTreeSet::new();
            let mut first = |one: &Checkpoint| seen.insert(one.sealed_ms.div_euclid(length.max(1)));
            kept.extend(whole(list).filter(|one| first(one.1)).map(|one| one.0));
        }
        None => {}
    }
    if let Some(best) = &rules.keep_best {
        let measured = whole(list).filter_map(|(place, one)| Some((one.metric?, place)));
        let mut measured: Vec<(u64, usize)> = measured.collect();
        measured.sort_unstable();
        if !best.least {
            measured.reverse();
        }
        let best = measured.into_iter().take(best.count as usize);
        kept.extend(best.map(|(_, place)| place));
    }
    kept
}

/// Those whose name a later whole one of the same epoch has: the trainer wrote over them.
fn rewritten(list: &[Checkpoint]) -> Vec<usize> {
    let over = |(place, one): &(usize, &Checkpoint)| {
        let same = |other: &Checkpoint| other.epoch == one.epoch && other.name == one.name;
        let mut later = list.iter().skip(place.saturating_add(1));
        !one.pinned && later.any(|other| other.is_whole() && same(other))
    };
    (list.iter().enumerate())
        .filter(over)
        .map(|(place, _)| place)
        .collect()
}

/// No job has more than so many: the oldest that nobody pinned go first.
fn bound(list: &[Checkpoint], gone: &mut BTreeSet<usize>, newest: Option<usize>) {
    let most = CHECKPOINTS_PER_JOB_MAX;
    for pinned in [false, true] {
        for (place, one) in list.iter().enumerate() {
            let left = list.len().saturating_sub(gone.len());
            if left > most && one.pinned == pinned && Some(place) != newest {
                gone.insert(place);
            }
        }
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
