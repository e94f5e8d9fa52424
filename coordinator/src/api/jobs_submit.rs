//! Submit: check the spec, see that its code is safe on a majority, replicate the job.
//!
//! Whether anything could ever run it, and the user's limits, are checked when the command is applied.
use std::sync::Arc;

use mlctl_proto::api::{SubmitReply, SubmitRequest};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::SPEC_BYTES_MAX;
use mlctl_proto::spec::{JobSpec, parse_json};
use mlctl_runtime::telemetry::trace_context;
use prost::Message;

use super::auth::Person;
use super::exchange;
use crate::shared::{CallError, Shared};
use crate::state::commands::SubmitJob;
use crate::state::records::Reply;
use crate::state::{Body, IdempotencyKey};

/// Serves the call on the leader.
pub async fn submit(
    shared: &Arc<Shared>,
    person: &Person,
    request: SubmitRequest,
) -> Result<SubmitReply, CallError> {
    let key = key(&request.key, hash(&request))?;
    let spec = spec(&request.spec)?;
    let code_bytes = code_bytes(shared, &request.code_manifest).await?;
    let body = Body::SubmitJob(SubmitJob {
        spec: spec.canonical_json(),
        code_manifest: request.code_manifest,
        code_bytes,
        traceparent: traceparent(&request.traceparent),
        submitter_uid: request.uid,
    });
    let committed = shared
        .propose(person.actor.clone(), &person.source, Some(key), body)
        .await?;
    let Reply::Submitted { job } = committed.reply else {
        return Err(unexpected().into());
    };
    let state = shared.state();
    let name = state
        .job(job)
        .map_or_else(|| spec.display_name(), |job| job.name.clone());
    tracing::debug!(%job, %name, "submitted");
    Ok(SubmitReply {
        job: job.to_string(),
        index: committed.index,
        name,
    })
}

/// A checked spec.
pub(super) fn spec(json: &[u8]) -> Result<JobSpec, Refusal> {
    if json.len() > SPEC_BYTES_MAX {
        let why = format!(
            "the job spec has {} bytes; at most {SPEC_BYTES_MAX}",
            json.len()
        );
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let spec = parse_json(json)?;
    spec.check()?;
    Ok(spec)
}

/// Bytes of the code that a manifest names, which must be on a majority with all its files.
async fn code_bytes(shared: &Arc<Shared>, manifest: &str) -> Result<u64, CallError> {
    if manifest.is_empty() {
        return Ok(0);
    }
    let bad = |why: String| Refusal::new(Code::BadRequest, why);
    let id = manifest
        .parse()
        .map_err(|error: mlctl_blobs::BlobIdError| bad(error.to_string()))?;
    let code = exchange::manifest(shared, id).await?;
    let mut wanted: Vec<_> = code
        .files
        .iter()
        .filter_map(|file| file.blob.parse().ok())
        .collect();
    wanted.push(id);
    let missing = exchange::missing(shared, wanted).await?;
    match missing.first() {
        None => Ok(code.bytes()),
        Some(first) => {
            let why = format!(
                "code manifest {manifest}: {} of its blobs are not on a majority of coordinators, {first} among them; upload them again",
                missing.len()
            );
            Err(bad(why).into())
        }
    }
}

/// The job's trace goes on from here: the span of this call, else what the client sent, else a new one.
fn traceparent(given: &str) -> String {
    let own = trace_context::current_traceparent();
    let given = trace_context::is_valid(given).then(|| given.to_owned());
    own.or(given).unwrap_or_else(trace_context::generate)
}

/// The request without what differs between two tries of the same.
fn hash(request: &SubmitRequest) -> [u8; 32] {
    let bare = SubmitRequest {
        key: Vec::new(),
        traceparent: String::new(),
        ..request.clone()
    };
    *blake3::hash(&bare.encode_to_vec()).as_bytes()
}

/// A client's key with the hash of its request.
pub fn key(uuid: &[u8], request_hash: [u8; 32]) -> Result<IdempotencyKey, Refusal> {
    let wrong = || {
        Refusal::new(
            Code::BadRequest,
            format!(
                "the idempotency key has {} bytes; send 16 random ones",
                uuid.len()
            ),
        )
    };
    let uuid = uuid.try_into().map_err(|_| wrong())?;
    Ok(IdempotencyKey { uuid, request_hash })
}

/// Apply answered with something else than this command answers.
pub fn unexpected() -> Refusal {
    Refusal::new(
        Code::Internal,
        "the state machine gave an answer to another command",
    )
}
