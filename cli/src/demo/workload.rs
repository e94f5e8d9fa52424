//! What the demo trains with: the built-in trainer, or PyTorch in the first Python that has it. Runs nothing but that question.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mlctl_proto::spec::{CheckpointSpec, JobSpec, LaunchMethod};

use super::trainer::DIGITS_CSV_GZ;
use crate::failure::Failure;

/// The PyTorch script, as it lies in `examples/`.
const SCRIPT: &str = include_str!("../../../examples/digits_ddp.py");

/// Steps of a training and of a checkpoint.
const STEPS: u64 = 500;
const CHECKPOINT_EVERY: u64 = 20;

/// A training that can be submitted.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The job; its name is set per run.
    pub spec: JobSpec,
    /// Directory to upload, if it has code.
    pub code: Option<PathBuf>,
    /// Steps until it is done.
    pub steps: u64,
    /// For people.
    pub what: String,
}

fn spec(command: Vec<String>, launcher: LaunchMethod) -> JobSpec {
    let mut spec = JobSpec::new(command);
    spec.nodes = 2;
    spec.launcher = launcher;
    spec.checkpoint = Some(CheckpointSpec::in_dir("ckpt"));
    spec
}

/// The built-in trainer: this very binary.
pub fn built_in(seed: u64) -> Result<Workload, Failure> {
    let own = std::env::current_exe().map_err(Failure::internal)?;
    let own = own
        .to_str()
        .ok_or_else(|| Failure::config_text("this binary's path is not UTF-8".into()))?;
    let words = [
        own,
        "demo-trainer",
        "--seed",
        &seed.to_string(),
        "--steps",
        &STEPS.to_string(),
    ];
    let mut command: Vec<String> = words.map(str::to_owned).into();
    command.extend([
        "--checkpoint-every".to_owned(),
        CHECKPOINT_EVERY.to_string(),
    ]);
    Ok(Workload {
        spec: spec(command, LaunchMethod::Exec),
        code: None,
        steps: STEPS,
        what: "a network of 64-2048-10 units, data parallel over 2 nodes".into(),
    })
}

/// PyTorch DDP, with its code laid out in `dir`.
pub fn torch(seed: u64, dir: &Path) -> Result<Workload, Failure> {
    let python = python_with_torch()?;
    std::fs::create_dir_all(dir).map_err(Failure::internal)?;
    std::fs::write(dir.join("digits_ddp.py"), SCRIPT).map_err(Failure::internal)?;
    std::fs::write(dir.join("digits.csv.gz"), DIGITS_CSV_GZ).map_err(Failure::internal)?;
    let words = [
        python.as_str(),
        "digits_ddp.py",
        "--seed",
        &seed.to_string(),
        "--steps",
        &STEPS.to_string(),
        "--checkpoint-every",
        &CHECKPOINT_EVERY.to_string(),
        "--min-step-ms",
        "8",
    ];
    Ok(Workload {
        spec: spec(words.map(str::to_owned).into(), LaunchMethod::Python),
        code: Some(dir.to_owned()),
        steps: STEPS,
        what: format!("PyTorch DistributedDataParallel in {python}, over 2 nodes"),
    })
}

/// The first of `$MLCTL_PYTHON`, `python3` and `/usr/bin/python3` that can import torch and numpy; else every one tried is named.
fn python_with_torch() -> Result<String, Failure> {
    let wanted = std::env::var("MLCTL_PYTHON")
        .ok()
        .filter(|python| !python.is_empty());
    let candidates = wanted
        .into_iter()
        .chain(["python3".to_owned(), "/usr/bin/python3".to_owned()]);
    let mut tried = Vec::new();
    for python in candidates {
        let mut command = Command::new(&python);
        command
            .args(["-c", "import torch, numpy"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        match command.output() {
            Ok(output) if output.status.success() => return Ok(python),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                let last = text
                    .lines()
                    .last()
                    .unwrap_or("it failed without a word")
                    .to_owned();
                tried.push(format!("{python} ({last})"));
            }
            Err(error) => tried.push(format!("{python} ({error})")),
        }
    }
    Err(Failure::usage(format!(
        "no Python with torch and numpy found; tried {}. Install it (Debian: apt-get install python3-torch) or set MLCTL_PYTHON",
        tried.join(", ")
    )))
}
