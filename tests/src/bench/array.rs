//! One array of ten thousand tasks that do nothing: from its submit with the command line until it is seen as done.
//! Does NOT measure jobs of their own (see `burst`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mlctl_proto::api::WatchRequest;
use serde_json::{Map, json};

use super::report::{Report, median};
use super::side::Ours;
use crate::process::Cluster;

/// Tasks of one round.
const TASKS: u32 = 10_000;
/// Between two rounds.
const REST: Duration = Duration::from_secs(2);

/// Takes `rounds` rounds after one to warm up.
///
/// # Errors
/// When a command fails or a task does.
pub fn run(rounds: usize) -> Result<()> {
    let report = Report::begin("array");
    let cluster = Cluster::start(2, 0);
    super::release(&cluster)?;
    let (runtime, ours) = (super::runtime()?, Ours::of(&cluster)?);
    let address = cluster.leader().address;
    let mut rates = Vec::new();
    for round in 0..=rounds {
        let took = runtime.block_on(one_array(&cluster, &ours, &address))?;
        if round > 0 {
            rates.push(f64::from(TASKS) / took.as_secs_f64());
        }
        eprintln!("array: round {round} of {rounds}");
        std::thread::sleep(REST);
    }
    let (low, high) = rates.iter().fold((f64::NAN, f64::NAN), |(low, high), one| {
        (one.min(low), one.max(high))
    });
    let table = format!(
        "| 10,000 no-ops in one array | tasks per second, median | rounds | count |\n|---|---|---|---|\n\
         | from submit to seen as done | {:.0} | {low:.0}–{high:.0} | {} |\n",
        median(&rates),
        rates.len()
    );
    let mut figures = Map::new();
    figures.insert("tasks_per_s".into(), json!(rates));
    report.end(figures, &table)
}

/// How long it took.
async fn one_array(cluster: &Cluster, ours: &Ours, address: &str) -> Result<Duration> {
    let mut client = ours.connect(address).await?;
    let request = WatchRequest {
        from_index: 0,
        jobs: Vec::new(),
    };
    let mut changes = client.watch(request).await?.into_inner();
    let began = Instant::now();
    let submit = || cluster.submit(&["--array", &TASKS.to_string(), "--", "/bin/true"]);
    let id = tokio::task::block_in_place(submit);
    loop {
        let event = changes.message().await?.context("the watch goes on")?;
        let jobs = event.changes.into_iter().filter_map(|change| change.job);
        for job in jobs.filter(|job| job.id == id) {
            ensure!(job.state != "Failed", "a task of job {id} failed");
            if job.state == "Completed" {
                return Ok(began.elapsed());
            }
        }
    }
}
