//! RetryJobs: a person tries jobs again: all that are named, or none. What is held may start again, what backs off may start at once,
//! and what was held against them is forgotten. A job that is over stays as it ended: it is submitted anew, as another job with the
//! same spec and code, which goes on from the checkpoints that are left. Does not start anything.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::membership::{self, Submitter};
use super::selection::owned;
use super::submit_job::{admit, next_id};
use super::{Context, failures};
use crate::state::change::{Change, ended_long_ago};
use crate::state::codec::CodecError;
use crate::state::records::{Array, Job, JobState, Lineage, Marks, Reply, Retries, Spec, Turn};
use crate::state::rules::Request;
use crate::state::transition::advance;

/// Which jobs to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryJobs {
    /// Their ids.
    pub jobs: Vec<JobId>,
}

impl RetryJobs {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_person()?;
        if self.jobs.is_empty() {
            return Err(Refusal::new(
                Code::BadRequest,
                "no job is named: give at least one id",
            ));
        }
        let ids: BTreeSet<JobId> = self.jobs.iter().copied().collect();
        let (mut released, mut going, mut anew) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            if change.state().is_archived(id) {
                return Err(in_history(id));
            }
            let mut job = change.job(id)?;
            owned(&job, context.actor)?;
            if job.state.terminal() {
                anew.push((id, submit_again(change, &job, context)?));
                continue;
            }
            let held = job.state == JobState::Held;
            let waits = held || job.state == JobState::Pending;
            // What a person holds a person releases.
            let kept = job.turn.hold.is_some();
            if !waits || job.retries == Retries::default() {
                going.push(id);
                continue;
            }
            failures::forgive(&mut job);
            if held && !kept {
                advance(&mut job, JobState::Pending)?;
            }
            change.put_job(job);
            if kept {
                going.push(id);
                continue;
            }
            change.replan();
            released.push(id);
        }
        Ok(Reply::Retried {
            released,
            going,
            anew,
        })
    }
}

/// Another job as the one that is over was. It is its owner's, whoever asks.
fn submit_again(change: &mut Change, over: &Job, context: &Context) -> Result<JobId, Refusal> {
    let spec = change.state().spec(&over.spec_hash).cloned();
    let spec = spec.ok_or_else(|| {
        Refusal::new(Code::Internal, format!("job {} has lost its spec", over.id))
    })?;
    let broken = |error: CodecError| Refusal::new(Code::Internal, error.to_string());
    let parsed = Request::spec(&spec.json).map_err(broken)?;
    let request = change.state().request(over).cloned();
    let who = Submitter {
        id: &over.owner_id,
        name: &over.owner_name,
        admin: context.actor.admin,
    };
    // It goes where it was, if that is still its owner's to say.
    let team = membership::team_of(change.state(), who, Some(&over.team))?;
    admit(change, &over.owner_id, &over.owner_name, request.as_deref())?;
    membership::admits(change.state(), &team, who, &parsed)?;
    let array = parsed.array;
    let id = next_id(change)?;
    change.put_spec(Spec {
        uses: spec.uses.saturating_add(1),
        ..Spec::clone(&spec)
    })?;
    // Each field is named: a new one has to be decided upon, here as at a submit.
    change.put_job(Job {
        id,
        name: over.name.clone(),
        owner_id: over.owner_id.clone(),
        owner_name: over.owner_name.clone(),
        team,
        spec_hash: over.spec_hash,
        code_manifest: over.code_manifest.clone(),
        code_bytes: over.code_bytes,
        traceparent: over.traceparent.clone(),
        submitter_uid: over.submitter_uid,
        on_disconnect: over.on_disconnect,
        state: JobState::Pending,
        submitted_ms: context.now_ms,
        started_ms: 0,
        ended_ms: 0,
        submit_index: context.index,
        epoch_counter: 0,
        recalled_counter: 0,
        infrastructure_restarts: 0,
        outcome: None,
        cancel_requested: false,
        cancelled_by: String::new(),
        checkpoints: Vec::new(),
        retries: Retries::default(),
        lineage: Some(lineage(over)),
        turn: turn(over, context.now_ms),
        marks: Marks::default(),
        array: array.as_ref().map(Array::new).map(Arc::new),
    });
    change.queued();
    Ok(id)
}

/// When the next try's turn comes: as the last one's, but a person wants it now, so that it waits for nobody, and what is over binds nobody.
fn turn(over: &Job, now_ms: UtcMs) -> Turn {
    let ahead = |at: UtcMs| if at > now_ms { at } else { 0 };
    let old = &over.turn;
    Turn {
        class: old.class,
        begin_ms: ahead(old.begin_ms),
        start_by_ms: ahead(old.start_by_ms),
        end_by_ms: ahead(old.end_by_ms),
        total_ms: old.total_ms,
        preemptible: old.preemptible,
        ..Turn::default()
    }
}

/// Where the next try goes on: from what the last one left, or from what that had been given.
fn lineage(over: &Job) -> Lineage {
    let inherited = over.lineage.clone().filter(|_| over.checkpoints.is_empty());
    Lineage {
        retry_of: over.id,
        made_by: inherited.as_ref().map_or(over.id, |older| older.made_by),
        checkpoints: inherited.map_or_else(|| over.checkpoints.clone(), |older| older.checkpoints),
    }
}

fn in_history(id: JobId) -> Refusal {
    let ended = ended_long_ago(id);
    let why = format!(
        "{}; it is history and cannot be tried again: submit its spec anew",
        ended.message
    );
    Refusal::new(ended.code, why)
}

#[cfg(test)]
#[path = "retry_jobs_tests.rs"]
mod tests;
