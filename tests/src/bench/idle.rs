//! What an idle cluster costs: CPU and memory of its leader, with three agents that report each half second, and with none, and of an agent.
//! Does NOT measure launchers and warm keepers, which sleep until they are asked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, json};

use super::queue::rss_mib;
use super::report::{Report, median};
use crate::process::Cluster;

const NODES: usize = 3;
/// How long each sample is.
const SAMPLE: Duration = Duration::from_secs(5);

/// Takes `rounds` samples with the agents, and as many without.
///
/// # Errors
/// When the leader cannot be looked at.
pub fn run(rounds: usize) -> Result<()> {
    let report = Report::begin("idle");
    let cluster = Cluster::start(NODES as u32, 0);
    super::release(&cluster)?;
    std::thread::sleep(Duration::from_secs(3));
    let mut figures = Map::new();
    let mut table = String::from(
        "| idle | % of a core, median | lowest | highest | RSS MiB |\n|---|---|---|---|---|\n",
    );
    let mut rows = [
        (
            "agents",
            "leader, three agents, heartbeats of 0.5 s (`mlctl dev`)",
        ),
        ("agent", "one of the agents"),
        ("alone", "leader, no agent"),
    ]
    .into_iter();
    for (name, what) in rows.by_ref() {
        if name == "alone" {
            for node in 0..NODES {
                cluster
                    .mlctl(&["dev", "kill", &format!("dev-{node}")])
                    .expect(0);
            }
            std::thread::sleep(Duration::from_secs(5));
        }
        let pid = if name == "agent" {
            let agent = cluster
                .daemons()
                .into_iter()
                .find(|one| one.role == "agent");
            agent.context("there are agents")?.pid
        } else {
            cluster.leader().pid
        };
        let samples = (0..rounds)
            .map(|_| percent_of_a_core(pid))
            .collect::<Result<Vec<f64>>>()?;
        let rss = rss_mib(pid)?;
        let (low, high) = samples
            .iter()
            .fold((f64::NAN, f64::NAN), |(low, high), one| {
                (one.min(low), one.max(high))
            });
        table += &format!(
            "| {what} | {:.2} | {low:.2} | {high:.2} | {rss:.0} |\n",
            median(&samples)
        );
        figures.insert(
            name.to_owned(),
            json!({ "percent_of_a_core": samples, "rss_mib": rss }),
        );
        eprintln!("idle: {what}");
    }
    report.end(figures, &table)
}

/// What a process used of one core over a while.
fn percent_of_a_core(pid: i32) -> Result<f64> {
    let (began, before) = (Instant::now(), cpu(pid)?);
    std::thread::sleep(SAMPLE);
    let used = cpu(pid)?.saturating_sub(before);
    Ok(used as f64 / began.elapsed().as_nanos() as f64 * 100.0)
}

/// CPU time of all threads of a process that live, nanoseconds.
fn cpu(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next().unwrap_or("0");
        sum += first
            .parse::<u64>()
            .context("schedstat begins with a number")?;
    }
    Ok(sum)
}
