//! The small processes of the one binary, chosen before a command line is parsed or a runtime started: a keeper must have one thread,
//! and neither needs more.
//! Does NOT run the agent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mlctl_runtime::telemetry::{self, TelemetryConfig};

use crate::keeper::terms::Terms;
use crate::launcher::LauncherConfig;
use crate::{Config, keeper, launcher};

/// Usage was wrong.
const USAGE: i32 = 64;
/// It could not be done.
const SOFTWARE: i32 = 70;

/// Runs `keeper ATTEMPT_DIR`, `launcher --config FILE` or `mpi-agent ATTEMPT_DIR WORDS...` if `args` (the program first) say so, and returns the exit code of the process;
/// `None`: they say something else. Call it first thing in `main`, before any thread is started.
pub fn early_main(args: impl IntoIterator<Item = OsString>) -> Option<i32> {
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    let words: Vec<&str> = args
        .iter()
        .map(|word| word.to_str().unwrap_or_default())
        .collect();
    match words.as_slice() {
        ["keeper", "--warm", _] => Some(with_terms(keeper::warm::run)),
        ["keeper", _] => Some(with_terms(|terms| keeper::run(Path::new(&args[1]), &terms))),
        ["launcher", "--config", _] => Some(launcher_main(PathBuf::from(&args[2]))),
        ["mpi-agent", _, words @ ..] => {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            Some(keeper::shim::run(Path::new(&args[1]), &words))
        }
        ["keeper", ..] => Some(usage(
            "mlctl keeper ATTEMPT_DIR (started by `mlctl launcher`)",
        )),
        // `--help` and mistakes are for the command line parser to explain.
        _ => None,
    }
}

fn usage(text: &str) -> i32 {
    eprintln!("usage: {text}");
    USAGE
}

/// A keeper logs to its standard error, a file beside its plan; a warm one to the launcher's. The launcher gives it no collector: exporters
/// have threads.
fn with_terms(run: impl FnOnce(Terms) -> i32) -> i32 {
    let _guard = telemetry::init(&TelemetryConfig::new("keeper", ""));
    match Terms::enter() {
        Ok(terms) => run(terms),
        Err(why) => {
            // To the launcher, which passes it on, or to its log.
            println!("{why}");
            tracing::error!("{why}");
            SOFTWARE
        }
    }
}

fn launcher_main(file: PathBuf) -> i32 {
    let config = match Config::load(&file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("launcher: {error}");
            return USAGE;
        }
    };
    // Logs only: what the launcher does is part of no trace, and what it does as root needs no network.
    let _guard = telemetry::init(&TelemetryConfig::new("launcher", &config.name));
    match launcher::run(LauncherConfig::of(&config)) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            SOFTWARE
        }
    }
}
