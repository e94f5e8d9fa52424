//! Runs a target on inputs changed by chance, until its time is over or an input breaks it. Does NOT measure coverage: libFuzzer does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Dice, Target};

/// An input that takes longer is called a hang; far above what a loaded machine makes of an honest one.
const HANG: Duration = Duration::from_secs(5);
/// Inputs that are kept to be changed further.
const KEPT: usize = 256;

/// How far a run got.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed that repeats it.
    pub seed: u64,
    /// Inputs that were run.
    pub inputs: u64,
    /// How long it took.
    pub took: Duration,
    /// What is wrong, with the input that shows it.
    pub broken: Option<(String, Vec<u8>)>,
}

impl Report {
    /// One line for people.
    #[must_use]
    pub fn line(&self, target: &Target) -> String {
        format!(
            "{}: {} inputs in {:.1} s, seed {}",
            target.name,
            self.inputs,
            self.took.as_secs_f64(),
            self.seed
        )
    }
}

/// Runs `target` until `limit` has passed or it breaks.
#[must_use]
pub fn drive(target: &Target, seed: u64, limit: Duration) -> Report {
    let began = Instant::now();
    let seeds = (target.seeds)();
    let mut dice = Dice::new(seed);
    let mut report = Report {
        seed,
        inputs: 0,
        took: Duration::ZERO,
        broken: None,
    };
    let mut kept = seeds.clone();
    let mut next: Vec<Vec<u8>> = seeds.clone();
    while report.broken.is_none() && (report.inputs == 0 || began.elapsed() < limit) {
        let input = next.pop().unwrap_or_else(|| {
            let from = dice.pick(&kept).cloned().unwrap_or_default();
            target.mutated(dice.number(), &seeds, &from)
        });
        report.inputs += 1;
        report.broken = breaks(target, &input).map(|why| (why, input.clone()));
        // Changes pile up in a few inputs: what is reached by two changes is reached too.
        if dice.once_in(8) {
            if kept.len() < KEPT {
                kept.push(input);
            } else {
                let at = seeds.len() + dice.below(KEPT - seeds.len());
                kept[at] = input;
            }
        }
        if dice.once_in(2_000) {
            kept.truncate(seeds.len());
        }
    }
    report.took = began.elapsed();
    report
}

/// Why this input breaks the target, if it does.
#[must_use]
pub fn breaks(target: &Target, input: &[u8]) -> Option<String> {
    let began = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if let Err(panic) = outcome {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        return Some(text.unwrap_or("it panicked").to_owned());
    }
    let took = began.elapsed();
    (took > HANG).then(|| format!("one input took {:.1} s", took.as_secs_f64()))
}

/// Keeps an input that broke `target` for whoever mends it, and says where.
///
/// # Errors
/// When the file cannot be written.
pub fn keep(target: &Target, input: &[u8]) -> std::io::Result<PathBuf> {
    let name = blake3::hash(input).to_hex();
    let path = std::env::temp_dir().join(format!("mlctl-fuzz-{}-{}", target.name, &name[..12]));
    std::fs::write(&path, input)?;
    Ok(path)
}
