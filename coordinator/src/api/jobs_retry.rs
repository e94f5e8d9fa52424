//! Retry: one command for any number of jobs. Whose they are, and what becomes of each, is decided when it is applied.
use std::sync::Arc;

use mlctl_proto::api::{Anew, RetryReply, RetryRequest};
use mlctl_proto::ids::JobId;
use prost::Message;

use super::auth::Person;
use super::jobs_cancel::named;
use super::jobs_submit::{key, unexpected};
use crate::shared::{CallError, Shared};
use crate::state::Body;
use crate::state::commands::RetryJobs;
use crate::state::records::Reply;

/// Serves the call on the leader.
pub async fn retry(
    shared: &Arc<Shared>,
    person: &Person,
    request: RetryRequest,
) -> Result<RetryReply, CallError> {
    let bare = RetryRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let hash = *blake3::hash(&bare.encode_to_vec()).as_bytes();
    let key = key(&request.key, hash)?;
    let jobs = named(&request.jobs, "try again")?;
    let body = Body::RetryJobs(RetryJobs { jobs });
    let committed = shared
        .propose(person.actor.clone(), &person.source, Some(key), body)
        .await?;
    let Reply::Retried {
        released,
        going,
        anew,
    } = committed.reply
    else {
        return Err(unexpected().into());
    };
    let texts = |ids: Vec<JobId>| ids.into_iter().map(|id| id.to_string()).collect();
    let anew = anew.into_iter().map(|(job, as_job)| Anew {
        job: job.to_string(),
        as_job: as_job.to_string(),
    });
    Ok(RetryReply {
        released: texts(released),
        going: texts(going),
        anew: anew.collect(),
        index: committed.index,
    })
}
