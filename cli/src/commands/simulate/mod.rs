//! `mlctl simulate`: replays a recorded load on a described cluster with the scheduler's own code, and says what came out. Talks to no cluster.
mod inflation;
mod inflation_baselines;
mod packing;
mod report;
mod settings;
mod trace;

use std::time::Instant;

use mlctl_coordinator::scheduler::engine::{Memo, propose_with};
use mlctl_coordinator::simulation::cluster::{Cluster, Teams};
use mlctl_coordinator::simulation::{Options, Report, Trace, simulate, synthetic, transform};
use mlctl_coordinator::state::view::scene::Scene;
use mlctl_proto::units::UtcMs;

use crate::args::{SharedBy, SimulateArgs};
use crate::failure::Failure;
use crate::output::Output;
use report::Row;
use settings::Chosen;

/// Between two passes of `--safety`, milliseconds.
const SAFETY_MS: u64 = 30_000;
/// Jobs of a made-up load for each GPU of the cluster.
const JOBS_PER_GPU: u64 = 16;

/// Runs what `args` say.
pub fn run(args: &SimulateArgs, output: &dyn Output) -> Result<u8, Failure> {
    let cluster = trace::cluster(&args.cluster).map_err(Failure::usage)?;
    let load = load(args, &cluster)?;
    if args.inflation {
        let rows = packing::run(&load, &cluster).map_err(Failure::usage)?;
        output.value(
            &packing::json(&rows, load.jobs.len()),
            &packing::table(&rows),
        );
        return Ok(0);
    }
    let policies = match &args.compare {
        Some(two) => two.clone(),
        None => vec![args.policy.clone()],
    };
    let chosen: Vec<Chosen> = (policies.iter())
        .map(|policy| settings::chosen(policy).map_err(Failure::usage))
        .collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    for one in &chosen {
        rows.push(replay(args, &load, &cluster, one)?);
    }
    let json = report::json(&rows);
    output.value(&json, &report::table(&rows));
    Ok(0)
}

fn load(args: &SimulateArgs, cluster: &Cluster) -> Result<Trace, Failure> {
    let mut load = match (args.synthetic, &args.trace) {
        (Some(seed), _) => made_up(cluster, seed),
        (None, Some(path)) => trace::trace(path).map_err(Failure::usage)?,
        (None, None) => return Err(Failure::usage("give a TRACE, or --synthetic SEED".into())),
    };
    load.cap_per_node(cluster.node_gpus_max());
    if let Some(part) = args.widen {
        load = transform::widen(&load, part, args.seed);
    }
    if let Some(seconds) = args.jitter {
        load = transform::jitter(&load, seconds.saturating_mul(1_000), args.seed);
    }
    if let Some(factor) = args.load {
        load = transform::load(&load, factor);
    }
    Ok(load)
}

fn made_up(cluster: &Cluster, seed: u64) -> Trace {
    let gpus = cluster.units() / mlctl_coordinator::state::view::amounts::GPU;
    let jobs = u32::try_from(gpus.saturating_mul(JOBS_PER_GPU))
        .unwrap_or(u32::MAX)
        .clamp(100, 100_000);
    synthetic::generate(
        &synthetic::Shape::narrow(gpus, cluster.node_gpus_max(), jobs),
        seed,
    )
}

fn replay(
    args: &SimulateArgs,
    load: &Trace,
    cluster: &Cluster,
    chosen: &Chosen,
) -> Result<Row, Failure> {
    let options = Options {
        history_ms: args.history,
        teams: match args.teams {
            SharedBy::One => Teams::One,
            SharedBy::Vc => Teams::PerVc,
        },
        safety_ms: args.safety.then_some(SAFETY_MS),
        ..Options::default()
    };
    let mut memo = Memo::default();
    let planner = |scene: &Scene, now: UtcMs| propose_with(&mut memo, scene, now);
    let begin = Instant::now();
    let outcome =
        simulate(load, cluster, &chosen.settings, &options, planner).map_err(|error| {
            Failure::failed(format!(
                "the replay with policy {} stopped: {error}",
                chosen.name
            ))
        })?;
    Ok(Row {
        policy: chosen.name.clone(),
        settings_hash: mlctl_coordinator::simulation::settings::hash(&chosen.settings),
        jobs: load.jobs.len(),
        report: Report::of(&outcome),
        wall_s: begin.elapsed().as_secs_f64(),
    })
}
