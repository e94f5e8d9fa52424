//! Durable writes per second with open connections: our submits beside etcd's puts, in turn, on one machine and one disk.
//! Does NOT run the jobs: they wait for a GPU that is taken, so that the scheduler looks at a growing queue the whole time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use super::report::{Report, median};
use super::side::{Side, cancel};
use crate::peers::Etcd;
use crate::process::Cluster;

/// Clients at once.
const CLIENTS: [usize; 3] = [1, 8, 64];
/// How long each burst takes.
const BURST: Duration = Duration::from_secs(2);
/// Before each burst: our jobs of the one before were cancelled and go to history meanwhile, and neither side pays for the other.
const SETTLE: Duration = Duration::from_millis(1_500);

/// What one burst showed.
struct Burst {
    per_second: f64,
    latencies_ms: Vec<f64>,
}

/// Takes `rounds` rounds after one to warm up.
///
/// # Errors
/// When a side cannot be had, or refuses a write.
pub fn run(rounds: usize) -> Result<()> {
    let report = Report::begin("submits");
    let cluster = Cluster::start(1, 1);
    super::release(&cluster)?;
    let etcd = Etcd::start(&cluster.dir())?;
    hold_the_gpu(&cluster);
    let runtime = super::runtime()?;
    let (sides, leaders) = runtime.block_on(async {
        let sides = [Side::etcd(&etcd), Side::ours(&cluster)?];
        let leaders = [
            etcd.addresses()[etcd.leader().await?].clone(),
            cluster.leader().address,
        ];
        Ok::<_, anyhow::Error>((sides, leaders))
    })?;
    let mut taken: Vec<Vec<Vec<Burst>>> = vec![vec![Vec::new(), Vec::new()], vec![], vec![]];
    for kind in &mut taken {
        kind.resize_with(2, Vec::new);
    }
    for round in 0..=rounds {
        for (kind, clients) in CLIENTS.iter().enumerate() {
            // Who goes first changes from round to round.
            for turn in 0..2 {
                let who = (turn + round) % 2;
                let burst = runtime.block_on(burst(&sides[who], &leaders[who], *clients))?;
                if round > 0 {
                    taken[kind][who].push(burst);
                }
            }
        }
        eprintln!("submits: round {round} of {rounds}");
    }
    let mut figures = Map::new();
    let mut table = String::from(
        "| clients | mlctl submits/s | etcd puts/s | ratio of medians | p50 / p99 ms, mlctl | p50 / p99 ms, etcd |\n|---|---|---|---|---|---|\n",
    );
    for (clients, kind) in CLIENTS.iter().zip(&taken) {
        let [etcd, ours] = [&kind[0], &kind[1]].map(|bursts| summary(bursts));
        table += &format!(
            "| {clients} | {:.0} | {:.0} | {:.2} | {:.2} / {:.2} | {:.2} / {:.2} |\n",
            ours.0,
            etcd.0,
            ours.0 / etcd.0,
            ours.1,
            ours.2,
            etcd.1,
            etcd.2
        );
        for (side, bursts) in sides.iter().zip(kind) {
            figures.insert(format!("{}_{clients}", side.name()), raw(bursts));
        }
    }
    report.end(figures, &table)
}

/// A job that keeps the only GPU.
pub(super) fn hold_the_gpu(cluster: &Cluster) {
    let id = cluster.submit(&["--gpus", "1", "--", "sleep", "3600"]);
    cluster.wait_state(&id, "Running", Duration::from_secs(20));
}

fn summary(bursts: &[Burst]) -> (f64, f64, f64) {
    let rates: Vec<f64> = bursts.iter().map(|burst| burst.per_second).collect();
    let all: Vec<f64> = bursts
        .iter()
        .flat_map(|burst| burst.latencies_ms.iter().copied())
        .collect();
    let samples = super::samples::Samples(vec![all]);
    (
        median(&rates),
        samples.percentile(50.0),
        samples.percentile(99.0),
    )
}

fn raw(bursts: &[Burst]) -> Value {
    let per_second: Vec<f64> = bursts
        .iter()
        .map(|burst| burst.per_second.round())
        .collect();
    let quantiles = |burst: &Burst| -> Vec<f64> {
        let samples = super::samples::Samples(vec![burst.latencies_ms.clone()]);
        [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9, 100.0]
            .map(|percent| (samples.percentile(percent) * 1000.0).round() / 1000.0)
            .to_vec()
    };
    // Tens of thousands of samples a side: their order statistics, per round.
    json!({
        "per_second": per_second,
        "percentiles": [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9, 100.0],
        "latency_ms_by_round": bursts.iter().map(quantiles).collect::<Vec<_>>(),
        "writes": bursts.iter().map(|burst| burst.latencies_ms.len()).collect::<Vec<_>>(),
    })
}

/// `clients` clients write one after the other's answer, each on its own connection, until the time is over.
async fn burst(side: &Side, leader: &str, clients: usize) -> Result<Burst> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(side.connect(leader).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let began = Instant::now();
    let write = |mut connection: super::side::Connection| async move {
        let (mut latencies, mut jobs) = (Vec::new(), Vec::new());
        while began.elapsed() < BURST {
            let at = Instant::now();
            jobs.extend(connection.write(rand::random()).await?);
            latencies.push(at.elapsed().as_secs_f64() * 1000.0);
        }
        Ok::<_, tonic::Status>((latencies, jobs))
    };
    let tasks: Vec<_> = connections
        .iter()
        .map(|connection| tokio::spawn(write(connection.clone())))
        .collect();
    let (mut latencies_ms, mut jobs) = (Vec::new(), Vec::new());
    for task in tasks {
        let (some, made) = task.await??;
        latencies_ms.extend(some);
        jobs.extend(made);
    }
    let took = began.elapsed();
    ensure!(!latencies_ms.is_empty(), "{} wrote nothing", side.name());
    cancel(&mut connections[0], &jobs).await?;
    Ok(Burst {
        per_second: latencies_ms.len() as f64 / took.as_secs_f64(),
        latencies_ms,
    })
}
