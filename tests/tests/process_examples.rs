//! The examples as their READMEs tell people to run them: `mlctl run examples/X/job.toml` on a `mlctl dev` of two nodes.
//! Does NOT change them: each finds the Python that has what it needs as the first one of its `PATH`.

use std::path::Path;
use std::time::Duration;

use mlctl_tests::process::command;
use mlctl_tests::process::workload::{PYTHON, python_with, python_with_torch};
use mlctl_tests::process::{Cluster, tool};
use mlctl_tests::tidy::skips::skip;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Runs an example to its end, and checks what it reached.
#[track_caller]
fn run(name: &str, python: &str) {
    let folder = Path::new(python).parent().unwrap_or(Path::new(""));
    let usual = std::env::var("PATH").unwrap_or_default();
    let path = format!("PATH={}:{usual}", folder.display());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = root.join("examples").join(name).join("job.toml");
    let cluster = Cluster::start(2, 0);
    let words = ["run", "--env", &path, file.to_str().expect("UTF-8")];
    let output = command::run(cluster.command(&words), PATIENCE).expect(0);
    let lines = output.stdout.lines();
    let last = lines.rev().find_map(|line| line.split_once("result "));
    let (_, json) = last.unwrap_or_else(|| panic!("no result: {}", output.text()));
    let result: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(result["world_size"], 2, "{result}");
    assert!(result["accuracy"].as_f64() > Some(0.95), "{result}");
}

#[test]
fn torch_ddp_runs_on_a_dev_cluster() {
    if let Some(python) = python_with_torch("process_examples::torch_ddp_runs_on_a_dev_cluster") {
        run("torch-ddp", python);
    }
}

#[test]
fn mpi_runs_on_a_dev_cluster() {
    let test = "process_examples::mpi_runs_on_a_dev_cluster";
    let how = "apt-get install openmpi-bin python3-mpi4py python3-numpy";
    if python_with(test, PYTHON, "mpi4py.MPI, numpy", how).is_none() {
        return;
    }
    match tool::missing(&["mpirun"]) {
        Some(program) => skip(test, &format!("{program} is not installed: {how}")),
        None => run("mpi", PYTHON),
    }
}

#[test]
fn jax_runs_on_a_dev_cluster() {
    let test = "process_examples::jax_runs_on_a_dev_cluster";
    let python = std::env::var("MLCTL_JAX_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let how =
        "pip install jax numpy, and name that Python in MLCTL_JAX_PYTHON (tests/run does both)";
    if let Some(python) = python_with(test, &python, "jax, numpy", how) {
        run("jax", python);
    }
}
