//! `mlctl demo`: the whole promise in half a minute, on this machine, with nothing installed.
use std::time::Instant;

use mlctl_runtime::shutdown::Shutdown;
use serde_json::json;

use super::client_side;
use crate::args::DemoArgs;
use crate::demo::story::{Outcome, play};
use crate::demo::workload::{Workload, built_in, torch};
use crate::dev::control;
use crate::dev::up::detached;
use crate::failure::Failure;
use crate::output::Output;

/// Coordinators and nodes of the demo's cluster: one node more than the job needs.
const NODES: u32 = 3;

/// Runs the demo.
pub fn run(args: &DemoArgs, output: &dyn Output) -> Result<u8, Failure> {
    let dir = std::env::temp_dir().join(format!("mlctl-demo-{}", std::process::id()));
    let workload = if args.torch {
        torch(args.seed, &dir.join("code"))
    } else {
        built_in(args.seed)
    };
    let workload = match workload {
        Ok(workload) => workload,
        Err(failure) => {
            // Nothing but our own empty directory may be there.
            let _ = std::fs::remove_dir_all(&dir);
            return Err(failure);
        }
    };
    let told = client_side(async {
        let interrupted = Shutdown::on_signals().map_err(Failure::internal)?;
        tokio::select! {
            told = tell(&dir, &workload, output) => told,
            () = interrupted.wait() => Err(Failure::failed("interrupted".into())),
        }
    });
    clean_up(&dir, args.keep, told.is_err(), output);
    told
}

async fn tell(
    dir: &std::path::Path,
    workload: &Workload,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let begun = Instant::now();
    output.note("mlctl demo: three coordinators and three nodes on this machine, each its own process, talking mTLS");
    let dev = detached(&dir.join("c"), Some(NODES), None).await?;
    output.note(&format!(
        "   up after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let outcome = play(&dir.join("c"), workload, &|text| output.note(text)).await?;
    verdict(
        &outcome,
        dev.coordinators.len(),
        dev.nodes.len(),
        begun,
        output,
    )
}

fn verdict(
    outcome: &Outcome,
    coordinators: usize,
    nodes: usize,
    begun: Instant,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let equal = outcome.reference.params_digest == outcome.survivor.params_digest;
    let summary = format!(
        "\n{}: the training that lost a node ended with {} parameters. {} attempts, {:.1} s in all",
        if equal {
            "It holds"
        } else {
            "It does not hold"
        },
        if equal { "bit-identical" } else { "other" },
        outcome.attempts,
        begun.elapsed().as_secs_f64()
    );
    let value = json!({
        "accuracy": outcome.survivor.accuracy,
        "steps": outcome.survivor.steps,
        "attempts": outcome.attempts,
        "killed_at_step": outcome.killed_at_step,
        "killed_rank0": outcome.killed_rank0,
        "disk_wiped": outcome.disk_wiped,
        "restored_bytes": outcome.restored.bytes,
        "restored_from": outcome.restored.from,
        "resumed_from_step": outcome.survivor.resumed_from_step,
        "params_digest": outcome.survivor.params_digest,
        "reference_digest": outcome.reference.params_digest,
        "coordinators": coordinators,
        "nodes": nodes,
        "recovery_s": (outcome.recovery.as_secs_f64() * 1000.0).round() / 1000.0,
        "wall_s": (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    });
    output.value(&value, &summary);
    let resumed = outcome.survivor.resumed_from_step > 0 && outcome.attempts > 1;
    Ok(if equal && resumed { 0 } else { 1 })
}

fn clean_up(dir: &std::path::Path, keep: bool, failed: bool, output: &dyn Output) {
    let cluster = dir.join("c");
    if keep {
        output.note(&format!(
            "the cluster goes on: export MLCTL_CONFIG={0}/context.toml · end it: mlctl dev stop --dir {0}",
            cluster.display()
        ));
        return;
    }
    // It may never have come up.
    let _ = control::stop(&cluster);
    if failed {
        output.note(&format!(
            "what its processes said is in {}",
            cluster.join("logs").display()
        ));
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(dir) {
        output.note(&format!("{} could not be removed: {error}", dir.display()));
    }
}
