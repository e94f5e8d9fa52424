//! An attempt whose only node is Lost by silence: it may still run there. The job waits for a successor; until that has taken over,
//! the attempt goes on if its node comes back, and the successor is dropped. It is never more than one of a job.
//!
//! Gangs of several nodes are not put in doubt: the nodes that are left are told to stop, and what was stopped cannot go on.
use mlctl_proto::errors::Refusal;
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::OnDisconnect;
use mlctl_proto::units::UtcMs;

use super::current::Current;
use super::failures::{self, Failures};
use super::holds;
use crate::state::change::Change;
use crate::state::records::{AllocationPhase, Attempt, End, EndKind, Job, JobState};
use crate::state::rules::Ended;
use crate::state::transition::advance;
use crate::state::{Effect, State};

/// Whether an attempt that is lost by silence as `end` says could go on with its node, and its job would start again without it.
pub(super) fn may_come_back(state: &State, current: &Current, end: &End) -> bool {
    let whole = current.attempt.allocations.len() == 1 && !current.attempt.stopping;
    // What was fenced is dead by now.
    let replaced = current.job.on_disconnect == OnDisconnect::Replace;
    // A successor that was never told to go has nothing to come back with.
    let first = state.in_doubt(current.job.id).is_none();
    whole && replaced && first && current.after(end) == JobState::Pending
}

/// Puts an attempt in doubt: its job waits again, the attempt keeps what it holds.
pub(super) fn enter(change: &mut Change, current: &mut Current, end: &End) -> Result<(), Refusal> {
    current.attempt.in_doubt = true;
    change.replan();
    current.wait_in_doubt(end)
}

/// A successor took over, or nobody will: what is in doubt of `job` ends as lost, and its epoch is closed. Its node is told, should
/// it listen. The caller stores the job.
pub(super) fn close(change: &mut Change, job: &mut Job, now_ms: UtcMs, detail: &str) {
    let Some(mut attempt) = change
        .state()
        .in_doubt(job.id)
        .map(|one| Attempt::clone(one))
    else {
        return;
    };
    attempt.in_doubt = false;
    attempt.ended_ms = now_ms;
    let mut last = None;
    for allocation in &mut attempt.allocations {
        if allocation.phase == AllocationPhase::Ended {
            continue;
        }
        let end = End {
            detail: detail.into(),
            node: allocation.node.clone(),
            ..End::of(EndKind::NodeLost)
        };
        allocation.phase = AllocationPhase::Ended;
        allocation.end = Some(end.clone());
        change.effect(Effect::Stop {
            node: allocation.node.clone(),
            job: job.id,
            epoch: attempt.epoch,
            reason: EndKind::NodeLost,
        });
        last = Some(end);
    }
    if let Some(end) = &last {
        let ended = Ended::of(&attempt, end, now_ms);
        Failures::of(change.state(), job).count_lost(job, &ended);
        job.turn.ran_ms = job.turn.ran_ms.saturating_add(ended.time_ms());
        holds::ended(change, job, &attempt, now_ms);
    }
    attempt.end = attempt.end.or(last);
    change.put_attempt(attempt);
}

/// The node of what is in doubt of `job` proved to be dead: nothing comes back.
pub(super) fn died(
    change: &mut Change,
    job: JobId,
    now_ms: UtcMs,
    detail: &str,
) -> Result<(), Refusal> {
    let mut job = change.job(job)?;
    close(change, &mut job, now_ms, detail);
    failures::hold_if_suspect(&mut job)?;
    change.put_job(job);
    change.replan();
    Ok(())
}

/// `node` is back with the boot and the journal that it had: its attempts in doubt are current again and go on; their successors
/// are dropped.
pub(super) fn recall(change: &mut Change, node: &str) -> Result<(), Refusal> {
    for (job, epoch) in change.state().open_allocations_on(node) {
        let Some(mut attempt) = change.attempt(job, epoch).filter(|one| one.in_doubt) else {
            continue;
        };
        let mut job = change.job(job)?;
        drop_successor(change, &job);
        attempt.in_doubt = false;
        job.recalled_counter = if epoch.counter == job.epoch_counter {
            0
        } else {
            epoch.counter
        };
        let state = if attempt.running_ms > 0 {
            JobState::Running
        } else {
            JobState::Starting
        };
        if job.state != state {
            advance(&mut job, state)?;
        }
        change.put_attempt(attempt);
        change.put_job(job);
    }
    Ok(())
}

/// The newest attempt of a job was never told to go and is not needed.
fn drop_successor(change: &mut Change, job: &Job) {
    let newest = change.state().current_attempt(job);
    let Some(mut newest) = newest
        .filter(|one| !one.closed() && !one.in_doubt)
        .map(|one| Attempt::clone(one))
    else {
        return;
    };
    let reason = EndKind::Superseded;
    newest.stopping = true;
    newest.end.get_or_insert_with(|| End {
        detail: "the attempt before it came back".into(),
        ..End::of(reason)
    });
    let open = newest.allocations.iter();
    for allocation in open.filter(|one| one.phase != AllocationPhase::Ended) {
        change.effect(Effect::Stop {
            node: allocation.node.clone(),
            job: job.id,
            epoch: newest.epoch,
            reason,
        });
    }
    change.put_attempt(newest);
}

/// One allocation of a dropped attempt holds nothing any more. The job goes its own way meanwhile.
pub(super) fn end_dropped(
    change: &mut Change,
    mut attempt: Attempt,
    position: usize,
    end: End,
    now_ms: UtcMs,
) {
    let Some(allocation) = attempt.allocations.get_mut(position) else {
        return;
    };
    allocation.phase = AllocationPhase::Ended;
    allocation.end = Some(end);
    if attempt.closed() {
        attempt.ended_ms = now_ms;
    }
    change.replan();
    change.put_attempt(attempt);
}

#[cfg(test)]
#[path = "in_doubt_tests.rs"]
mod tests;
