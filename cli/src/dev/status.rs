//! What a dev cluster is doing: its processes by the supervisor's word, its leader and nodes by the cluster's.
use std::path::Path;
use std::time::{Duration, Instant};

use mlctl_proto::api::{HelloReply, HelloRequest, Member, NodesRequest};
use mlctl_runtime::config::ContextFile;

use super::control::{Answer, Ask, Process, ask, not_running};
use super::layout::Layout;
use crate::client::{cluster, traced};
use crate::failure::Failure;

/// The processes, none if no supervisor answers.
pub fn processes(dir: &Path) -> Result<Vec<Process>, Failure> {
    match ask(dir, &Ask::Status)? {
        Some(Answer::Processes(processes)) => Ok(processes),
        _ => Err(not_running(dir)),
    }
}

/// What one coordinator says of itself, if it answers within 2 s.
async fn hello(context: &ContextFile, address: &str) -> Option<HelloReply> {
    let bundle = context.bundle();
    let asked = async {
        let channel = mlctl_runtime::tls::channel(&bundle, address, Duration::from_secs(1))
            .await
            .ok()?;
        let request = HelloRequest {
            version: mlctl_proto::VERSION.into(),
            capabilities: Vec::new(),
        };
        cluster(channel)
            .hello(traced(request))
            .await
            .ok()
            .map(|reply| reply.into_inner())
    };
    tokio::time::timeout(Duration::from_secs(2), asked)
        .await
        .ok()
        .flatten()
}

/// The coordinators, as the first one that answers and knows a leader knows them; else as any that answers does.
pub async fn members(dir: &Path) -> Result<Vec<Member>, Failure> {
    let context = ContextFile::read(&Layout::new(dir).context()).map_err(Failure::config)?;
    let mut members = Vec::new();
    for address in &context.addresses {
        if let Some(reply) = hello(&context, address).await {
            let leads = reply.members.iter().any(|member| member.leader);
            members = reply.members;
            if leads {
                break;
            }
        }
    }
    Ok(members)
}

/// The leading coordinator, if one is known.
pub async fn leader(dir: &Path) -> Result<Option<Member>, Failure> {
    let members = members(dir).await?;
    Ok(members.into_iter().find(|member| member.leader))
}

/// Waits until every node of the layout is Ready, or says what is missing.
pub async fn all_ready(dir: &Path, nodes: &[String], patience: Duration) -> Result<(), Failure> {
    let context = ContextFile::read(&Layout::new(dir).context()).map_err(Failure::config)?;
    let deadline = Instant::now() + patience;
    let mut seen = String::from("no coordinator answered");
    while Instant::now() < deadline {
        for address in &context.addresses {
            match ready(&context, address, nodes).await {
                Ok(()) => return Ok(()),
                Err(missing) => seen = missing,
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let logs = Layout::new(dir).dir.join("logs");
    Err(Failure::internal(format!(
        "the cluster is not ready: {seen}; its logs are in {}",
        logs.display()
    )))
}

async fn ready(context: &ContextFile, address: &str, nodes: &[String]) -> Result<(), String> {
    let bundle = context.bundle();
    let channel = mlctl_runtime::tls::channel(&bundle, address, Duration::from_secs(1))
        .await
        .map_err(|error| error.to_string())?;
    let asked = async { cluster(channel).nodes(traced(NodesRequest {})).await };
    let reply = tokio::time::timeout(Duration::from_secs(3), asked)
        .await
        .map_err(|_| format!("{address} did not answer"))?
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let is_ready = |name: &String| {
        reply
            .nodes
            .iter()
            .any(|node| node.name == *name && node.liveness == "Ready")
    };
    match nodes.iter().find(|name| !is_ready(name)) {
        None => Ok(()),
        Some(name) => Err(format!("{name} is not Ready")),
    }
}
