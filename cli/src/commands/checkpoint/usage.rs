//! `mlctl checkpoint usage`: what the checkpoints of each team take, by what the cluster believes.
//! Does NOT ask nodes: chunks that checkpoints share are counted for each of them.
use mlctl_proto::api::CheckpointUsageRequest;

use crate::args::Global;
use crate::client::{Client, checkpoints, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Shows it.
pub async fn run(global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let answer = client.call(|channel| {
        let request = traced(CheckpointUsageRequest {});
        async move { checkpoints(channel).usage(request).await }
    });
    let reply = answer.await?;
    output.usage(&reply);
    if reply.left_out > 0 {
        output.note(&format!(
            "note: {} teams that hold less are not listed; the total has them",
            reply.left_out
        ));
    }
    Ok(0)
}
