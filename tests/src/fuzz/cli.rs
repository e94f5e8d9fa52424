//! `mlctl-tests fuzz`: runs a target for a while, replays an input, or writes the inputs to begin from for libFuzzer.
//! Does NOT measure coverage: see tests/fuzz.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::drive::{breaks, drive, keep};
use super::{TARGETS, Target};

/// How it is called.
pub const USAGE: &str = "mlctl-tests fuzz TARGET [--seconds N] [--seed N] | mlctl-tests fuzz TARGET FILE... | mlctl-tests fuzz seeds TARGET DIR";

fn named(name: &str) -> Result<Target> {
    let names = || TARGETS.map(|target| target.name).join(", ");
    Target::named(name)
        .with_context(|| format!("there is no target {name}: use one of {}", names()))
}

/// Runs the subcommand. `words` follow `fuzz`.
///
/// # Errors
/// For words it does not know, and when an input breaks the target.
pub fn main(words: &[&str]) -> Result<()> {
    match words {
        ["seeds", name, dir] => write_seeds(&named(name)?, Path::new(dir)),
        [name, files @ ..] if !files.is_empty() && !files[0].starts_with("--") => {
            replay(&named(name)?, files)
        }
        [name, options @ ..] => {
            let (mut seconds, mut seed) = (10, rand::random());
            for pair in options.chunks(2) {
                let [word, value] = pair else {
                    bail!("{} needs a number\nusage: {USAGE}", pair[0]);
                };
                let number: u64 = value
                    .parse()
                    .with_context(|| format!("{word} {value}: use a whole number"))?;
                match *word {
                    "--seconds" => seconds = number,
                    "--seed" => seed = number,
                    _ => bail!("{word} is unknown\nusage: {USAGE}"),
                }
            }
            random(&named(name)?, seed, Duration::from_secs(seconds))
        }
        [] => bail!("usage: {USAGE}"),
    }
}

fn write_seeds(target: &Target, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    for seed in (target.seeds)() {
        let name = blake3::hash(&seed).to_hex();
        let path = dir.join(&name[..16]);
        fs::write(&path, seed).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn replay(target: &Target, files: &[&str]) -> Result<()> {
    let mut broken = 0;
    for file in files {
        let input = fs::read(file).with_context(|| (*file).to_owned())?;
        if let Some(why) = breaks(target, &input) {
            println!("{file}: {why}");
            broken += 1;
        }
    }
    println!("{} inputs, {broken} break {}", files.len(), target.name);
    if broken == 0 {
        Ok(())
    } else {
        bail!("an input breaks {}", target.name)
    }
}

fn random(target: &Target, seed: u64, limit: Duration) -> Result<()> {
    let report = drive(target, seed, limit);
    println!("{}", report.line(target));
    let Some((why, input)) = report.broken else {
        return Ok(());
    };
    let path = keep(target, &input)?;
    bail!(
        "{why}\n  replay: mlctl-tests fuzz {} {}",
        target.name,
        path.display()
    )
}
