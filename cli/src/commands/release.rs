//! `mlctl release`: let jobs start that a person holds. What is named is one command: all of it or none.
use mlctl_proto::api::ReleaseRequest;

use super::which;
use crate::args::{Global, ReleaseArgs};
use crate::client::{Client, fresh_key, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Does so with the jobs of `args`.
pub async fn run(args: &ReleaseArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let filter = which::filter(&args.which)?;
    let mut client = Client::open(global)?;
    let request = ReleaseRequest {
        key: fresh_key(),
        jobs: args.which.jobs.clone(),
        filter,
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).release(request).await }
    });
    output.edited(&answer.await?, "may start");
    Ok(0)
}
