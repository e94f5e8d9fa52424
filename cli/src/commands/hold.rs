//! `mlctl hold`: keep jobs that wait from starting. What is named is one command: all of it or none.
use mlctl_proto::api::HoldRequest;

use super::which;
use crate::args::{Global, HoldArgs};
use crate::client::{Client, fresh_key, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Does so with the jobs of `args`.
pub async fn run(args: &HoldArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let filter = which::filter(&args.which)?;
    let mut client = Client::open(global)?;
    let request = HoldRequest {
        key: fresh_key(),
        jobs: args.which.jobs.clone(),
        filter,
        why: args.reason.clone().unwrap_or_default(),
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).hold(request).await }
    });
    output.edited(&answer.await?, "held");
    Ok(0)
}
