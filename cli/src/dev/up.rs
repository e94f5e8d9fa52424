//! Bringing a dev cluster up: layout, supervisor, and the wait until every node is Ready.
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::control::{Ask, ask};
use super::layout::{Dev, Layout};
use super::status;
use crate::failure::Failure;

/// How long a cluster may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes or heals the cluster in `dir` in the background, and returns when all nodes are Ready.
pub async fn detached(dir: &Path, nodes: Option<u32>, gpus: Option<u32>) -> Result<Dev, Failure> {
    let layout = Layout::new(dir);
    let dev = layout.ensure(nodes, gpus)?;
    if ask(dir, &Ask::Heal)?.is_none() {
        spawn_supervisor(&layout)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(dir, &Ask::Status)?.is_none() {
            if Instant::now() > deadline {
                let log = layout.log("supervisor");
                return Err(Failure::internal(format!(
                    "the supervisor did not start; see {}",
                    log.display()
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    status::all_ready(dir, &dev.nodes, PATIENCE).await?;
    Ok(dev)
}

fn spawn_supervisor(layout: &Layout) -> Result<(), Failure> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(layout.log("supervisor"))
        .map_err(Failure::internal)?;
    let mut command = Command::new(std::env::current_exe().map_err(Failure::internal)?);
    command.arg("dev-supervisor").arg("--dir").arg(&layout.dir);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(Failure::internal)?)
        .stderr(log);
    // Out of our process group: a Ctrl-C in this terminal is not for it.
    command
        .process_group(0)
        .spawn()
        .map_err(Failure::internal)?;
    Ok(())
}
