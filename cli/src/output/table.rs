//! Tables for people: aligned, readable without colour, control characters of others' texts never reach the terminal.
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::{SystemTime, UNIX_EPOCH};

use mlctl_proto::api::{
    Attempt, CancelReply, Checkpoint, CheckpointUsageReply, EditReply, Job, ListedCheckpoint,
    LogLine, Node, Outcome, RetryReply, WhyReply,
};
use mlctl_proto::units::{bytes_text, duration_text};

use super::clean::{clean, clean_line};
use super::fold::ranges;
use super::{Output, array, checkpoints, out, retries, turn, why};
use crate::advice::Advice;
use crate::failure::Failure;

/// Prints tables.
pub struct Table {
    /// What is printed is for people.
    terminal: bool,
    colour: bool,
}

/// One colour per rank, repeated.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

impl Table {
    /// With colour only on a terminal, and not under `NO_COLOR`.
    pub fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let terminal = std::io::stdout().is_terminal();
        Self {
            terminal,
            colour: terminal && !plain,
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn ago(ms: i64) -> String {
    if ms == 0 {
        "-".into()
    } else {
        duration_text(now_ms() - ms)
    }
}

fn rows(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        out(padded.join("  ").trim_end().as_bytes());
    };
    line(head.to_vec());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}

fn outcome_text(outcome: &Outcome) -> String {
    let what = match outcome.kind.as_str() {
        "Exited" => format!("exit code {}", outcome.exit_code),
        "Signalled" => signal_text(outcome.exit_code - 128),
        kind => format!("{kind} (exit code {})", outcome.exit_code),
    };
    let rank = outcome
        .rank
        .map(|rank| format!(" of rank {rank}"))
        .unwrap_or_default();
    let node = if outcome.node.is_empty() {
        String::new()
    } else {
        format!(" on {}", outcome.node)
    };
    let detail = if outcome.detail.is_empty() {
        String::new()
    } else {
        format!(": {}", clean(&outcome.detail))
    };
    format!("{what}{rank}{node}{detail}")
}

/// `signal 9 (SIGKILL)`.
fn signal_text(signal: i32) -> String {
    const NAMES: [(i32, &str); 13] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
        (24, "SIGXCPU"),
        (25, "SIGXFSZ"),
    ];
    let name = NAMES.iter().find(|(number, _)| *number == signal);
    match name {
        Some((_, name)) => format!("signal {signal} ({name})"),
        None => format!("signal {signal}"),
    }
}

fn attempt_text(attempt: &Attempt) -> String {
    let sim = if attempt.simulated {
        " (SIM devices)"
    } else {
        ""
    };
    let nodes: Vec<&str> = attempt
        .allocations
        .iter()
        .map(|a| a.node.as_str())
        .collect();
    let resumed = if attempt.resume_from.is_empty() {
        String::new()
    } else {
        let of = match attempt.resume_job.as_str() {
            "" => String::new(),
            job => format!(" of job {job}"),
        };
        format!(", resumed from {}{of}", clean(&attempt.resume_from))
    };
    let end = match &attempt.end {
        None => "in progress".to_owned(),
        Some(end) => outcome_text(end),
    };
    let tasks = if attempt.tasks.is_empty() {
        String::new()
    } else {
        format!(", {} tasks at once", attempt.slots)
    };
    format!(
        "{} on {}{sim}{resumed}{tasks}: {end}",
        attempt.number,
        nodes.join(", ")
    )
}

impl Output for Table {
    fn line(&self, text: &str) {
        out(text.as_bytes());
    }

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    fn value(&self, _: &serde_json::Value, text: &str) {
        out(text.as_bytes());
    }

    fn table(&self, _: &serde_json::Value, head: &[&str], cells: &[Vec<String>]) {
        rows(head, cells);
    }

    fn submitted(&self, id: &str, name: &str) {
        out(format!(
            "job {id} {} queued · follow: mlctl logs -f {id} · why it waits: mlctl why {id}",
            clean(name)
        )
        .as_bytes());
    }

