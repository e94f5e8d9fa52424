//! `mlctl why`: what keeps a job from running, by the scheduler's own word.
use mlctl_proto::api::WhyRequest;

use super::decide;
use crate::args::{Global, WhyArgs};
use crate::client::{Client, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Explains the job of `args`.
pub async fn run(args: &WhyArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let answer = client.call(|channel| {
        let request = traced(WhyRequest {
            job: args.job.clone(),
        });
        async move { jobs(channel).why(request).await }
    });
    let reply = answer.await?;
    output.why(&reply);
    decide::note_pauses(&reply.pauses, output);
    Ok(0)
}
