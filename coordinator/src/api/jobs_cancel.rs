//! Cancel: one command for any number of jobs. Whose they are is checked when it is applied.
use std::sync::Arc;

use mlctl_proto::api::{CancelReply, CancelRequest};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{IdError, JobId};
use prost::Message;

use super::auth::Person;
use super::jobs_edit::selection;
use super::jobs_submit::{key, unexpected};
use crate::shared::{CallError, Shared};
use crate::state::Body;
use crate::state::commands::CancelJobs;
use crate::state::records::Reply;

/// Jobs in one request.
const JOBS_MAX: usize = 100_000;

/// The jobs that a request names; `verb`: what it asks for.
pub(super) fn named(jobs: &[String], verb: &str) -> Result<Vec<JobId>, Refusal> {
    if jobs.is_empty() || jobs.len() > JOBS_MAX {
        let why = format!("name 1 to {JOBS_MAX} jobs to {verb}");
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let jobs: Result<Vec<JobId>, IdError> = jobs.iter().map(|id| id.parse()).collect();
    jobs.map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))
}

/// Serves the call on the leader.
pub async fn cancel(
    shared: &Arc<Shared>,
    person: &Person,
    request: CancelRequest,
) -> Result<CancelReply, CallError> {
    let bare = CancelRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let hash = *blake3::hash(&bare.encode_to_vec()).as_bytes();
    let key = key(&request.key, hash)?;
    let which = selection(&request.jobs, request.filter, "cancel")?;
    let body = Body::CancelJobs(CancelJobs {
        jobs: which.jobs,
        filter: which.filter,
    });
    let committed = shared
        .propose(person.actor.clone(), &person.source, Some(key), body)
        .await?;
    let Reply::Cancelled {
        jobs,
        already_ended,
    } = committed.reply
    else {
        return Err(unexpected().into());
    };
    let texts = |ids: Vec<JobId>| ids.into_iter().map(|id| id.to_string()).collect();
    Ok(CancelReply {
        cancelled: texts(jobs),
        already_ended: texts(already_ended),
        index: committed.index,
    })
}
