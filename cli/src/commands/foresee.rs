//! Asks the cluster what would become of a job, were it submitted now. Does NOT submit it.
use mlctl_proto::api::{ForeseeRequest, WhyReply};
use mlctl_proto::spec::JobSpec;

use crate::client::{Client, jobs, traced};
use crate::failure::Failure;

/// What the scheduler says of such a job. What would refuse the job is the failure.
pub async fn foresee(client: &mut Client, spec: &JobSpec) -> Result<WhyReply, Failure> {
    let request = ForeseeRequest {
        spec: spec.canonical_json(),
        uid: nix::unistd::getuid().as_raw(),
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).foresee(request).await }
    });
    answer.await
}
