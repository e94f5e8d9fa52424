//! What holds the apply thread up with 100,000 live jobs: a submit, a cancel, an archive, and the part of a snapshot that it takes itself.
//! Does NOT start a process: it is the product's state machine, on one thread.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use mlctl_coordinator::state::commands::{
    ARCHIVE_JOBS_MAX, ArchiveJobs, Bootstrap, CancelJobs, SubmitJob,
};
use mlctl_coordinator::state::records::{Actor, Reply, Retention, Timers};
use mlctl_coordinator::state::{Applied, Body, Command, IdempotencyKey, State, codec};
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::JobSpec;
use serde_json::{Map, Value};

use super::report::Report;
use super::samples::Samples;

/// Jobs that are there all the time, of several users: one may not have so many.
const LIVE: usize = 100_000;
const USERS: usize = 10;
/// Samples of each kind in a round.
const SUBMITS: usize = 200;
const BATCHES: usize = 10;
/// Jobs that one command ends.
const TOGETHER: usize = 500;

/// The state machine under test, and how many commands it got.
struct Bench {
    state: State,
    commands: u64,
}

impl Bench {
    fn new() -> Result<Self> {
        let mut bench = Self {
            state: State::new(),
            commands: 0,
        };
        let bootstrap = Bootstrap {
            cluster_id: "bench".into(),
            cluster_name: "bench".into(),
            incarnation: 1,
            dev: true,
            allow_root: false,
            timers: Timers::DEV,
            retention: Retention::default(),
        };
        bench.apply(None, Body::Bootstrap(bootstrap))?;
        for number in 0..LIVE {
            bench.submit(number % USERS)?;
        }
        Ok(bench)
    }

    /// Applies one command as the apply thread does: whoever reads still holds the state before it.
    fn apply(&mut self, user: Option<usize>, body: Body) -> Result<(Applied, f64)> {
        self.commands += 1;
        let command = Command {
            actor: Actor {
                user_id: user.map_or("coordinator".into(), |user| format!("id-{user}")),
                name: user.map_or("coordinator".into(), |user| format!("user-{user}")),
                admin: false,
                system: user.is_none(),
            },
            source: "bench".into(),
            time_ms: 1_700_000_000_000 + i64::try_from(self.commands)?,
            key: user.map(|_| IdempotencyKey {
                uuid: rand::random(),
                request_hash: [1; 32],
            }),
            body,
        };
        let shown = self.state.clone();
        let began = Instant::now();
        let applied = self.state.apply(self.commands, &command);
        let took = began.elapsed().as_secs_f64() * 1000.0;
        drop(shown);
        if let Some(refusal) = applied.refusal() {
            bail!("a command of the bench was refused: {refusal}");
        }
        Ok((applied, took))
    }

    fn submit(&mut self, user: usize) -> Result<(JobId, f64)> {
        let number = self.commands.to_string();
        let spec = JobSpec::new(vec!["train".into(), "--seed".into(), number]);
        let body = Body::SubmitJob(SubmitJob {
            spec: spec.canonical_json(),
            code_manifest: String::new(),
            code_bytes: 0,
            traceparent: String::new(),
            submitter_uid: 1000,
        });
        match self.apply(Some(user), body)? {
            (
                Applied {
                    reply: Reply::Submitted { job },
                    ..
                },
                took,
            ) => Ok((job, took)),
            (other, _) => bail!("a submit was answered with {:?}", other.reply),
        }
    }
}

/// Takes `rounds` rounds.
///
/// # Errors
/// When a command is refused.
pub fn run(rounds: usize) -> Result<()> {
    let report = Report::begin("apply");
    let mut bench = Bench::new()?;
    let kinds = [
        ("submit", "a submit"),
        ("cancel", "a cancel of 500"),
        ("archive", "an archive of 250"),
        ("close", "an archive that closes a segment of 2 MiB"),
        ("snapshot", "a snapshot, its part on the apply thread"),
        ("encode", "a snapshot, its encoding on a thread of its own"),
    ];
    let mut samples = kinds.map(|_| Samples(Vec::new()));
    // The first fills up what is kept in memory of jobs that are over.
    for round in 0..=rounds {
        let mut taken = kinds.map(|_| Vec::new());
        let mut jobs = Vec::new();
        for number in 0..TOGETHER * BATCHES {
            let (job, took) = bench.submit(number % USERS)?;
            if number < SUBMITS {
                taken[0].push(took);
            }
            jobs.push((number % USERS, job));
        }
        for user in 0..USERS {
            let own = jobs.iter().filter(|(of, _)| *of == user);
            let jobs = own.map(|(_, job)| *job).take(TOGETHER).collect();
            let (_, took) = bench.apply(Some(user), Body::CancelJobs(CancelJobs::of(jobs)))?;
            taken[1].push(took);
        }
        let before = bench.state.row_count();
        while bench.state.archive_due(bench.state.now_ms(), 1) > 0 {
            let most = u32::try_from(ARCHIVE_JOBS_MAX)?;
            let (applied, took) = bench.apply(None, Body::ArchiveJobs(ArchiveJobs { most }))?;
            taken[if applied.closed.is_empty() { 2 } else { 3 }].push(took);
        }
        ensure!(
            round == 0 || bench.state.row_count() < before,
            "nothing was archived"
        );
        for _ in 0..3 {
            let began = Instant::now();
            let copy = bench.state.clone();
            taken[4].push(began.elapsed().as_secs_f64() * 1000.0);
            let began = Instant::now();
            let bytes = codec::encode_snapshot(&copy).len();
            taken[5].push(began.elapsed().as_secs_f64() * 1000.0);
            ensure!(bytes > LIVE, "a snapshot of {bytes} bytes");
        }
        if round > 0 {
            for (all, one) in samples.iter_mut().zip(taken) {
                all.0.push(one);
            }
        }
        eprintln!("apply: round {round} of {rounds}");
    }
    let (figures, table) = shown(&kinds, &samples);
    report.end(figures, &table)
}

/// The figures for the file, and the table for people.
fn shown(kinds: &[(&str, &str)], samples: &[Samples]) -> (Map<String, Value>, String) {
    let mut figures = Map::new();
    let mut table = String::from(
        "| with 100,000 live jobs | p50 ms | p99 ms | longest ms | samples |\n|---|---|---|---|---|\n",
    );
    for ((name, what), samples) in kinds.iter().zip(samples) {
        let count: usize = samples.0.iter().map(Vec::len).sum();
        table += &format!(
            "| {what} | {:.3} | {:.3} | {:.3} | {count} |\n",
            samples.percentile(50.0),
            samples.percentile(99.0),
            samples.percentile(100.0),
        );
        figures.insert((*name).to_owned(), samples.json());
    }
    (figures, table)
}