    fn jobs(&self, jobs: &[Job]) {
        let table: Vec<Vec<String>> = jobs
            .iter()
            .map(|job| {
                let why = match &job.outcome {
                    Some(outcome) => outcome_text(outcome),
                    None => clean(&job.reason),
                };
                let why = match &job.array {
                    Some(array) => format!("{} {why}", array::progress(array)),
                    None => why,
                };
                let gpus = job.nodes * job.gpus;
                vec![
                    job.id.clone(),
                    clean(&job.name),
                    clean(&job.owner),
                    job.state.clone(),
                    job.nodes.to_string(),
                    gpus.to_string(),
                    ago(job.submitted_ms),
                    why,
                ]
            })
            .collect();
        rows(
            &["ID", "NAME", "USER", "STATE", "NODES", "GPUS", "AGE", "WHY"],
            &table,
        );
    }

    fn job(&self, job: &Job, last: &[LogLine], advice: Option<&Advice>) {
        out(format!("{} {}  {}", job.id, clean(&job.name), job.state).as_bytes());
        out(format!("user     {} ({})", clean(&job.owner), job.owner_id).as_bytes());
        out(format!(
            "asks     {} nodes x {} GPUs, {} ranks in all",
            job.nodes, job.gpus, job.ranks
        )
        .as_bytes());
        out(format!("submitted {} ago", ago(job.submitted_ms)).as_bytes());
        if !job.retry_of.is_empty() {
            out(format!("retry of {}", job.retry_of).as_bytes());
        }
        if !job.reason.is_empty() {
            let word = if job.state == "Held" { "held" } else { "waits" };
            out(format!("{word:<8} {}", clean(&job.reason)).as_bytes());
        }
        for line in turn::lines(job) {
            out(line.as_bytes());
        }
        for line in retries::lines(job) {
            out(clean(&line).as_bytes());
        }
        for line in job.array.iter().flat_map(array::lines) {
            out(clean(&line).as_bytes());
        }
        let shown = |attempt: &&Attempt| array::worth_showing(job, attempt);
        for attempt in job.attempts.iter().filter(shown) {
            out(format!("attempt  {}", attempt_text(attempt)).as_bytes());
        }
        let metric = checkpoints::metric_name(job);
        for one in &job.checkpoints {
            let text = checkpoints::line(one, &metric, ago);
            out(format!("saved    {text}").as_bytes());
        }
        for line in advice.iter().flat_map(|one| checkpoints::advice_lines(one)) {
            out(line.as_bytes());
        }
        if let Some(outcome) = &job.outcome {
            out(format!(
                "ended    {} ago: {}",
                ago(job.ended_ms),
                outcome_text(outcome)
            )
            .as_bytes());
        }
        for line in last {
            let text = String::from_utf8_lossy(&line.text);
            out(format!("         [{}] {}", line.rank, clean_line(&text)).as_bytes());
        }
    }

    fn checkpoints(&self, listed: &[ListedCheckpoint]) {
        let listed = listed.iter().map(|one| checkpoints::cells(one, ago));
        rows(&checkpoints::HEAD, &listed.collect::<Vec<_>>());
    }

    fn checkpoint(&self, job: &Job, shown: &[&Checkpoint]) {
        for one in shown {
            for line in checkpoints::details(job, one, ago) {
                out(line.as_bytes());
            }
        }
    }

    fn usage(&self, reply: &CheckpointUsageReply) {
        let cells = checkpoints::usage_cells(reply);
        rows(&checkpoints::USAGE_HEAD, &cells);
    }

    fn why(&self, reply: &WhyReply) {
        out(format!("{} {}: {}", reply.job, reply.state, clean(&reply.summary)).as_bytes());
        for line in why::lines(reply) {
            out(line.as_bytes());
        }
    }

    fn folds(&self, asked: Option<bool>) -> bool {
        asked.unwrap_or(self.terminal)
    }

