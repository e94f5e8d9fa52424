//! `mlctl-tests bench …`: the drivers of the figures in docs/BENCHMARKS.md; `mlctl-tests sim …`: the simulator.
//! Does NOT run tests: those are for `tests/run`.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};

const USAGE: &str =
    "usage: mlctl-tests bench latency [--rounds N]   (MLCTL_BIN names a release build)";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["bench", "latency"] => mlctl_tests::bench::latency::run(5),
        ["bench", "latency", "--rounds", count] => {
            let rounds: usize = count
                .parse()
                .with_context(|| format!("--rounds {count}: use a whole number"))?;
            mlctl_tests::bench::latency::run(rounds.max(1))
        }
        ["sim", ref words @ ..] => mlctl_tests::sim::cli::main(words),
        _ => bail!("{USAGE}\n       {}", mlctl_tests::sim::cli::USAGE),
    }
}
