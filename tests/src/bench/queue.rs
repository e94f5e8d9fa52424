//! With 10,000 jobs in the queue: a submit as a whole process, the list, what the leader holds in memory, and ending all of them at once.
//! Does NOT run them: they wait for a GPU that is taken.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, json};

use super::report::Report;
use super::samples::Samples;
use super::side::{Connection, Side};
use crate::process::Cluster;

/// Jobs that wait.
const QUEUED: usize = 10_000;
/// Submits that are measured in each round.
const SUBMITS: usize = 40;
/// Who fills the queue.
const FILLERS: usize = 32;

/// Takes `rounds` rounds: fill, measure, cancel.
///
/// # Errors
/// When a command fails.
pub fn run(rounds: usize) -> Result<()> {
    let report = Report::begin("queue");
    let cluster = Cluster::start(1, 1);
    super::release(&cluster)?;
    let empty_mib = rss_mib(cluster.leader().pid)?;
    super::submits::hold_the_gpu(&cluster);
    let runtime = super::runtime()?;
    let side = Side::ours(&cluster)?;
    let [mut submits, mut lists, mut cancels] = [const { Samples(Vec::new()) }; 3];
    let mut memory = Vec::new();
    for round in 1..=rounds {
        let jobs = runtime.block_on(fill(&side, &cluster.leader().address))?;
        // What the filling left to be done is done.
        std::thread::sleep(Duration::from_secs(2));
        memory.push(rss_mib(cluster.leader().pid)?);
        let submit = || {
            let taken =
                whole(cluster.command(&["submit", "--no-code", "-q", "--gpus", "1", "--", "true"]));
            std::thread::sleep(Duration::from_millis(15));
            taken
        };
        submits
            .0
            .push((0..SUBMITS).map(|_| submit()).collect::<Result<_>>()?);
        let list = (0..3).map(|_| whole(cluster.command(&["jobs"])));
        lists.0.push(list.collect::<Result<_>>()?);
        let words: Vec<&str> = std::iter::once("cancel")
            .chain(jobs.iter().map(String::as_str))
            .collect();
        cancels.0.push(vec![whole(cluster.command(&words))?]);
        eprintln!("queue: round {round} of {rounds}");
    }
    let mut figures = Map::new();
    let mut table = String::from(
        "| with 10,000 queued | p50 ms | p99 ms | medians of rounds | samples |\n|---|---|---|---|---|\n",
    );
    for (name, what, samples) in [
        (
            "submit",
            "`mlctl submit --no-code -q`, whole process",
            &submits,
        ),
        ("list", "`mlctl jobs`, whole process", &lists),
        (
            "cancel",
            "`mlctl cancel` of all 10,000, whole process",
            &cancels,
        ),
    ] {
        table += &format!("{}\n", samples.row(what));
        figures.insert(name.to_owned(), samples.json());
    }
    let most = memory.iter().copied().fold(f64::NAN, f64::max);
    table += &format!(
        "\nResident memory of the leader: {empty_mib:.0} MiB empty, {:.0} MiB with 10,000 queued for the first time, {most:.0} MiB at most over {rounds} rounds.\n",
        memory.first().unwrap_or(&f64::NAN)
    );
    figures.insert(
        "leader_rss_mib".to_owned(),
        json!({ "empty": empty_mib, "queued": memory }),
    );
    report.end(figures, &table)
}

/// Resident memory of a process, MiB.
pub(super) fn rss_mib(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: f64 = kib.context("a process has resident memory")?.parse()?;
    Ok(kib / 1024.0)
}

/// A command to its end, milliseconds. What it prints goes nowhere.
fn whole(mut command: Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    let took = began.elapsed();
    ensure!(
        status.success(),
        "a command that is measured failed: {status}"
    );
    Ok(took.as_secs_f64() * 1000.0)
}

/// Submits until so many wait. Returns their ids.
async fn fill(side: &Side, address: &str) -> Result<Vec<String>> {
    let mut tasks = Vec::new();
    for filler in 0..FILLERS {
        let mut connection = side.connect(address).await?;
        let share = QUEUED / FILLERS + usize::from(filler < QUEUED % FILLERS);
        tasks.push(tokio::spawn(
            async move { submit(&mut connection, share).await },
        ));
    }
    let mut jobs = Vec::new();
    for task in tasks {
        jobs.extend(task.await??);
    }
    Ok(jobs)
}

async fn submit(connection: &mut Connection, count: usize) -> Result<Vec<String>> {
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.extend(connection.write(rand::random()).await?);
    }
    Ok(jobs)
}
