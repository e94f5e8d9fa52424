//! Foresee: what would become of a job, were it submitted now. It is submitted to a copy of the state, and that is planned. A call of its own and not a flag of Submit: a
//! coordinator that does not know it yet refuses it, and does not queue the job.
use std::sync::Arc;

use mlctl_proto::api::{ForeseeRequest, WhyReply};
use mlctl_proto::errors::{Code, Refusal};

use super::auth::Person;
use super::convert::why;
use super::jobs_submit::{spec, unexpected};
use super::tried::tried;
use crate::shared::{CallError, Shared};
use crate::state::Body;
use crate::state::commands::{Command, SubmitJob};
use crate::state::records::Reply;

/// Serves the call on the leader. What would refuse the job refuses this, in the same words.
pub async fn foresee(
    shared: &Arc<Shared>,
    person: &Person,
    request: ForeseeRequest,
) -> Result<WhyReply, CallError> {
    let spec = spec(&request.spec)?;
    shared.read().await?;
    let state = shared.state();
    let now_ms = shared.clock.stamp(state.now_ms());
    let command = Command {
        actor: person.actor.clone(),
        source: person.source.clone(),
        time_ms: now_ms,
        key: None,
        body: Body::SubmitJob(SubmitJob {
            spec: spec.canonical_json(),
            code_manifest: String::new(),
            code_bytes: 0,
            traceparent: String::new(),
            submitter_uid: request.uid,
        }),
    };
    let (after, reply) = tried(&state, &command)?;
    let Reply::Submitted { job } = reply else {
        return Err(unexpected().into());
    };
    let view = shared.published.view(after.clone());
    let explained = shared.published.look(view, job, now_ms).await?;
    let record = after.job(job);
    let record =
        record.ok_or_else(|| Refusal::new(Code::Internal, "what was submitted is gone"))?;
    let said = why::why(&after, record, &explained, now_ms);
    // It has no id, and is not there.
    let leading = said.reasons.first().map(|reason| reason.text.clone());
    Ok(WhyReply {
        job: String::new(),
        summary: leading.unwrap_or_default(),
        ..said
    })
}
