//! `mlctl-tests bench`: which figures to take, and how many of them.
//! Does NOT measure.

use anyhow::{Context, Result, bail};

use super::{apply, array, burst, copies, failover, idle, latency, queue, submits};

/// How it is called.
pub const USAGE: &str = "mlctl-tests bench latency|burst|array|submits|queue|failover|idle|apply|all [--rounds N]   (MLCTL_BIN names a release build)";

/// Rounds, unless somebody says how many.
const ROUNDS: usize = 5;
/// Kills of a leader on each side.
const KILLS: usize = 20;

/// Runs the subcommand. `words` follow `bench`.
///
/// # Errors
/// For words it does not know, and when figures cannot be taken.
pub fn main(words: &[&str]) -> Result<()> {
    if let ["copies", words @ ..] = words {
        // Sizes of its own, and longer than all others together: no part of `all`.
        return copies::run(&copies::Sizes::of(words, ROUNDS)?);
    }
    let (name, rounds) = match words {
        [name] => (*name, None),
        [name, "--rounds", count] => {
            let count: usize = count
                .parse()
                .with_context(|| format!("--rounds {count}: use a whole number"))?;
            (*name, Some(count.max(1)))
        }
        _ => bail!("usage: {USAGE}\n       {}", copies::USAGE),
    };
    let many = rounds.unwrap_or(ROUNDS);
    match name {
        "latency" => latency::run(many),
        "burst" => burst::run(many),
        "array" => array::run(many),
        "submits" => submits::run(many),
        "queue" => queue::run(many),
        "failover" => failover::run(rounds.unwrap_or(KILLS)),
        "idle" => idle::run(many),
        "apply" => apply::run(many),
        "all" => {
            latency::run(many)?;
            burst::run(many)?;
            array::run(many)?;
            submits::run(many)?;
            queue::run(many)?;
            failover::run(rounds.unwrap_or(KILLS))?;
            idle::run(many)?;
            apply::run(many)
        }
        _ => bail!("usage: {USAGE}\n       {}", copies::USAGE),
    }
}
