//! Whether it is a job's turn: its start time, and what has to become of other jobs first. Does NOT decide what becomes of a job whose turn never comes.
use mlctl_proto::spec::{After, AfterKind, Ranges};
use mlctl_proto::units::UtcMs;

use crate::state::State;
use crate::state::records::Job;

/// What a job that waits has to wait for, whatever is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotYet {
    /// Its start time is ahead.
    Begin(UtcMs),
    /// Something has to become of another job.
    After(After),
}

/// For what a job waits at `now_ms`, if for anything of that. One that waits for another job is not told of its start time.
pub fn not_yet(job: &Job, now_ms: UtcMs) -> Option<NotYet> {
    if let Some(after) = job.turn.waits_for() {
        return Some(NotYet::After(after));
    }
    let begin = Some(job.turn.begin_ms).filter(|begin| *begin > now_ms);
    begin.map(NotYet::Begin)
}

/// The tasks of an array that need not wait for tasks of another one; `None`: no task has to.
pub fn ready_tasks(state: &State, job: &Job) -> Option<Ranges> {
    let paired = job
        .turn
        .after
        .iter()
        .filter(|one| one.kind == AfterKind::Corr);
    let ready = paired.map(|one| {
        let on = state.job(one.job).and_then(|on| on.array.as_deref());
        on.map_or_else(Ranges::new, |on| on.succeeded_tasks())
    });
    ready.reduce(|all, ready| all.and(&ready))
}
