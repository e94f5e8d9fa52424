//! An array's tasks as people and programs see them: how many are where, and which.
use mlctl_proto::api;
use mlctl_proto::spec::Ranges;

use crate::state::State;
use crate::state::records::{AllocationPhase, Array, Attempt, End, EndKind, Job, JobState};

/// How many tasks are where; for lists.
pub fn counts(state: &State, job: &Job) -> Option<api::Array> {
    let array = job.array.as_deref()?;
    let running = open_waves(state, job).map(running).sum();
    let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let tasks = count(array.tasks.count());
    let done = count(array.done());
    Some(api::Array {
        tasks,
        limit: array.limit,
        pending: tasks.saturating_sub(done).saturating_sub(running),
        running,
        succeeded: count(array.succeeded()),
        failed: count(array.failed()),
        cancelled: count(array.cancelled.count()),
        ..api::Array::default()
    })
}

/// The same, with which tasks these are.
pub fn whole(state: &State, job: &Job) -> Option<api::Array> {
    let array = job.array.as_deref()?;
    let failure = |one: &crate::state::records::TaskFailure| api::TaskFailure {
        index: one.index,
        kind: one.kind.word().to_owned(),
        exit_code: exit_code(one.kind, one.code),
        node: one.node.clone(),
    };
    Some(api::Array {
        indices: array.tasks.to_string(),
        groups: groups(state, job, array),
        failures: array.failures.iter().map(failure).collect(),
        ..counts(state, job)?
    })
}

fn open_waves<'a>(state: &'a State, job: &Job) -> impl Iterator<Item = &'a Attempt> {
    let attempts = state.attempts_of(job.id).map(AsRef::as_ref);
    attempts.filter(|attempt| !attempt.closed())
}

/// How many of a wave's tasks run: as many as it has slots, while there are so many.
fn running(attempt: &Attempt) -> u32 {
    let started = attempt
        .allocations
        .iter()
        .any(|one| one.phase == AllocationPhase::Running);
    let wave = attempt.wave.as_ref().filter(|_| started);
    wave.map_or(0, |wave| {
        u32::try_from(wave.left.count()).map_or(wave.slots, |left| left.min(wave.slots))
    })
}

fn groups(state: &State, job: &Job, array: &Array) -> Vec<api::TaskGroup> {
    let group = |state: JobState, kind: &str, exit_code: i32, tasks: &Ranges| api::TaskGroup {
        state: state.word().to_owned(),
        kind: kind.to_owned(),
        exit_code,
        indices: tasks.to_string(),
        tasks: u32::try_from(tasks.count()).unwrap_or(u32::MAX),
    };
    let given = open_waves(state, job).filter_map(|attempt| attempt.wave.as_ref());
    let given = given.fold(Ranges::new(), |all, wave| all.union(&wave.left));
    let mut groups = vec![
        group(JobState::Pending, "", 0, &array.pending),
        group(JobState::Running, "", 0, &given),
    ];
    groups.extend(array.ended.iter().map(|one| {
        let state = if one.success() {
            JobState::Completed
        } else {
            JobState::Failed
        };
        group(
            state,
            one.kind.word(),
            exit_code(one.kind, one.code),
            &one.tasks,
        )
    }));
    groups.push(group(JobState::Cancelled, "", 0, &array.cancelled));
    groups.retain(|one| one.tasks > 0);
    groups
}

fn exit_code(kind: EndKind, code: i32) -> i32 {
    let end = End {
        code,
        ..End::of(kind)
    };
    end.exit_code().0
}
