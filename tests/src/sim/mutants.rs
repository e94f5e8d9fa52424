//! `mlctl-tests mutants`: runs the simulator over fixed seeds with each bug of `mlctl_proto::mutants` planted, one at a time, and
//! says by which seed and property it was caught.
//!
//! Beside it stands the same seed's fingerprint with nothing planted. A build without the bugs recomputes those with
//! `--compare`: equal ones prove that the cfg alone changes nothing. Does NOT tell the simulator which bug is on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mlctl_proto::mutants::BUILT_IN;
use serde::{Deserialize, Serialize};

use super::run;

/// How it is called.
pub const USAGE: &str = "mlctl-tests mutants [--seeds N] [--only NAME] [--to FILE] | mlctl-tests mutants --compare FILE";

/// How to build it with the bugs in it.
pub const HOW: &str = "RUSTFLAGS='--cfg mlctl_mutants' CARGO_TARGET_DIR=target/mutants cargo run -p mlctl-tests --release -- mutants";

/// Seeds that may pass before one shows a bug.
const SEEDS: u64 = 200;

/// What became of one bug.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    mutant: String,
    /// The first seed that shows it, and how.
    caught: Option<Caught>,
}

/// How a bug was caught.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Caught {
    seed: u64,
    property: String,
    what: String,
    /// The fingerprint of the same seed with nothing planted.
    unmutated: String,
}

