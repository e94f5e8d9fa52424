//! `mlctl-tests sim`: replays a seed, or runs many and says how far it got.
//! Does NOT plant bugs: the test of the tests does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Report, run};

/// How it is called.
pub const USAGE: &str =
    "mlctl-tests sim --seed N | mlctl-tests sim --seeds N [--from N] [--hours H]";

/// What many runs add up to.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Seeds that were run.
    pub seeds: u64,
    simulated_ms: u64,
    faults: u64,
    messages: u64,
    power_cuts: u64,
    elections: u64,
    restarts: u64,
    acknowledged: u64,
    entries: u64,
    /// Runs in which a property did not hold.
    pub violations: Vec<Report>,
}

impl Totals {
    /// Adds one run.
    pub fn add(&mut self, report: Report) {
        let counts = report.counts;
        self.seeds += 1;
        self.simulated_ms += report.simulated_ms;
        self.faults += counts.crashes + counts.power_cuts + counts.cuts + counts.pauses;
        self.messages += counts.messages;
        self.power_cuts += counts.power_cuts;
        self.elections += report.elections;
        self.restarts += counts.restarts;
        self.acknowledged += report.acknowledged;
        self.entries += report.entries;
        if report.violation.is_some() {
            self.violations.push(report);
        }
    }

    /// Simulated hours of a whole cluster.
    pub fn hours(&self) -> f64 {
        self.simulated_ms as f64 / 3_600_000.0
    }

    /// One line for people.
    pub fn line(&self, took: Duration) -> String {
        format!(
            "{} seeds, {:.1} cluster-hours in {:.0} s; {} faults ({} power cuts of everything), {} messages lost or doubled, {} elections, {} entries, {} attempts started again; {} acknowledged jobs, {} violations",
            self.seeds,
            self.hours(),
            took.as_secs_f64(),
            self.faults,
            self.power_cuts,
            self.messages,
            self.elections,
            self.entries,
            self.restarts,
            self.acknowledged,
            self.violations.len()
        )
    }
}

/// What is wrong with a run, and how to see it again.
pub fn explain(report: &Report) -> String {
    match &report.violation {
        Some(violation) => format!(
            "seed {}: {} does not hold at {} ms: {}\n  replay: {}",
            report.seed,
            violation.property,
            report.simulated_ms,
            violation.what,
            report.replay()
        ),
        None => format!("seed {}: every property held", report.seed),
    }
}

/// Runs the subcommand. `words` follow `sim`.
///
/// # Errors
/// For words it does not know, and when a property did not hold.
pub fn main(words: &[&str]) -> Result<()> {
    let (mut seed, mut seeds, mut from, mut hours) = (None, None, 1, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a number\nusage: {USAGE}"))?;
        let number: u64 = value
            .parse()
            .with_context(|| format!("{word} {value}: use a whole number"))?;
        match *word {
            "--seed" => seed = Some(number),
            "--seeds" => seeds = Some(number),
            "--from" => from = number,
            "--hours" => hours = Some(number),
            _ => bail!("{word} is unknown\nusage: {USAGE}"),
        }
    }
    let began = Instant::now();
    let mut totals = Totals::default();
    if let Some(seed) = seed {
        let report = run(seed, None);
        println!("{}", explain(&report));
        println!("fingerprint {}", report.fingerprint);
        println!("{:?}", report.counts);
        totals.add(report);
    } else {
        let Some(seeds) = seeds else {
            bail!("usage: {USAGE}");
        };
        for seed in from..from.saturating_add(seeds) {
            if hours.is_some_and(|hours| totals.hours() >= hours as f64) {
                break;
            }
            let report = run(seed, None);
            if report.violation.is_some() {
                println!("{}", explain(&report));
            }
            totals.add(report);
        }
    }
    println!("{}", totals.line(began.elapsed()));
    if totals.violations.is_empty() {
        Ok(())
    } else {
        bail!("a property does not hold")
    }
}
