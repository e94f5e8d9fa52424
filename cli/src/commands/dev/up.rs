//! `mlctl dev`: bring the cluster up, in the background or until Ctrl-C.
use std::path::Path;
use std::time::Instant;

use mlctl_runtime::config::ContextFile;

use crate::args::DevArgs;
use crate::dev::control;
use crate::dev::layout::{Dev, Layout};
use crate::dev::up::detached;
use crate::failure::Failure;
use crate::output::Output;

/// Brings the cluster in `dir` up.
pub async fn run(dir: &Path, args: &DevArgs, output: &dyn Output) -> Result<u8, Failure> {
    let begun = Instant::now();
    let dev = detached(dir, args.nodes, args.gpus).await?;
    let current = make_current(dir)?;
    output.note(&story(
        dir,
        &dev,
        begun.elapsed().as_millis(),
        current.as_deref(),
    ));
    if args.detach {
        return Ok(0);
    }
    output.note("Ctrl-C ends it; its data stays");
    tokio::signal::ctrl_c().await.map_err(Failure::internal)?;
    control::stop(dir)?;
    Ok(0)
}

fn story(dir: &Path, dev: &Dev, ms: u128, elsewhere: Option<&str>) -> String {
    let gpus = if dev.gpus == 0 {
        String::new()
    } else {
        format!(" x {} GPUs (SIM: simulated)", dev.gpus)
    };
    let context = match elsewhere {
        None => "its context is now your current one".to_owned(),
        Some(path) => {
            format!("you have a context already; to use this cluster: export MLCTL_CONFIG={path}")
        }
    };
    let timers = mlctl_coordinator::state::records::Timers::DEV;
    let root = if nix::unistd::getuid().is_root() {
        "\n  jobs run as root: a dev cluster allows that, no other does unasked"
    } else {
        ""
    };
    format!(
        "mlctl dev: {}.{} s  {} coordinators ({})  {} nodes{gpus}\n  heartbeat {} ms, node_timeout {} ms, lost_after {} ms, fence_after {} ms: short, for trying out{root}\n  {context} · stop: mlctl dev stop · state: {}",
        ms / 1000,
        ms / 100 % 10,
        dev.coordinators.len(),
        dev.coordinators
            .iter()
            .map(|member| member.address.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        dev.nodes.len(),
        timers.heartbeat_ms,
        timers.node_timeout_ms,
        timers.lost_after_ms,
        timers.fence_after_ms,
        dir.display()
    )
}

/// Makes the cluster's context the current one, unless that is a context of another, real cluster.
/// Returns where ours lies if the current one was left alone.
fn make_current(dir: &Path) -> Result<Option<String>, Failure> {
    let ours = Layout::new(dir).context();
    let current = ContextFile::default_path().map_err(Failure::config)?;
    let context = ContextFile::read(&ours).map_err(Failure::config)?;
    let free = match ContextFile::read(&current) {
        Err(_) => !current.exists(),
        Ok(other) => other.cluster == context.cluster || was_dev(&current),
    };
    if !free {
        return Ok(Some(ours.display().to_string()));
    }
    context.write(&current).map_err(Failure::config)?;
    std::fs::write(dev_mark(&current), context.cluster).map_err(Failure::internal)?;
    Ok(None)
}

/// Beside a current context that `mlctl dev` wrote lies a mark with its cluster's id.
fn dev_mark(current: &Path) -> std::path::PathBuf {
    current.with_extension("dev")
}

fn was_dev(current: &Path) -> bool {
    match (
        ContextFile::read(current),
        std::fs::read_to_string(dev_mark(current)),
    ) {
        (Ok(context), Ok(mark)) => context.cluster == mark,
        _ => false,
    }
}
