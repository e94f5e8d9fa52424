//! The worst that the demo does to a training: the node of rank 0 dies, and its disk with it. And what brings the training back.
//! Does NOT heal anything: that is what is to be seen.
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use mlctl_proto::api::{Attempt, Checkpoint, Job};
use serde::Deserialize;
use tokio::sync::watch;

use super::training::Progress;
use super::workload::Workload;
use crate::client::Client;
use crate::commands::follow::get;
use crate::dev::control::{Ask, order};
use crate::dev::layout::Layout;
use crate::failure::Failure;

/// A node does not write any more this long after it was killed.
const SETTLES: Duration = Duration::from_secs(5);
/// Between two looks at what nobody announces.
const LOOK: Duration = Duration::from_millis(50);

/// A node that died.
#[derive(Debug)]
pub struct Kill {
    /// Its name.
    pub node: String,
    /// The step that the training had reached.
    pub step: u64,
    /// When.
    pub at: Instant,
    /// Rank 0 ran there.
    pub rank0: bool,
    /// Nothing of its disk is left.
    pub wiped: bool,
}

/// What an attempt was brought before it began.
#[derive(Debug, Default)]
pub struct Restored {
    /// All its nodes together.
    pub bytes: u64,
    /// Who sent it, each once.
    pub from: Vec<String>,
}

/// What an agent leaves of a restore.
#[derive(Deserialize)]
struct Facts {
    bytes: u64,
    from: Vec<String>,
}

/// Waits until the training is past its middle and another node has a copy of a checkpoint; then kills the node of rank 0 and
/// wipes its disk.
pub async fn strike(
    dir: &Path,
    client: &mut Client,
    job: &str,
    workload: &Workload,
    mut progress: watch::Receiver<Progress>,
    tell: &dyn Fn(&str),
) -> Result<Kill, Failure> {
    loop {
        let changed = progress
            .wait_for(|progress| progress.step >= workload.steps / 2 || progress.result.is_some());
        let step = match changed.await {
            Ok(progress) if progress.result.is_none() => progress.step,
            _ => {
                return Err(Failure::failed(
                    "the training ended before a node could be killed".into(),
                ));
            }
        };
        let now = get(client, job).await?;
        let first = first_node(&now);
        let safe = |one: &Checkpoint| one.step > 0 && one.step < step && survives(one, first);
        let Some(node) = first.filter(|_| now.checkpoints.iter().any(safe)) else {
            // No copy is there yet: look again at the next step.
            if progress.changed().await.is_err() {
                return Err(Failure::failed(
                    "the training ended before a checkpoint of it had a copy".into(),
                ));
            }
            continue;
        };
        let step = progress.borrow_and_update().step.max(step);
        order(dir, &Ask::Kill { name: node.clone() })?;
        let at = Instant::now();
        wipe(&Layout::new(dir).node(node).join("data"))?;
        tell(&format!(
            "   !! {node} killed at step {step}: agent, launcher, keeper and rank 0, all at once, and its disk is wiped"
        ));
        return Ok(Kill {
            node: node.clone(),
            step,
            at,
            rank0: true,
            wiped: true,
        });
    }
}

/// Every part of it is held by some other node.
fn survives(one: &Checkpoint, node: Option<&String>) -> bool {
    let elsewhere = |holders: &[String]| holders.iter().any(|holder| Some(holder) != node);
    let mut filled = one.parts.iter().filter(|part| !part.manifest.is_empty());
    let first = filled.next();
    first.is_some_and(|part| elsewhere(&part.holders))
        && filled.all(|part| elsewhere(&part.holders))
}

fn first_node(job: &Job) -> Option<&String> {
    let allocation = job.attempts.last()?.allocations.first()?;
    Some(&allocation.node)
}

/// Removes all of a dead node's disk. What was just killed may still let go of a file.
fn wipe(data: &Path) -> Result<(), Failure> {
    let until = Instant::now() + SETTLES;
    loop {
        match fs::remove_dir_all(data) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > until => return Err(Failure::internal(error)),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// What the attempt after the kill was brought, once it trains.
pub async fn restored(
    dir: &Path,
    client: &mut Client,
    job: &str,
    mut progress: watch::Receiver<Progress>,
) -> Result<Restored, Failure> {
    let trains = |progress: &Progress| progress.recovered.is_some() || progress.result.is_some();
    if progress.wait_for(trains).await.is_err() {
        return Ok(Restored::default());
    }
    let now = get(client, job).await?;
    let Some(attempt) = now.attempts.last() else {
        return Ok(Restored::default());
    };
    Ok(facts(&Layout::new(dir), job, attempt))
}

fn facts(layout: &Layout, job: &str, attempt: &Attempt) -> Restored {
    let mut restored = Restored::default();
    for allocation in &attempt.allocations {
        let data = layout.node(&allocation.node).join("data");
        let path = data.join("jobs").join(job).join(&attempt.epoch);
        let text = fs::read(path.join("restored.json")).unwrap_or_default();
        let Ok(facts) = serde_json::from_slice::<Facts>(&text) else {
            continue;
        };
        restored.bytes += facts.bytes;
        restored.from.extend(facts.from);
    }
    restored.from.sort_unstable();
    restored.from.dedup();
    restored
}
