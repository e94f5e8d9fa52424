//! The small processes of the one binary, chosen before a command line is parsed or a runtime started: a keeper must have one thread,
//! and neither needs more.
//! Does NOT run the agent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mlctl_runtime::telemetry::{self, TelemetryConfig};

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
        ["keeper", "--warm", _] => Some(warm_main(None)),
        ["keeper", "--warm", _, "--job-user", user] => Some(warm_main(Some(user))),
        ["keeper", _] => Some(keeper_main(Path::new(&args[1]), None)),
        ["keeper", _, "--job-user", user] => Some(keeper_main(Path::new(&args[1]), Some(user))),
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

/// A keeper logs to its standard error, a file beside its plan. The launcher gives it no collector: exporters have threads.
fn keeper_main(attempt_dir: &Path, job_user: Option<&str>) -> i32 {
    let _guard = telemetry::init(&TelemetryConfig::new("keeper", ""));
    keeper::run(attempt_dir, job_user)
}

/// Logs to the launcher's standard error, its keepers to files beside their plans.
fn warm_main(job_user: Option<&str>) -> i32 {
    let _guard = telemetry::init(&TelemetryConfig::new("keeper", ""));
    keeper::warm::run(job_user)
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
    match launcher::run(LauncherConfig {
        data_dir: config.data_dir,
        job_user: config.job_user,
    }) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            SOFTWARE
        }
    }
}
