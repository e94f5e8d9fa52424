//! `--inflation`: runs the packing experiment with the jobs of a trace on the nodes of a described cluster, for all seeds and, on the same draws, for what the
//! placement is compared with. Does NOT place anything itself.
use std::sync::Arc;

use mlctl_coordinator::simulation::Trace;
use mlctl_coordinator::simulation::cluster::Cluster;
use mlctl_coordinator::state::view::ask::Ask;
use mlctl_coordinator::state::view::nodes::NodeView;
use mlctl_coordinator::state::view::policy::SchedSettings;
use serde_json::{Value, json};

use super::inflation::{Inflated, Placer, SEEDS, inflate};
use super::inflation_baselines::Baseline;

/// Who places, with the name that is printed; the scheduler's own placement first.
const PLACERS: [(&str, Placer); 5] = [
    ("mlctl", Placer::Own),
    ("fgd", Placer::Baseline(Baseline::Fgd)),
    ("packing", Placer::Baseline(Baseline::Packing)),
    ("best-fit", Placer::Baseline(Baseline::BestFit)),
    ("random", Placer::Baseline(Baseline::Random)),
];

/// What one placer came to, by seed.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// One run for each of [`SEEDS`], in their order.
    pub runs: Vec<Inflated>,
}

impl Row {
    /// Mean of the part of the GPUs that is allocated, in percent.
    pub fn mean_pct(&self) -> f64 {
        let sum: f64 = self.runs.iter().map(Inflated::allocated_pct).sum();
        sum / self.runs.len().max(1) as f64
    }
}

/// Runs the experiment, each placer with each seed.
///
/// # Errors
/// The trace has jobs that need more than one node, or the cluster has no GPUs.
pub fn run(load: &Trace, cluster: &Cluster) -> Result<Vec<Row>, String> {
    let wide = load.jobs.iter().filter(|job| job.nodes() > 1).count();
    if wide > 0 {
        return Err(format!(
            "the packing experiment is about jobs of one node, and {wide} of the trace need more on this cluster: give another trace, or a cluster with larger nodes"
        ));
    }
    if cluster.units() == 0 {
        return Err("the cluster has no GPUs: name another one".to_owned());
    }
    let asks: Vec<Arc<Ask>> = load.jobs.iter().map(|job| Arc::new(job.ask())).collect();
    let scene = cluster.scene(Default::default(), SchedSettings::default());
    let nodes: Vec<NodeView> = scene
        .nodes
        .values()
        .map(|node| NodeView::clone(node))
        .collect();
    let rows = PLACERS.map(|(name, placer)| Row {
        name,
        runs: of_all_seeds(&nodes, &asks, placer),
    });
    Ok(rows.to_vec())
}

/// Seeds run side by side; none knows of another.
fn of_all_seeds(nodes: &[NodeView], asks: &[Arc<Ask>], placer: Placer) -> Vec<Inflated> {
    std::thread::scope(|scope| {
        let runs: Vec<_> = SEEDS
            .map(|seed| scope.spawn(move || inflate(nodes, asks, placer, seed)))
            .collect();
        runs.into_iter().filter_map(|run| run.join().ok()).collect()
    })
}

/// One value of all rows: `allocated_pct` is the mean of the scheduler's own placement.
pub fn json(rows: &[Row], jobs: usize) -> Value {
    let own = rows.first().map_or(0.0, Row::mean_pct);
    let placers: Vec<Value> = rows.iter().map(placer).collect();
    json!({ "v": 1, "experiment": "inflation", "jobs": jobs, "allocated_pct": rounded(own), "placers": placers })
}

fn placer(row: &Row) -> Value {
    let seed = |(seed, run): (u64, &Inflated)| {
        json!({
            "seed": seed,
            "allocated_pct": rounded(run.allocated_pct()),
            "arrived": run.arrived,
            "placed": run.placed,
        })
    };
    let seeds: Vec<Value> = SEEDS.zip(&row.runs).map(seed).collect();
    json!({ "placer": row.name, "allocated_pct": rounded(row.mean_pct()), "seeds": seeds })
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The rows as people read them: % of the GPUs allocated, mean and by seed.
pub fn table(rows: &[Row]) -> String {
    let seeds: Vec<String> = SEEDS
        .map(|seed| format!("{:>7}", format!("seed {seed}")))
        .collect();
    let mut lines = vec![format!(
        "{:<10} {:>7}  {}",
        "allocated",
        "mean %",
        seeds.join(" ")
    )];
    for row in rows {
        let runs: Vec<String> = row
            .runs
            .iter()
            .map(|run| format!("{:>7.2}", run.allocated_pct()))
            .collect();
        lines.push(format!(
            "{:<10} {:>7.2}  {}",
            row.name,
            row.mean_pct(),
            runs.join(" ")
        ));
    }
    lines.join("\n")
}
