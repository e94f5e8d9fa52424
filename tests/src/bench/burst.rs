//! A thousand jobs that do nothing, submitted by eight people at once, each with one command after the other: until all have run and ended.
//! Does NOT measure a single submit (see `latency`).

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mlctl_proto::api::WatchRequest;
use serde_json::{Map, json};

use super::report::{Report, median};
use super::side::Ours;
use crate::process::Cluster;

/// Jobs of one round.
const JOBS: usize = 1_000;
/// People.
const PEOPLE: usize = 8;
/// Between two rounds.
const REST: Duration = Duration::from_secs(2);

/// Takes `rounds` rounds after one to warm up.
///
/// # Errors
/// When a command fails or jobs do not end.
pub fn run(rounds: usize) -> Result<()> {
    let report = Report::begin("burst");
    let cluster = Cluster::start(2, 0);
    super::release(&cluster)?;
    let (runtime, ours) = (super::runtime()?, Ours::of(&cluster)?);
    let address = cluster.leader().address;
    let (mut submitted, mut ended) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let watching = runtime.block_on(watch(&ours, &address))?;
        let began = Instant::now();
        let people: Vec<_> = (0..PEOPLE)
            .map(|_| {
                let commands: Vec<Command> = (0..JOBS / PEOPLE).map(|_| submit(&cluster)).collect();
                std::thread::spawn(move || commands.into_iter().try_for_each(finish))
            })
            .collect();
        for person in people {
            person.join().ok().context("a thread ended")??;
        }
        let took = began.elapsed();
        let whole = runtime.block_on(until_ended(watching, began))?;
        if round > 0 {
            submitted.push(JOBS as f64 / took.as_secs_f64());
            ended.push(JOBS as f64 / whole.as_secs_f64());
        }
        eprintln!("burst: round {round} of {rounds}");
        std::thread::sleep(REST);
    }
    let row = |what: &str, rates: &[f64]| {
        let (low, high) = rates.iter().fold((f64::NAN, f64::NAN), |(low, high), one| {
            (one.min(low), one.max(high))
        });
        format!(
            "| {what} | {:.0} | {low:.0}–{high:.0} | {} |\n",
            median(rates),
            rates.len()
        )
    };
    let table = format!(
        "| 1,000 no-ops by 8 command lines | per second, median | rounds | count |\n|---|---|---|---|\n{}{}",
        row("until all are submitted", &submitted),
        row("until all have run and ended", &ended)
    );
    let mut figures = Map::new();
    figures.insert("submitted_per_s".into(), json!(submitted));
    figures.insert("ended_per_s".into(), json!(ended));
    report.end(figures, &table)
}

fn submit(cluster: &Cluster) -> Command {
    let mut command = cluster.command(&["submit", "--no-code", "-q", "--", "/bin/true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn finish(mut command: Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "a submit failed: {status}");
    Ok(())
}

type Changes = tonic::Streaming<mlctl_proto::api::WatchEvent>;

/// Everything that happens from now on.
async fn watch(ours: &Ours, address: &str) -> Result<Changes> {
    let mut client = ours.connect(address).await?;
    let request = WatchRequest {
        from_index: 0,
        jobs: Vec::new(),
    };
    Ok(client.watch(request).await?.into_inner())
}

/// How long after `began` the last of the jobs ended.
async fn until_ended(mut changes: Changes, began: Instant) -> Result<Duration> {
    let mut ended = BTreeSet::new();
    while ended.len() < JOBS {
        let event = changes.message().await?.context("the watch goes on")?;
        for job in event.changes.into_iter().filter_map(|change| change.job) {
            ensure!(job.state != "Failed", "job {} failed", job.id);
            if job.state == "Completed" {
                ended.insert(job.id);
            }
        }
    }
    Ok(began.elapsed())
}
