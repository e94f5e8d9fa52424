//! `mlctl logs`: the output of a job's ranks, live or after the end.
use mlctl_proto::api::LogsRequest;

use super::follow;
use crate::args::{Global, LogsArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// Prints what `args` select. Ctrl-C just ends it.
pub async fn run(args: &LogsArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let request = LogsRequest {
        job: args.job.clone(),
        follow: args.follow,
        attempt: args.attempt.unwrap_or(0),
        rank: args.rank,
        all_attempts: args.all_attempts,
    };
    follow::lines(&mut client, request, &mut |line| output.log_line(line)).await?;
    Ok(0)
}
