//! `mlctl retry`: try jobs again. Several ids are one command: all are tried again or none.
use mlctl_proto::api::RetryRequest;

use crate::args::{Global, RetryArgs};
use crate::client::{Client, fresh_key, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Tries the jobs of `args` again.
pub async fn run(args: &RetryArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let request = RetryRequest {
        key: fresh_key(),
        jobs: args.jobs.clone(),
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).retry(request).await }
    });
    output.retried(&answer.await?);
    Ok(0)
}
