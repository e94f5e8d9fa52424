//! The one binary: command line, daemons, keeper. Starts what was asked for; does nothing itself.
#![forbid(unsafe_code)]

mod advice;
mod args;
mod client;
mod commands;
mod demo;
#[cfg(target_os = "linux")]
mod dev;
mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A keeper and a launcher must start in a millisecond and hold no runtime: they branch off before anything else.
    #[cfg(target_os = "linux")]
    if let Some(code) = mlctl_agent::early_main(std::env::args_os()) {
        return ExitCode::from(u8::try_from(code).unwrap_or(70));
    }
    let cli = match args::Cli::try_parse_from(version_flag(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout and is no failure; a wrong command line is 64.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    mlctl_runtime::tls::install_crypto();
    let output = output::of(cli.global.output);
    match commands::dispatch(cli, output.as_ref()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit())
        }
    }
}

/// `mlctl --version [-v]` is `mlctl version [-v]`.
fn version_flag(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut args: Vec<_> = args.collect();
    if args
        .get(1)
        .is_some_and(|flag| flag == "--version" || flag == "-V")
    {
        args[1] = "version".into();
    }
    args
}
