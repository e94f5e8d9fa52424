//! What is true of every array, and of every step of one: each task is in exactly one place, and what is known of it stays known.
use std::collections::BTreeSet;

use mlctl_proto::ids::JobId;
use mlctl_proto::spec::Ranges;

use super::{State, Violation, require};
use crate::state::records::{Array, Attempt, Job, JobState};

/// Everything that is wrong with the tasks of a job; of one that is no array, that it has none.
pub(super) fn check(state: &State, job: &Job, found: &mut Vec<Violation>) {
    let attempts: Vec<&Attempt> = state.attempts_of(job.id).map(AsRef::as_ref).collect();
    let waves = attempts
        .iter()
        .all(|one| one.wave.is_some() == job.array.is_some());
    require(
        found,
        waves,
        "attempts of arrays, and no others, have tasks",
        || format!("job {}", job.id),
    );
    let Some(array) = job.array.as_deref() else {
        return;
    };
    let open: Vec<&Attempt> = attempts.into_iter().filter(|one| !one.closed()).collect();
    let given = open.iter().filter_map(|one| one.wave.as_ref());
    let nodes: BTreeSet<&str> = (open.iter())
        .flat_map(|one| one.allocations.iter().map(|part| part.node.as_str()))
        .collect();
    let sound = |one: &&Attempt| {
        one.wave.as_ref().is_none_or(|wave| {
            let apart = wave.spoke.and(&wave.left).is_empty();
            wave.tasks.covers(&wave.left) && wave.tasks.covers(&wave.spoke) && apart
        })
    };
    let over = job.state.terminal();
    for (holds, rule) in [
        (
            everywhere_once(array, given.map(|wave| &wave.left)),
            "every task of an array is in one place",
        ),
        (
            nodes.len() == open.len() && open.iter().all(|one| one.allocations.len() == 1),
            "the open waves of an array have a node each",
        ),
        (
            open.iter().all(sound),
            "a wave has left what it was given, and that has no end",
        ),
        (
            !over || (array.pending.is_empty() && open.is_empty()),
            "an array that is over has no task left",
        ),
        (
            job.state != JobState::Completed || array.succeeded() == array.tasks.count(),
            "an array is Completed when every task exited 0",
        ),
        (
            job.state != JobState::Pending || !array.pending.is_empty(),
            "an array waits for the sake of a task",
        ),
    ] {
        require(found, holds, rule, || {
            format!("job {}: {}", job.id, job.state.word())
        });
    }
}

/// No start brings more tasks at once than the limit of an array. One that was lowered meanwhile ends nothing.
pub(super) fn check_limit(before: &State, after: &State, id: JobId, found: &mut Vec<Violation>) {
    let slots = |state: &State| -> u64 {
        let open = state.attempts_of(id).filter(|one| !one.closed());
        let waves = open.filter_map(|one| one.wave.as_ref().map(|wave| wave.slots));
        waves.map(u64::from).sum()
    };
    let limit = after
        .job(id)
        .and_then(|job| job.array.as_ref())
        .map_or(0, |array| array.limit);
    let (was, is) = (slots(before), slots(after));
    require(
        found,
        limit == 0 || is <= u64::from(limit) || is <= was,
        "no more tasks at once than the limit of an array",
        || format!("job {id}: {is} of {limit}"),
    );
}

/// Whether the sets of an array and what its waves have left make up its tasks, none of them twice.
fn everywhere_once<'a>(array: &'a Array, left: impl Iterator<Item = &'a Ranges>) -> bool {
    let ended = array.ended.iter().map(|group| &group.tasks);
    let mut count = 0_u64;
    let mut all = Ranges::new();
    for set in ended.chain(left).chain([&array.pending, &array.cancelled]) {
        count = count.saturating_add(set.count());
        all = all.union(set);
    }
    count == array.tasks.count() && all == array.tasks
}

/// Whether an array only went on from `old` to `new`: an end stays an end.
pub(super) fn only_advances(old: &Job, new: &Job) -> bool {
    let (Some(old), Some(new)) = (&old.array, &new.array) else {
        return old.array.is_none() && new.array.is_none();
    };
    let kept = old.ended.iter().all(|group| {
        let mut alike =
            (new.ended.iter()).filter(|other| (other.kind, other.code) == (group.kind, group.code));
        alike.any(|other| other.tasks.covers(&group.tasks))
    });
    kept && new.cancelled.covers(&old.cancelled)
        && new.failures.starts_with(&old.failures)
        && new.tasks == old.tasks
}

/// Whether a wave only went on: it is given nothing more, and ends are not forgotten.
pub(super) fn wave_only_advances(old: &Attempt, new: &Attempt) -> bool {
    match (&old.wave, &new.wave) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            (old.slots, &old.tasks) == (new.slots, &new.tasks)
                && old.left.covers(&new.left)
                && new.spoke.covers(&old.spoke)
        }
        _ => false,
    }
}
