//! What one person waits for on an idle cluster: a submit, the first line of a job, the news of its end.
//! Does NOT load the cluster: one command at a time.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::report::Report;
use super::samples::Samples;
use crate::process::Cluster;

/// Samples of each kind in one round.
const PER_ROUND: usize = 20;

/// The kinds, in the order in which they are taken within a round.
const KINDS: [(&str, &str); 7] = [
    (
        "fdatasync",
        "256 bytes appended and synced (raw, for scale)",
    ),
    ("process", "`mlctl version`, whole process (raw, for scale)"),
    (
        "submit",
        "`mlctl submit --no-code -q -- true`, whole process",
    ),
    (
        "first_line_one_node",
        "`mlctl run -- echo`, start to its first line, one node",
    ),
    ("first_line_two_nodes", "the same, two nodes"),
    ("end_seen", "a job's last act to the end of `mlctl wait`"),
    (
        "gang_ended",
        "a rank's failure to the end of its gang on two nodes, seen by `mlctl wait`",
    ),
];

/// Takes `rounds` rounds, prints a table, and writes every sample to `docs/bench/latency.json`.
///
/// # Errors
/// When the binary is no release build, a command fails, or the file cannot be written.
pub fn run(rounds: usize) -> Result<()> {
    let report = Report::begin("latency");
    let cluster = Cluster::start(2, 0);
    super::release(&cluster)?;
    let mut samples: Vec<Samples> = vec![Samples::default(); KINDS.len()];
    for round in 0..=rounds {
        // The first round warms the machine up and does not count.
        for (kind, samples) in KINDS.iter().zip(&mut samples) {
            let taken = (0..PER_ROUND)
                .map(|_| sample(&cluster, kind.0))
                .collect::<Result<Vec<f64>>>()?;
            if round > 0 {
                samples.0.push(taken);
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    let figures: Map<String, Value> = KINDS
        .iter()
        .zip(&samples)
        .map(|(kind, samples)| (kind.0.to_owned(), samples.json()))
        .collect();
    let mut table = String::from(
        "| what | p50 ms | p99 ms | medians of rounds | samples |\n|---|---|---|---|---|\n",
    );
    for (kind, samples) in KINDS.iter().zip(&samples) {
        table += &format!("{}\n", samples.row(kind.1));
    }
    report.end(figures, &table)
}

/// One sample of `kind`, in milliseconds.
fn sample(cluster: &Cluster, kind: &str) -> Result<f64> {
    let took = match kind {
        "fdatasync" => fdatasync(cluster)?,
        "process" => whole(cluster.command(&["version"]))?,
        "submit" => whole(cluster.command(&["submit", "--no-code", "-q", "--", "true"]))?,
        "first_line_one_node" => {
            first_line(cluster.command(&["run", "--no-code", "--", "echo", "here"]))?
        }
        "first_line_two_nodes" => first_line(cluster.command(&[
            "run",
            "--no-code",
            "--nodes",
            "2",
            "--",
            "echo",
            "here",
        ]))?,
        "end_seen" => last_act(cluster, &[], "", 0)?,
        // Rank 1 fails; rank 0 would go on for long and is ended.
        "gang_ended" => last_act(
            cluster,
            &["--nodes", "2"],
            "[ $RANK = 0 ] && exec sleep 100; ",
            3,
        )?,
        other => bail!("no such kind: {other}"),
    };
    // Whatever that left to be done is done before the next one begins.
    std::thread::sleep(Duration::from_millis(15));
    Ok(took.as_secs_f64() * 1000.0)
}

fn fdatasync(cluster: &Cluster) -> Result<Duration> {
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(cluster.dir().join("fdatasync"))?;
    let begun = Instant::now();
    file.write_all(&[7; 256])?;
    file.sync_data()?;
    Ok(begun.elapsed())
}

fn start(mut command: Command) -> Result<(Child, BufReader<impl Read>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    Ok((child, BufReader::new(stdout)))
}

fn ended(mut child: Child) -> Result<()> {
    let status = child.wait()?;
    ensure!(
        status.success(),
        "a command that is measured failed: {status}"
    );
    Ok(())
}

fn whole(command: Command) -> Result<Duration> {
    let begun = Instant::now();
    let (child, mut stdout) = start(command)?;
    stdout.read_to_end(&mut Vec::new())?;
    ended(child)?;
    Ok(begun.elapsed())
}

fn first_line(command: Command) -> Result<Duration> {
    let begun = Instant::now();
    let (child, mut stdout) = start(command)?;
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let took = begun.elapsed();
    ensure!(line.contains("here"), "the first line is {line:?}");
    stdout.read_to_end(&mut Vec::new())?;
    ended(child)?;
    Ok(took)
}

/// One rank notes the time as its last act and ends with `code`, which is the job's end too; somebody is waiting for it already.
fn last_act(cluster: &Cluster, options: &[&str], before: &str, code: i32) -> Result<Duration> {
    let note = cluster.work().join("ended-at");
    let script = format!(
        "{before}sleep 0.25; date +%s%N >{}; exit {code}",
        note.display()
    );
    let id = cluster.submit(&[options, &["--", "sh", "-c", &script]].concat());
    let (mut child, _stdout) = start(cluster.command(&["wait", &id]))?;
    let status = child.wait()?;
    ensure!(
        status.code() == Some(code),
        "the job ended with {status}, not {code}"
    );
    let seen = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let text = fs::read_to_string(&note)?;
    let at = Duration::from_nanos(
        text.trim()
            .parse()
            .with_context(|| format!("the job wrote {text:?}"))?,
    );
    fs::remove_file(&note)?;
    seen.checked_sub(at)
        .context("the job ended after its end was seen")
}
