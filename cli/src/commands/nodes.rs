//! `mlctl nodes`: the machines of the cluster.
use mlctl_proto::api::{Node, NodesReply, NodesRequest};

use super::decide;
use crate::args::Global;
use crate::client::{Client, cluster, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Lists all nodes.
pub async fn run(global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let reply = list(&mut client).await?;
    output.nodes(&reply.nodes);
    decide::note_pauses(&reply.pauses, output);
    Ok(0)
}

/// Every node the cluster knows.
pub async fn all(client: &mut Client) -> Result<Vec<Node>, Failure> {
    Ok(list(client).await?.nodes)
}

async fn list(client: &mut Client) -> Result<NodesReply, Failure> {
    let answer = client.call(|channel| {
        let request = traced(NodesRequest {});
        async move { cluster(channel).nodes(request).await }
    });
    answer.await
}
