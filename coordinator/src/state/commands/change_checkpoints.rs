//! ChangeCheckpoints: a person keeps checkpoints of a job, lets them go to the job's rules again, or removes them: all that are named, or
//! none. What a job needs to go on is never removed. Does NOT touch bytes: who holds a part is told to forget it.
use std::collections::BTreeSet;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{JobId, clip};
use mlctl_proto::limits::CHECKPOINTS_PER_JOB_MAX;

use super::{Context, checkpoints};
use crate::state::State;
use crate::state::change::{Change, ended_long_ago};
use crate::state::records::{Attempt, Checkpoint, Job, Reply};

/// Names in one command.
pub const NAMES_MAX: usize = 2 * CHECKPOINTS_PER_JOB_MAX;
/// Names of checkpoints that a refusal lists.
const LISTED_MAX: usize = 8;

/// What becomes of which checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeCheckpoints {
    /// The job that made them.
    pub job: JobId,
    /// Which.
    pub which: Vec<NamedCheckpoint>,
    /// What to do with them.
    pub action: CheckpointAction,
}

/// A checkpoint as a person names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedCheckpoint {
    /// Of its directory or file.
    pub name: String,
    /// Counter of the attempt that made it. 0: whichever; several may have made one of that name, then the newest is pinned, and all are
    /// unpinned or removed.
    pub attempt: u64,
}

/// What a person does with checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointAction {
    /// No rule lets it go from now on.
    Pin,
    /// The job's rules decide again, at once.
    Unpin,
    /// It goes.
    Remove,
}

impl ChangeCheckpoints {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_person()?;
        if self.which.is_empty() || self.which.len() > NAMES_MAX {
            let why = format!("name 1 to {NAMES_MAX} checkpoints");
            return Err(Refusal::new(Code::BadRequest, why));
        }
        if change.state().is_archived(self.job) {
            return Err(in_history(self.job));
        }
        let mut job = change.job(self.job)?;
        if job.owner_id != context.actor.user_id && !context.actor.admin {
            let why = format!(
                "job {} belongs to {}: ask them, or an admin",
                job.id,
                clip(&job.owner_name)
            );
            return Err(Refusal::new(Code::Denied, why));
        }
        let mut places = BTreeSet::new();
        for one in &self.which {
            places.extend(self.found(&job, one)?);
        }
        match self.action {
            CheckpointAction::Remove => {
                removable(change.state(), &job, &places)?;
                remove(change, &mut job, &places);
            }
            CheckpointAction::Pin => set_pinned(&mut job, &places, true),
            CheckpointAction::Unpin => set_pinned(&mut job, &places, false),
        }
        checkpoints::settle(change, job);
        Ok(Reply::Done)
    }

    /// Places of what `one` names.
    fn found(&self, job: &Job, one: &NamedCheckpoint) -> Result<Vec<usize>, Refusal> {
        let named = |listed: &Checkpoint| {
            let made = one.attempt == 0 || one.attempt == listed.epoch.counter;
            listed.is_whole() && listed.name == one.name && made
        };
        let mut places: Vec<usize> = (job.checkpoints.iter().enumerate())
            .filter(|(_, listed)| named(listed))
            .map(|(place, _)| place)
            .collect();
        if self.action == CheckpointAction::Pin {
            places.drain(..places.len().saturating_sub(1));
        }
        match places.is_empty() {
            true => Err(unknown(job, one)),
            false => Ok(places),
        }
    }
}

fn set_pinned(job: &mut Job, places: &BTreeSet<usize>, pinned: bool) {
    for place in places {
        if let Some(one) = job.checkpoints.get_mut(*place) {
            one.pinned = pinned;
        }
    }
}

fn remove(change: &mut Change, job: &mut Job, places: &BTreeSet<usize>) {
    let mut gone = Vec::new();
    let mut kept = Vec::new();
    for (place, one) in std::mem::take(&mut job.checkpoints).into_iter().enumerate() {
        match places.contains(&place) {
            true => gone.push(one),
            false => kept.push(one),
        }
    }
    job.checkpoints = kept;
    checkpoints::forget(change, job, &gone);
}

