//! Asks the cluster what would become of a job, were it submitted now. Does NOT submit it.
use mlctl_proto::api::{SubmitRequest, WhyReply};
use mlctl_proto::spec::JobSpec;

use crate::client::{Client, fresh_key, jobs, traced};
use crate::failure::Failure;

/// What the scheduler says of such a job. What would refuse the job is the failure.
pub async fn foresee(client: &mut Client, spec: &JobSpec) -> Result<Option<WhyReply>, Failure> {
    let request = SubmitRequest {
        key: fresh_key(),
        spec: spec.canonical_json(),
        dry_run: true,
        uid: nix::unistd::getuid().as_raw(),
        ..SubmitRequest::default()
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).submit(request).await }
    });
    Ok(answer.await?.foreseen)
}
