//! The ends of a hold: its job starts there, is over or held, a device of it is lost, or its time is over. And what an attempt leaves on its job when it
//! ends: service, and the right to have others ended. What begins a hold is `preempt`'s.
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::start_attempts::Placement;
use crate::state::State;
use crate::state::change::Change;
use crate::state::records::{Attempt, DeviceHold, EndKind, Job, JobState, Liveness};
use crate::state::rules::taking::{COOLDOWN_MS, VAIN_MS, after, elapsed};
use crate::state::view::amounts::GPU;

/// The hold that a start of its job on these places ends. Tasks of an array may start elsewhere beside it.
pub(super) fn taken_by(
    state: &State,
    job: &Job,
    placements: &[Placement],
) -> Option<Arc<DeviceHold>> {
    let hold = state.hold_of(job.id)?;
    let ends = job.array.is_none() || is_there(hold, placements);
    ends.then(|| Arc::clone(hold))
}

/// Whether one of these places is kept.
fn is_there(hold: &DeviceHold, placements: &[Placement]) -> bool {
    placements.iter().any(|placement| {
        let mut seats = hold.seats.iter();
        let seat = seats.find(|seat| seat.node == placement.node);
        seat.is_some_and(|seat| {
            let mut devices = placement.devices.iter();
            seat.devices.is_empty() || devices.any(|uuid| seat.devices.contains(uuid))
        })
    })
}

/// A job starts: what was kept for it is kept no longer. Whether others ended for this start. The caller stores the job.
pub(super) fn take(change: &mut Change, job: &mut Job, placements: &[Placement]) -> bool {
    let Some(hold) = taken_by(change.state(), job, placements) else {
        return false;
    };
    let there = is_there(&hold, placements);
    change.remove_hold(job.id);
    job.marks.planned_again = false;
    if !there {
        // It fits elsewhere by now: others ended for nothing.
        change.count_preemption(true);
        change.replan();
    }
    there
}

/// Nothing is kept for a job any more, and it did not start there. It is planned for once more; after that it has to wait before others are ended for it.
pub(super) fn release(change: &mut Change, job: JobId, now_ms: UtcMs) {
    if change.state().hold_of(job).is_none() {
        return;
    }
    change.remove_hold(job);
    change.count_preemption(true);
    change.replan();
    let Ok(mut job) = change.job(job) else {
        return;
    };
    if job.state.terminal() {
        return;
    }
    if job.marks.planned_again {
        job.marks.no_preempt_until_ms = after(now_ms, COOLDOWN_MS);
    }
    job.marks.planned_again = !job.marks.planned_again;
    change.put_job(job);
}

/// After each command: holds whose time is over, whose job does not wait any more, or of which a device is lost.
pub(super) fn settle(change: &mut Change, now_ms: UtcMs) {
    if !change.state().holds_anything() {
        return;
    }
    let mut over: Vec<JobId> = change.state().holds_over(now_ms).collect();
    let changed = change.changed_jobs().into_iter();
    over.extend(changed.filter(|id| !still_waits(change.state(), *id)));
    for name in change.changed_nodes() {
        let here = change.state().holds().filter(|hold| hold.is_on(&name));
        let lost = here.filter(|hold| is_lost(change.state(), hold, &name));
        over.extend(lost.map(|hold| hold.job));
    }
    for job in over {
        release(change, job, now_ms);
    }
}

/// Whether a job waits, and for a gang of the shape that is kept: it may have been changed in place.
fn still_waits(state: &State, id: JobId) -> bool {
    let (Some(job), Some(hold)) = (state.job(id), state.hold_of(id)) else {
        return false;
    };
    let waits = job.state == JobState::Pending || job.fills();
    waits
        && state
            .request(job)
            .is_some_and(|request| hold.is_for(request))
}

/// Whether what is kept on a node is not there any more.
fn is_lost(state: &State, hold: &DeviceHold, name: &str) -> bool {
    let node = state.node(name);
    let Some(node) = node.filter(|node| node.liveness != Liveness::Lost) else {
        return true;
    };
    let there = |uuid: &str| node.facts.devices.iter().any(|one| one.uuid == uuid);
    let mut kept = hold.devices().filter(|(node, _)| *node == name);
    kept.any(|(_, uuid)| !there(uuid))
}

/// An attempt is over. The caller stores the job.
pub(super) fn ended(change: &mut Change, job: &mut Job, attempt: &Attempt, now_ms: UtcMs) {
    let devices = attempt.allocations.iter().map(|one| one.devices.len());
    let units = u64::try_from(devices.fold(0, usize::saturating_add)).unwrap_or(u64::MAX);
    let units = units.saturating_mul(GPU);
    let held_ms = elapsed(attempt.started_ms, now_ms);
    let service = units.saturating_mul(held_ms / 1_000);
    job.marks.attained = job.marks.attained.saturating_add(service);
    if attempt.took && in_vain(attempt, held_ms) {
        job.marks.no_preempt_until_ms = after(now_ms, COOLDOWN_MS);
        change.count_preemption(true);
    }
}

/// Others ended for it, and it was over at once, or never ran.
fn in_vain(attempt: &Attempt, held_ms: u64) -> bool {
    let Some(end) = attempt.end.as_ref().filter(|end| !end.success()) else {
        return false;
    };
    let never_ran = matches!(end.kind, EndKind::LaunchFailed | EndKind::NeverStarted);
    never_ran || held_ms < VAIN_MS
}