/// Refuses to remove what is pinned, what a job that is not over would go on from, and what an attempt that is open began with.
fn removable(state: &State, job: &Job, places: &BTreeSet<usize>) -> Result<(), Refusal> {
    let newest = (job.checkpoints.iter()).rposition(Checkpoint::is_whole);
    for (place, one) in job.checkpoints.iter().enumerate() {
        if !places.contains(&place) {
            continue;
        }
        let (id, name) = (job.id, clip(&one.name));
        if one.pinned {
            return Err(in_use(format!(
                "checkpoint {name} of job {id} is pinned: run `mlctl checkpoint unpin {id} {name}` first"
            )));
        }
        if let Some(user) = resumed_by(state, job, one) {
            return Err(in_use(format!(
                "job {user} has resumed from checkpoint {name} of job {id} and still runs: wait until it has ended, or cancel it first"
            )));
        }
        if newest != Some(place) {
            continue;
        }
        if !job.state.terminal() {
            return Err(in_use(format!(
                "checkpoint {name} is the newest of job {id}, which is not over and would lose its progress: wait for a newer one or for the end of the job, or cancel it first"
            )));
        }
        if let Some(heir) = heir(state, job) {
            return Err(in_use(format!(
                "checkpoint {name} is the newest of job {id}, and job {heir}, which is not over, goes on from it: wait for a checkpoint of job {heir}, or cancel it first"
            )));
        }
    }
    Ok(())
}

/// The job of which an open attempt resumed from `one`.
fn resumed_by(state: &State, job: &Job, one: &Checkpoint) -> Option<JobId> {
    let resumed = |attempt: &&std::sync::Arc<Attempt>| {
        let from = attempt.resume_job.unwrap_or(attempt.job) == job.id;
        // A later attempt made its own of that name: not that one.
        let before = attempt.job != job.id || one.epoch < attempt.epoch;
        from && before && attempt.resume_from == one.name && !attempt.closed()
    };
    let mut open = state.active_attempts();
    open.find(resumed).map(|attempt| attempt.job)
}

/// A job that is another try of this one, is not over, and has made no checkpoint itself.
fn heir(state: &State, job: &Job) -> Option<JobId> {
    let goes_on = |other: &&std::sync::Arc<Job>| {
        let lineage = other.lineage.as_ref();
        let heir = lineage.is_some_and(|lineage| lineage.made_by == job.id);
        heir && !other.state.terminal() && !other.checkpoints.iter().any(Checkpoint::is_whole)
    };
    state.jobs().find(goes_on).map(|other| other.id)
}

fn in_use(why: String) -> Refusal {
    Refusal::new(Code::Conflict, why)
}

/// Says what there is instead, the newest first.
fn unknown(job: &Job, one: &NamedCheckpoint) -> Refusal {
    let whole = || job.checkpoints.iter().filter(|listed| listed.is_whole());
    let made = match one.attempt {
        0 => String::new(),
        attempt => format!(" that attempt {attempt} made"),
    };
    let described = |listed: &Checkpoint| match one.attempt {
        0 => clip(&listed.name),
        _ => format!("{} of attempt {}", clip(&listed.name), listed.epoch.counter),
    };
    let names: Vec<String> = whole().rev().take(LISTED_MAX).map(described).collect();
    let there = match whole().count() {
        0 => "it has none".to_owned(),
        count if count > LISTED_MAX => format!(
            "the newest of its {count} are {}; `mlctl checkpoint ls {}` lists all",
            names.join(", "),
            job.id
        ),
        _ => format!("it has {}", names.join(", ")),
    };
    let name = clip(&one.name);
    let why = format!("job {} has no checkpoint {name}{made}: {there}", job.id);
    Refusal::new(Code::NotFound, why)
}

fn in_history(id: JobId) -> Refusal {
    let ended = ended_long_ago(id);
    let why = format!(
        "{}; it is history, and its checkpoints stay as they are",
        ended.message
    );
    Refusal::new(ended.code, why)
}

#[cfg(test)]
#[path = "change_checkpoints_tests.rs"]
mod tests;
