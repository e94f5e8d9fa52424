//! `mlctl-tests simulate [TRACE CLUSTER]`: replays a recorded load with each baseline and prints a line for each. Does NOT run a policy of the product:
//! `mlctl simulate` does.
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use mlctl_coordinator::scheduler::plan::Proposal;
use mlctl_coordinator::simulation::cluster::Cluster;
use mlctl_coordinator::simulation::{Options, Report, Trace, settings, simulate};
use mlctl_coordinator::state::view::policy::Policy;
use mlctl_coordinator::state::view::scene::Scene;

use super::lengths::Lengths;
use super::{easy, fifo, files, sjf, srtf};

/// How it is called.
pub const USAGE: &str = "mlctl-tests simulate [TRACE CLUSTER]   (in the folder that MLCTL_TRACES names; default: philly_1w philly-64x8)";

/// Runs what `words` say.
///
/// # Errors
/// There is no such load or cluster, or a baseline proposed what cannot be.
pub fn main(words: &[&str]) -> Result<()> {
    let (trace, cluster) = match words {
        [] => ("philly_1w", "philly-64x8"),
        [trace, cluster] => (*trace, *cluster),
        _ => bail!("usage: {USAGE}"),
    };
    let folder =
        files::folder().context("set MLCTL_TRACES to the folder with the recorded loads")?;
    let cluster = files::cluster(&folder, cluster)?;
    let mut trace = files::trace(&folder, trace)?;
    trace.cap_per_node(cluster.node_gpus_max());
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12} {:>7}",
        "baseline",
        "avg JCT",
        "avg queue",
        "p99 queue",
        "1 GPU",
        "> 8 GPUs",
        "preemptions",
        "wall s"
    );
    let lengths = Lengths(trace.lengths_ms.clone());
    line("fifo", &trace, &cluster, fifo::fifo)?;
    line("easy-oracle", &trace, &cluster, |scene, now| {
        easy::easy_oracle(&lengths, scene, now)
    })?;
    line("sjf-oracle", &trace, &cluster, |scene, now| {
        sjf::sjf_oracle(&lengths, scene, now)
    })?;
    line("srtf-oracle", &trace, &cluster, |scene, now| {
        srtf::srtf_oracle(&lengths, scene, now)
    })
}

/// One baseline's figures, seconds.
fn line(
    name: &str,
    trace: &Trace,
    cluster: &Cluster,
    planner: impl FnMut(&Scene, i64) -> Proposal<()>,
) -> Result<()> {
    let begin = Instant::now();
    let settings = settings::shipped(Policy::Fair);
    let run = simulate(trace, cluster, &settings, &Options::default(), planner);
    let report = Report::of(&run.map_err(|error| anyhow!("{name}: {error}"))?);
    println!(
        "{name:<12} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>12} {:>7.2}",
        report.all.avg_jct_s,
        report.all.avg_queue_s,
        report.all.p99_queue_s,
        report.single.avg_queue_s,
        report.wide.avg_queue_s,
        report.preemptions,
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}
