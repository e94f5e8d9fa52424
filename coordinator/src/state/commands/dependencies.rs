//! Jobs that wait for other jobs. Only jobs that are there can be waited for, so nobody waits in a circle. What has become of a job is looked at when it
//! changes: who waited for that waits no longer, and who can never start any more is ended at once, with the reason, and so on along the chain.
use std::collections::VecDeque;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::{After, AfterKind, JobSpec};
use mlctl_proto::units::UtcMs;

use super::cancel_jobs::end_job;
use crate::state::State;
use crate::state::change::Change;
use crate::state::records::{Array, JobState};

/// What a job that waits for another can expect.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It need not wait for it any more.
    Met,
    /// Nobody knows yet.
    Open,
    /// It will never be so: why, as the rest of a sentence.
    Never(String),
}

fn fate(state: &State, after: After) -> Fate {
    let Some(job) = state.job(after.job) else {
        return match after.kind {
            AfterKind::Any | AfterKind::Started => Fate::Met,
            _ => Fate::Never(format!(
                "job {} is history by now: look how it ended (`mlctl show {}`), and leave it out",
                after.job, after.job
            )),
        };
    };
    let (over, completed) = (job.state.terminal(), job.state == JobState::Completed);
    let ended = || Fate::Never(format!("job {} is {}", job.id, job.state.word()));
    match after.kind {
        AfterKind::Started if over || job.started_ms > 0 => Fate::Met,
        AfterKind::Any | AfterKind::Corr if over => Fate::Met,
        AfterKind::Ok if completed => Fate::Met,
        AfterKind::NotOk if over && !completed => Fate::Met,
        AfterKind::Ok if over => ended(),
        AfterKind::NotOk if completed => ended(),
        _ => Fate::Open,
    }
}

/// For what a new job has to wait. `array`: its tasks, if it is one; those that can never start are taken out.
pub(super) fn admit(
    change: &Change,
    spec: &JobSpec,
    mut array: Option<&mut Array>,
) -> Result<Vec<After>, Refusal> {
    let mut open = Vec::new();
    for after in &spec.after {
        let state = change.state();
        let on = state.job(after.job);
        if on.is_none() && !state.is_archived(after.job) {
            let why = format!(
                "`after` names job {}, and there is none: a job can wait for jobs that are there; `mlctl jobs -a` lists them",
                after.job
            );
            return Err(Refusal::new(Code::NotFound, why));
        }
        let paired = on.and_then(|on| on.array.as_deref());
        if after.kind == AfterKind::Corr && on.is_some() && paired.is_none() {
            let why = format!(
                "`after` holds \"{after}\", which pairs tasks of two arrays, and job {} is none: write \"ok:{}\"",
                after.job, after.job
            );
            return Err(Refusal::new(Code::BadRequest, why));
        }
        match fate(state, *after) {
            Fate::Open => open.push(*after),
            Fate::Never(why) => {
                let why = format!("it could never start: `after` holds \"{after}\", and {why}");
                return Err(Refusal::new(Code::Conflict, why));
            }
            Fate::Met => {
                if let (AfterKind::Corr, Some(on), Some(own)) =
                    (after.kind, paired, array.as_deref_mut())
                    && !pair(own, on)
                {
                    let why = format!(
                        "it could never start: `after` holds \"{after}\", and no task of job {} that it is paired with exited 0",
                        after.job
                    );
                    return Err(Refusal::new(Code::Conflict, why));
                }
            }
        }
    }
    Ok(open)
}

/// The other array is over: tasks of which the partner did not exit 0 never run. Whether any task is left that waits.
fn pair(own: &mut Array, on: &Array) -> bool {
    let never = own.pending.minus(&on.succeeded_tasks());
    own.pending = own.pending.minus(&never);
    own.cancelled = own.cancelled.union(&never);
    !own.pending.is_empty()
}

/// Looks at all who wait for what the command has changed.
pub(super) fn settle(change: &mut Change, now_ms: UtcMs) -> Result<(), Refusal> {
    let mut changed: VecDeque<JobId> = change.changed_jobs().into();
    while let Some(on) = changed.pop_front() {
        let waiting: Vec<JobId> = change.state().dependents(on).collect();
        for who in waiting {
            if look(change, who, on, now_ms)? {
                changed.push_back(who);
            }
        }
    }
    Ok(())
}

/// Looks at one job that waits for `on`. Whether it was ended.
fn look(change: &mut Change, who: JobId, on: JobId, now_ms: UtcMs) -> Result<bool, Refusal> {
    let mut job = change.job(who)?;
    let Some(after) = job.turn.after.iter().find(|one| one.job == on).copied() else {
        return Ok(false);
    };
    match fate(change.state(), after) {
        Fate::Open => {
            // Some of its tasks may have become ready.
            if after.kind == AfterKind::Corr {
                change.replan();
            }
            Ok(false)
        }
        Fate::Met => {
            job.turn.after.retain(|one| one.job != on);
            let partner = change.state().job(on).and_then(|on| on.array.clone());
            let left = match (after.kind, partner, job.array_mut()) {
                (AfterKind::Corr, Some(partner), Some(own)) => pair(own, &partner),
                _ => true,
            };
            if !left && matches!(job.state, JobState::Pending | JobState::Held) {
                let why = format!(
                    "no task that is left can start: it waits for {after}, and its partners did not exit 0"
                );
                end_job(change, job, "", why, now_ms)?;
                return Ok(true);
            }
            change.put_job(job);
            change.replan();
            Ok(false)
        }
        Fate::Never(why) => {
            let why = format!("it could never start: it waits for {after}, and {why}");
            end_job(change, job, "", why, now_ms)?;
            Ok(true)
        }
    }
}

#[cfg(test)]
#[path = "dependencies_tests.rs"]
mod tests;