/// Runs the subcommand. `words` follow `mutants`.
///
/// # Errors
/// For words it does not know, in a build without the bugs, when a bug is not caught, and when fingerprints differ.
pub fn main(words: &[&str]) -> Result<()> {
    let (mut seeds, mut only, mut to, mut compare) = (SEEDS, None, None, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value\nusage: {USAGE}"))?;
        match *word {
            "--seeds" => {
                seeds = value
                    .parse()
                    .with_context(|| format!("--seeds {value}: use a whole number"))?;
            }
            "--only" => only = Some((*value).to_owned()),
            "--to" => to = Some(PathBuf::from(value)),
            "--compare" => compare = Some(PathBuf::from(value)),
            _ => bail!("{word} is unknown\nusage: {USAGE}"),
        }
    }
    if let Some(file) = compare {
        return compare_with(&file);
    }
    ensure!(BUILT_IN, "this build has no planted bugs; run\n  {HOW}");
    let rows = planted::run_all(seeds, only.as_deref())?;
    if let Some(file) = to {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    let missed: Vec<&str> = rows
        .iter()
        .filter(|row| row.caught.is_none())
        .map(|row| row.mutant.as_str())
        .collect();
    println!(
        "{} bugs planted, {} caught",
        rows.len(),
        rows.len() - missed.len()
    );
    ensure!(
        missed.is_empty(),
        "not caught in {seeds} seeds: {}",
        missed.join(", ")
    );
    Ok(())
}

/// Recomputes the unmutated fingerprints of a report.
fn compare_with(file: &Path) -> Result<()> {
    ensure!(
        !BUILT_IN,
        "compare with a build that has no planted bugs, not with this one"
    );
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let rows: Vec<Row> =
        serde_json::from_str(&text).with_context(|| format!("{} is no report", file.display()))?;
    let caught = rows.iter().filter_map(|row| row.caught.as_ref());
    let expected: BTreeMap<u64, &str> = caught
        .map(|one| (one.seed, one.unmutated.as_str()))
        .collect();
    ensure!(
        !expected.is_empty(),
        "{} holds no fingerprint",
        file.display()
    );
    for (seed, unmutated) in &expected {
        let here = run(*seed, None).fingerprint;
        ensure!(
            here == *unmutated,
            "seed {seed}: this build gives {here}, the one with the bugs in it gave {unmutated} with none planted"
        );
    }
    println!(
        "{} seeds: the build with the bugs in it does the same while none is on",
        expected.len()
    );
    Ok(())
}

#[cfg(not(mlctl_mutants))]
mod planted {
    use super::{HOW, Result, Row, bail};

    pub(super) fn run_all(_seeds: u64, _only: Option<&str>) -> Result<Vec<Row>> {
        bail!("this build has no planted bugs; run\n  {HOW}")
    }
}

#[cfg(mlctl_mutants)]
mod planted {
    //! One bug after another on as many threads as there are cores, up to two.

    use std::sync::Mutex;
    use std::time::Instant;

    use mlctl_proto::mutants::{Mutant, plant};

    use super::{Caught, Result, Row, ensure, run};

    const THREADS: usize = 2;
    /// Of what shows a bug, so much is printed; the report has all of it.
    const SHOWN_CHARS: usize = 240;

    pub(super) fn run_all(seeds: u64, only: Option<&str>) -> Result<Vec<Row>> {
        let wanted = |mutant: &Mutant| only.is_none_or(|name| format!("{mutant:?}") == name);
        let mutants: Vec<Mutant> = Mutant::ALL.into_iter().filter(wanted).collect();
        ensure!(!mutants.is_empty(), "there is no such bug: {only:?}");
        // A core that finds a contradiction panics; the run reports that, so it need not be printed.
        std::panic::set_hook(Box::new(|_| {}));
        let (queue, rows) = (
            Mutex::new(mutants.iter().enumerate()),
            Mutex::new(Vec::new()),
        );
        let work = || {
            loop {
                let next = queue.lock().ok().and_then(|mut queue| queue.next());
                let Some((place, mutant)) = next else {
                    return;
                };
                let row = hunt(*mutant, seeds);
                if let Ok(mut rows) = rows.lock() {
                    rows.push((place, row));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(work);
            }
        });
        let mut rows = rows.into_inner().unwrap_or_default();
        ensure!(rows.len() == mutants.len(), "the simulator itself broke");
        rows.sort_by_key(|(place, _)| *place);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn hunt(mutant: Mutant, seeds: u64) -> Row {
        let began = Instant::now();
        plant(Some(mutant));
        let found = (1..=seeds).find_map(|seed| run(seed, None).violation.map(|one| (seed, one)));
        plant(None);
        let (name, seconds) = (format!("{mutant:?}"), began.elapsed().as_secs_f64());
        let plain = found.as_ref().map(|(seed, _)| run(*seed, None));
        if let Some(violation) = plain.as_ref().and_then(|plain| plain.violation.as_ref()) {
            // Then it says nothing about the bug, and much about the product.
            println!("{name:<28} NOT CAUGHT: without it this does not hold either: {violation:?}");
            return Row {
                mutant: name,
                caught: None,
            };
        }
        let caught = found.zip(plain).map(|((seed, violation), plain)| Caught {
            seed,
            property: violation.property.to_owned(),
            what: violation.what,
            unmutated: plain.fingerprint,
        });
        match &caught {
            Some(caught) => {
                let shown: String = caught.what.chars().take(SHOWN_CHARS).collect();
                println!(
                    "{name:<28} caught  seed {:<3} {:<8} unmutated {}  {seconds:.1} s\n    {shown}",
                    caught.seed, caught.property, caught.unmutated
                );
            }
            None => println!("{name:<28} NOT CAUGHT in {seeds} seeds, {seconds:.1} s"),
        }
        Row {
            mutant: name,
            caught,
        }
    }
}

#[cfg(all(test, not(mlctl_mutants)))]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_build_says_how_to_plant_bugs() {
        let refused = main(&[]).expect_err("nothing is planted here").to_string();
        assert!(refused.contains("--cfg mlctl_mutants"), "{refused}");
        assert!(main(&["--what", "1"]).is_err() && main(&["--seeds"]).is_err());
    }

    #[test]
    fn another_fingerprint_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("report.json");
        let check = |unmutated: String| {
            let caught = Caught {
                seed: 1,
                property: "I1".into(),
                what: "it is gone".into(),
                unmutated,
            };
            let row = Row {
                mutant: "LazySync".into(),
                caught: Some(caught),
            };
            let text = serde_json::to_string(&[row]).expect("encodes");
            std::fs::write(&file, text).expect("writes");
            compare_with(&file).is_ok()
        };
        assert!(check(run(1, None).fingerprint));
        assert!(!check("00".into()));
        std::fs::write(&file, "[]").expect("writes");
        assert!(
            compare_with(&file).is_err(),
            "a report without a fingerprint proves nothing"
        );
    }
}
