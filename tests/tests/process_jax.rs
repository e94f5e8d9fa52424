//! JAX over machines of their own: a bare `jax.distributed.initialize()` finds its peers, and a dead one ends the gang in seconds.
//! Does NOT test what any launch method shares.

use std::fs;
use std::time::{Duration, Instant};

use mlctl_tests::process::workload::python_with;
use mlctl_tests::process::{Fleet, machine, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
/// Left alone, a survivor of a dead peer waits for 100 s.
const SECONDS: Duration = Duration::from_secs(15);

const TRAIN: &str = include_str!("../../examples/jax/train.py");
const DIGITS: &[u8] = include_bytes!("../../examples/digits.csv.gz");

/// Meets the others, says which process it is, and waits in a collective for one that never comes.
const WAIT: &str = r#"import os, time, jax
from jax.experimental import multihost_utils
jax.distributed.initialize()
print("process", os.getpid(), "is", jax.process_index(), flush=True)
if jax.process_index() == 1:
    time.sleep(600)
multihost_utils.sync_global_devices("never")
"#;

/// A fleet of two nodes with the examples in `code`, and the Python that has jax.
fn fleet(test: &str) -> Option<(Fleet, String)> {
    let python = std::env::var("MLCTL_JAX_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let how =
        "pip install jax numpy, and name that Python in MLCTL_JAX_PYTHON (tests/run does both)";
    python_with(test, &python, "jax, numpy", how)?;
    let fleet = Fleet::on_hosts(test, 2, &[])?;
    let code = fleet.work().join("code");
    fs::create_dir_all(code.join("jax")).expect("made");
    fs::write(code.join("jax/train.py"), TRAIN).expect("written");
    fs::write(code.join("wait.py"), WAIT).expect("written");
    fs::write(code.join("digits.csv.gz"), DIGITS).expect("written");
    Some((fleet, python))
}

fn submit(fleet: &Fleet, python: &str, words: &str) -> String {
    let spec = format!(
        "launcher = 'jax'\ncompat = 'slurm'\nnodes = 2\ncode = '.'\ncommand = '{python} {words}'\n"
    );
    let file = fleet.work().join("code/job.toml");
    fs::write(&file, spec).expect("written");
    fleet.submit(&["code/job.toml"])
}

#[test]
fn a_bare_initialize_finds_its_peers_and_trains() {
    let name = "process_jax::a_bare_initialize_finds_its_peers_and_trains";
    let Some((fleet, python)) = fleet(name) else {
        return;
    };
    let id = submit(&fleet, &python, "jax/train.py --steps 100");
    let job = fleet.ended(&id, PATIENCE);
    let log = fleet.lines(&id);
    assert_eq!(job.state(), "Completed", "{log:#?}");
    for (rank, node) in job.nodes().iter().enumerate() {
        let line = format!("[{rank}] process {rank} of 2 on {node}");
        assert!(log.contains(&line), "{line}: {log:#?}");
    }
    let last = log.iter().find_map(|line| line.split_once("result "));
    let (_, json) = last.unwrap_or_else(|| panic!("no result: {log:#?}"));
    let result: Value = serde_json::from_str(json).expect("JSON");
    assert!(result["accuracy"].as_f64() > Some(0.95), "{result}");
}

#[test]
fn a_dead_peer_ends_the_gang_in_seconds() {
    let Some((fleet, python)) = fleet("process_jax::a_dead_peer_ends_the_gang_in_seconds") else {
        return;
    };
    let id = submit(&fleet, &python, "wait.py");
    let pid = until("both processes", PATIENCE, || {
        let lines = fleet.lines(&id);
        let met = lines.iter().filter(|line| line.contains("process "));
        let second = met.clone().find(|line| line.ends_with(" is 1"))?;
        (met.count() == 2).then_some(())?;
        second.split(' ').nth(2)?.parse::<i32>().ok()
    });
    let begun = Instant::now();
    machine::kill(pid);
    let job = fleet.ended(&id, SECONDS);
    assert_eq!(job.state(), "Failed", "{:#}", job.0);
    println!("over {:?} after the kill", begun.elapsed());
}
