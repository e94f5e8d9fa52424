//! `mlctl-tests bench …`: the drivers of the figures in docs/BENCHMARKS.md; `sim …`: the simulator; `mutants …`: the test of the tests;
//! `fuzz …`: readers of bytes; `simulate …`: baselines of the scheduler. Does NOT run tests: those are for `tests/run`.

#![forbid(unsafe_code)]

use anyhow::{Result, bail};
use mlctl_tests::{bench, fuzz, sim, simulate};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["bench", ref words @ ..] => bench::cli::main(words),
        // An end of a copy, which `bench copies` starts.
        ["copies-end", ref words @ ..] => bench::copies::end::main(words),
        ["sim", ref words @ ..] => sim::cli::main(words),
        ["mutants", ref words @ ..] => sim::mutants::main(words),
        ["fuzz", ref words @ ..] => fuzz::cli::main(words),
        ["simulate", ref words @ ..] => simulate::cli::main(words),
        ["--version", ..] => {
            println!("mlctl-tests {}", mlctl_proto::VERSION);
            println!("cfgs {}", mlctl_proto::CFGS.join(" "));
            Ok(())
        }
        _ => bail!(
            "usage: {}\n       {}\n       {}\n       {}\n       {}\n       {}",
            bench::cli::USAGE,
            bench::copies::USAGE,
            sim::cli::USAGE,
            sim::mutants::USAGE,
            fuzz::cli::USAGE,
            simulate::cli::USAGE
        ),
    }
}
