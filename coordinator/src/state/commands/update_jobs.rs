//! UpdateJobs: a person changes jobs in place: they keep their ids and their place in the queue. The changed spec is checked as a new one is. What an
//! attempt has been started with stands while it runs, and what decides how many processes there are stands once the job has run at all: what is known
//! of its attempts and checkpoints goes by that. Only an admin raises a class.
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::spec::{Edit, JobSpec, Moment};
use mlctl_proto::units::UtcMs;

use super::selection::Selection;
use super::{Context, membership};
use crate::state::change::Change;
use crate::state::codec::CodecError;
use crate::state::records::{Job, JobState, Reply, Spec};
use crate::state::rules::{Request, never_fits};

/// What is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateJobs {
    /// Of which jobs.
    pub which: Selection,
    /// Keys of a spec with their new values, as JSON.
    pub edit: Vec<u8>,
}

impl UpdateJobs {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_person()?;
        let edit = Edit::parse(&self.edit)?;
        let act = |change: &mut Change, job: Job| update(change, job, &edit, context);
        self.which.each(change, context, act)
    }
}

fn update(
    change: &mut Change,
    mut job: Job,
    edit: &Edit,
    context: &Context,
) -> Result<bool, Refusal> {
    check_life(&job, edit)?;
    let stored = change.state().spec(&job.spec_hash).cloned();
    let stored = stored
        .ok_or_else(|| Refusal::new(Code::Internal, format!("job {} has lost its spec", job.id)))?;
    let broken = |error: CodecError| Refusal::new(Code::Internal, error.to_string());
    let before = Request::spec(&stored.json).map_err(broken)?;
    let after = edit.apply_to(&before)?;
    if after == before {
        return Ok(false);
    }
    if after.class > job.turn.class && !context.actor.admin {
        let why = format!(
            "job {} is {}, and only an admin raises a class: ask one, or submit it anew as {}",
            job.id,
            job.turn.class.word(),
            after.class.word()
        );
        return Err(Refusal::new(Code::Denied, why));
    }
    check_times(&before, &after, context.now_ms)?;
    if after.licenses != before.licenses {
        membership::knows_licenses(change.state(), &after)?;
    }
    if edit.shape().is_some()
        && let Some(never) = never_fits(&Request::of(&after), change.state().inventory())
    {
        let why = format!("no node of this cluster could ever run it: {}", never.why);
        return Err(Refusal::new(Code::NeverFits, why));
    }
    let old_hash = job.spec_hash;
    job.spec_hash = store(change, &after)?;
    change_record(&mut job, &before, &after, context.now_ms);
    change.put_job(job);
    change.release_spec(&old_hash)?;
    change.replan();
    Ok(true)
}

/// What of a job may change now.
fn check_life(job: &Job, edit: &Edit) -> Result<(), Refusal> {
    let conflict = |why: String| Err(Refusal::new(Code::Conflict, why));
    let (id, state) = (job.id, job.state.word());
    if job.state.terminal() || job.state == JobState::Stopping || job.cancel_requested {
        return conflict(format!(
            "job {id} is {state}: nothing of it changes any more; submit it anew"
        ));
    }
    let waits = matches!(job.state, JobState::Pending | JobState::Held);
    if let Some(key) = edit.start().filter(|_| !waits) {
        return conflict(format!(
            "job {id} is {state}, and `{key}` is read when it starts: change it while the job waits, or cancel it and submit it anew"
        ));
    }
    if let Some(key) = edit.shape().filter(|_| job.epoch_counter > 0) {
        return conflict(format!(
            "job {id} has run, and its attempts and checkpoints go by its `{key}`: cancel it and submit it anew"
        ));
    }
    Ok(())
}

/// A deadline that is changed lies ahead.
fn check_times(before: &JobSpec, after: &JobSpec, now_ms: UtcMs) -> Result<(), Refusal> {
    for (key, old, new) in [
        ("start_by", before.start_by, after.start_by),
        ("end_by", before.end_by, after.end_by),
    ] {
        if let Some(at) = new.filter(|at| Some(*at) != old && at.ms() <= now_ms) {
            let why = format!("`{key}` is {at}, which is over: name a time that lies ahead");
            return Err(Refusal::new(Code::BadRequest, why));
        }
    }
    Ok(())
}

/// Stores a spec for one more job; gives its hash.
fn store(change: &mut Change, spec: &JobSpec) -> Result<[u8; 32], Refusal> {
    let mut stored = Spec {
        json: spec.canonical_json(),
        uses: 1,
    };
    let hash = stored.hash();
    if let Some(known) = change.state().spec(&hash) {
        stored.uses = known.uses.saturating_add(1);
    }
    change.put_spec(stored)?;
    Ok(hash)
}

/// What differs, and nothing else: another try of a job has left deadlines behind that its spec still names.
fn change_record(job: &mut Job, before: &JobSpec, after: &JobSpec, now_ms: UtcMs) {
    let ms = |at: Option<Moment>| at.map_or(0, Moment::ms);
    job.name = after.display_name();
    job.turn.class = after.class;
    if before.begin != after.begin {
        job.begin_at(ms(after.begin), now_ms);
    }
    if before.start_by != after.start_by {
        job.turn.start_by_ms = ms(after.start_by);
    }
    if before.end_by != after.end_by {
        job.turn.end_by_ms = ms(after.end_by);
    }
    let limit = after.array.as_ref().map(|array| array.limit);
    let differs = |limit: &u32| {
        job.array
            .as_ref()
            .is_some_and(|array| array.limit != *limit)
    };
    if let Some(limit) = limit.filter(differs)
        && let Some(array) = job.array.as_mut().map(Arc::make_mut)
    {
        array.limit = limit;
    }
}

#[cfg(test)]
#[path = "update_jobs_tests.rs"]
mod tests;
