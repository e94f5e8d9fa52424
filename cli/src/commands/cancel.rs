//! `mlctl cancel`: end jobs. Several ids are one command: all are cancelled or none.
use mlctl_proto::api::CancelRequest;

use super::which;
use crate::args::{CancelArgs, Global};
use crate::client::{Client, fresh_key, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Cancels the jobs of `args`.
pub async fn run(args: &CancelArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let filter = which::filter(&args.which)?;
    let mut client = Client::open(global)?;
    let request = CancelRequest {
        key: fresh_key(),
        jobs: args.which.jobs.clone(),
        filter,
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).cancel(request).await }
    });
    output.cancelled(&answer.await?);
    Ok(0)
}
