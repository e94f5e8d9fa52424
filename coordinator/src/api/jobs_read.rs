//! Get, List and Why: linearizable reads on the leader.
use std::sync::Arc;

use mlctl_proto::api::{GetJobRequest, Job, ListJobsReply, ListJobsRequest, WhyReply, WhyRequest};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{JobId, clip};
use mlctl_proto::limits::{LIST_LIMIT_DEFAULT, MESSAGE_BYTES_MAX};
use prost::Message;

use super::convert;
use super::convert::job::{job, summary};
use super::shown;
use crate::shared::{CallError, Shared};
use crate::state::State;

/// Of one page: what is left of a message is for its frame.
pub(super) const PAGE_BYTES: usize = MESSAGE_BYTES_MAX - 64 * 1024;

/// Serves the call on the leader.
pub async fn get(shared: &Arc<Shared>, request: GetJobRequest) -> Result<Job, CallError> {
    let id = parse(&request.job)?;
    shared.read().await?;
    let state = shown::state_with(shared, id).await?;
    let record = state.job(id).ok_or_else(|| not_found(id))?;
    let reasons = shared.published.explanations();
    let mut answer = job(&state, record, &reasons, shared.clock.now_ms());
    answer.spec = state
        .spec(&record.spec_hash)
        .map(|spec| spec.json.clone())
        .unwrap_or_default();
    Ok(answer)
}

/// Serves the call on the leader.
pub async fn list(
    shared: &Arc<Shared>,
    request: ListJobsRequest,
) -> Result<ListJobsReply, CallError> {
    let after = match request.after.as_str() {
        "" => None,
        text => Some(parse(text)?),
    };
    shared.read().await?;
    let mut state = shared.state();
    let reasons = shared.published.explanations();
    let now_ms = shared.clock.now_ms();
    let limit = match request.limit {
        0 => LIST_LIMIT_DEFAULT,
        limit => limit.min(LIST_LIMIT_DEFAULT),
    };
    let mut bound = None;
    if request.history {
        // One more than fits says whether there are more.
        let (with, ids) = shown::page(
            shared,
            &state,
            after,
            request.owner.clone(),
            limit as usize + 1,
        )
        .await?;
        bound = ids.get(limit as usize).copied();
        state = Arc::new(with);
    }
    let listed = state.jobs().filter(|job| {
        let owned =
            request.owner.is_empty() || [&job.owner_id, &job.owner_name].contains(&&request.owner);
        let wanted = request.all || request.history || !job.state.terminal();
        // Behind the last archived job that was looked up there may be others.
        let known = bound.is_none_or(|bound| job.id <= bound);
        owned && wanted && known && after.is_none_or(|after| job.id > after)
    });
    let mut reply = ListJobsReply {
        jobs: Vec::new(),
        index: state.applied_index(),
        more: false,
        pauses: convert::decision::pauses_of_jobs(&state, now_ms),
    };
    let mut bytes = 0;
    for record in listed {
        let answer = summary(&state, record, &reasons, now_ms);
        // Its length and tag besides.
        bytes += answer.encoded_len() + 8;
        if reply.jobs.len() == limit as usize || bytes > PAGE_BYTES {
            reply.more = true;
            break;
        }
        reply.jobs.push(answer);
    }
    Ok(reply)
}

/// Serves the call on the leader.
pub async fn why(shared: &Arc<Shared>, request: WhyRequest) -> Result<WhyReply, CallError> {
    let id = parse(&request.job)?;
    shared.read().await?;
    let state = shown::state_with(shared, id).await?;
    let record = state.job(id).ok_or_else(|| not_found(id))?;
    let now_ms = shared.clock.now_ms();
    let view = shared.published.view(State::clone(&state));
    let explained = shared.published.look(view, id, now_ms).await?;
    Ok(convert::why::why(&state, record, &explained, now_ms))
}

/// A job id from a request.
pub fn parse(text: &str) -> Result<JobId, Refusal> {
    text.parse().map_err(|error: mlctl_proto::ids::IdError| {
        Refusal::new(Code::BadRequest, error.to_string())
    })
}

/// There is no such job.
pub fn not_found(id: JobId) -> Refusal {
    let id = clip(&id.to_string());
    Refusal::new(
        Code::NotFound,
        format!("there is no job {id}; `mlctl jobs -a` lists all"),
    )
}
