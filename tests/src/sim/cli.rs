//! `mlctl-tests sim`: replays a seed, or runs many on several threads and says how far it got.
//! Does NOT plant bugs: the test of the tests does.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::totals::{self, Totals, explain};
use super::{many, run_hours};

/// How it is called.
pub const USAGE: &str = "mlctl-tests sim --seed N [--hours H]   replays one seed
       mlctl-tests sim --seeds N [--from N] [--hours H] [--threads T] [--json FILE]   N seeds of H virtual hours each (0: one storm and its calm)";

#[derive(Debug, Default)]
struct Words {
    seed: Option<u64>,
    seeds: u64,
    from: Option<u64>,
    hours: u64,
    threads: Option<usize>,
    json: Option<PathBuf>,
}

fn parse(words: &[&str]) -> Result<Words> {
    let mut parsed = Words::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value\nusage: {USAGE}"))?;
        if *word == "--json" {
            parsed.json = Some(PathBuf::from(value));
            continue;
        }
        let number: u64 = value
            .parse()
            .with_context(|| format!("{word} {value}: use a whole number"))?;
        match *word {
            "--seed" => parsed.seed = Some(number),
            "--seeds" => parsed.seeds = number,
            "--from" => parsed.from = Some(number),
            "--hours" => parsed.hours = number,
            "--threads" => parsed.threads = Some(usize::try_from(number)?.max(1)),
            _ => bail!("{word} is unknown\nusage: {USAGE}"),
        }
    }
    Ok(parsed)
}

/// Runs the subcommand. `words` follow `sim`.
///
/// # Errors
/// For words it does not know, and when a property did not hold.
pub fn main(words: &[&str]) -> Result<()> {
    let words = parse(words)?;
    let (began, commit) = (Instant::now(), totals::commit());
    let mut totals = Totals::default();
    if let Some(seed) = words.seed {
        let report = run_hours(seed, words.hours, None);
        println!("{}", explain(&report));
        println!("fingerprint {}", report.fingerprint);
        println!("{:?}", report.counts);
        totals.add(report);
    } else if words.seeds == 0 {
        bail!("usage: {USAGE}");
    } else {
        let from = words.from.unwrap_or(1);
        let seeds = from..from.saturating_add(words.seeds);
        let threads = match words.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        many::run(seeds, words.hours, threads, |report| {
            if report.violation.is_some() {
                println!("{}", explain(&report));
            }
            totals.add(report);
        });
    }
    let took = began.elapsed();
    println!("{}", totals.text(took));
    if let Some(path) = &words.json {
        let from = words.from.or(words.seed).unwrap_or(1);
        let record = totals.record(&commit, words.hours, from, took);
        let text = serde_json::to_string_pretty(&record)? + "\n";
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if totals.violations.is_empty() {
        Ok(())
    } else {
        bail!("a property does not hold")
    }
}
