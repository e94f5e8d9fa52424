//! `mlctl-tests bench …`: the drivers of the figures in docs/BENCHMARKS.md; `sim …`: the simulator; `mutants …`: the test of the tests.
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
        ["mutants", ref words @ ..] => mlctl_tests::sim::mutants::main(words),
        ["--version", ..] => {
            println!("mlctl-tests {}", mlctl_proto::VERSION);
            println!("cfgs {}", mlctl_proto::CFGS.join(" "));
            Ok(())
        }
        _ => bail!(
            "{USAGE}\n       {}\n       {}",
            mlctl_tests::sim::cli::USAGE,
            mlctl_tests::sim::mutants::USAGE
        ),
    }
}