    fn log_lines(&self, ranks: &BTreeSet<u32>, line: &LogLine, raw: bool) {
        if !line.note.is_empty() {
            eprintln!("--- {}", clean(&line.note));
            return;
        }
        let (who, first) = (ranges(ranks), ranks.first().copied().unwrap_or(0));
        let mut text = if self.colour && ranks.len() == 1 {
            let colour = COLOURS[first as usize % COLOURS.len()];
            format!("\x1b[{colour}m[{who}]\x1b[0m ").into_bytes()
        } else {
            format!("[{who}] ").into_bytes()
        };
        // A rank's own output is passed on as it is, but to a terminal only what is text.
        if self.terminal && !raw {
            text.extend_from_slice(clean_line(&String::from_utf8_lossy(&line.text)).as_bytes());
        } else {
            text.extend_from_slice(&line.text);
        }
        out(&text);
    }

    fn cancelled(&self, reply: &CancelReply) {
        for id in &reply.cancelled {
            out(format!("job {id} cancelled").as_bytes());
        }
        for id in &reply.already_ended {
            out(format!("job {id} had ended already").as_bytes());
        }
    }

    fn edited(&self, reply: &EditReply, how: &str) {
        for id in &reply.jobs {
            out(format!("job {id} {how}").as_bytes());
        }
        for one in &reply.left {
            self.note(&format!("left as it is: {}", clean(&one.why)));
        }
        if reply.jobs.is_empty() && reply.left.is_empty() {
            self.note("nothing to change: it is so already");
        }
    }

    fn retried(&self, reply: &RetryReply) {
        for id in &reply.released {
            out(format!("job {id} may start again · why it waits: mlctl why {id}").as_bytes());
        }
        for id in &reply.going {
            out(
                format!("job {id} waits, starts or runs: there is nothing to try again").as_bytes(),
            );
        }
        for one in &reply.anew {
            let (old, new) = (&one.job, &one.as_job);
            out(format!(
                "job {old} was over: queued anew as job {new} · follow: mlctl logs -f {new}"
            )
            .as_bytes());
        }
    }

    fn ended(&self, job: &Job) {
        let how = match &job.outcome {
            Some(outcome) if outcome.exit_code != 0 => format!(": {}", outcome_text(outcome)),
            _ => String::new(),
        };
        eprintln!("job {} {}{how}", job.id, job.state);
    }

    fn nodes(&self, nodes: &[Node]) {
        let table: Vec<Vec<String>> = nodes
            .iter()
            .map(|node| {
                let sim = if node.devices.iter().any(|device| device.simulated) {
                    " SIM"
                } else {
                    ""
                };
                let model = node
                    .devices
                    .first()
                    .map(|device| clean(&device.model))
                    .unwrap_or_default();
                let gpus = match node.devices.len() {
                    0 => "-".to_owned(),
                    _ if sim.is_empty() => {
                        format!("{}/{} {model}", node.gpus_used, node.devices.len())
                    }
                    _ => format!("{}/{}{sim}", node.gpus_used, node.devices.len()),
                };
                vec![
                    node.name.clone(),
                    node.state.clone(),
                    gpus,
                    node.cpus.to_string(),
                    bytes_text(node.memory_bytes),
                    node.address.clone(),
                    node.isolation.clone(),
                    node.jobs.join(","),
                    clean(&node.reasons.join("; ")),
                ]
            })
            .collect();
        rows(
            &[
                "NODE",
                "STATE",
                "GPUS",
                "CPUS",
                "MEMORY",
                "ADDRESS",
                "ISOLATION",
                "JOBS",
                "WHY",
            ],
            &table,
        );
    }

    fn failure(&self, failure: &Failure) {
        eprintln!("error: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        let end = |kind: &str, exit_code| Outcome {
            kind: kind.into(),
            exit_code,
            node: "n".into(),
            rank: Some(1),
            ..Outcome::default()
        };
        assert_eq!(
            outcome_text(&end("Exited", 3)),
            "exit code 3 of rank 1 on n"
        );
        assert_eq!(
            outcome_text(&end("Signalled", 137)),
            "signal 9 (SIGKILL) of rank 1 on n"
        );
        assert_eq!(
            outcome_text(&end("NodeLost", 140)),
            "NodeLost (exit code 140) of rank 1 on n"
        );
    }
}
