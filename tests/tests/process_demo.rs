//! `mlctl demo` from the outside: what its JSON promises, and that it cleans up behind itself.
//! Does NOT look into the training.

use std::time::Duration;

use mlctl_tests::process::workload::python_with_torch;
use mlctl_tests::process::{Cluster, command, machine};
use serde_json::Value;

/// The torch demo starts six Pythons on what may be two cores.
const PATIENCE: Duration = Duration::from_secs(170);

fn demo(cluster: &Cluster, arguments: &[&str]) -> Value {
    let mut command = cluster.command(&[&["-o", "json", "demo"], arguments].concat());
    // Its directory lies there, so that what it leaves can be seen.
    command.env("TMPDIR", cluster.work());
    let output = command::run(command, PATIENCE);
    let told = output.text();
    let value = output.json();
    let number = |key: &str| {
        value[key]
            .as_f64()
            .unwrap_or_else(|| panic!("no `{key}` in {value}"))
    };
    assert_eq!(value["params_digest"], value["reference_digest"], "{told}");
    assert!(
        value["params_digest"]
            .as_str()
            .is_some_and(|digest| digest.len() >= 32),
        "{value}"
    );
    assert!(
        number("attempts") >= 2.0 && number("accuracy") > 0.9,
        "{told}"
    );
    assert!(
        number("killed_at_step") > number("resumed_from_step") && number("resumed_from_step") > 0.0,
        "{told}"
    );
    assert!(number("steps") >= number("killed_at_step"), "{told}");
    assert!(
        number("recovery_s") > 0.0 && number("wall_s") > number("recovery_s"),
        "{told}"
    );
    assert_eq!(
        (number("coordinators"), number("nodes")),
        (3.0, 3.0),
        "{told}"
    );
    // Who made the checkpoint is gone with its disk: others had all of it.
    assert_eq!(value["killed_rank0"], true, "{told}");
    assert_eq!(value["disk_wiped"], true, "{told}");
    assert!(number("restored_bytes") > 100_000.0, "{told}");
    let from = value["restored_from"].as_array();
    assert!(from.is_some_and(|nodes| !nodes.is_empty()), "{told}");
    let left = machine::around(&cluster.work());
    assert_eq!(left, [], "the demo left processes");
    let files: Vec<_> = std::fs::read_dir(cluster.work())
        .expect("readable")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(files.is_empty(), "the demo left {files:?}");
    value
}

#[test]
fn a_training_survives_a_killed_node_bit_for_bit() {
    let cluster = Cluster::prepare();
    let first = demo(&cluster, &[]);
    let other = demo(&cluster, &["--seed", "7"]);
    for key in ["params_digest", "reference_digest"] {
        assert_ne!(first[key], other[key], "another seed is another training");
    }
}

#[test]
fn a_torch_training_survives_a_killed_node_bit_for_bit() {
    if python_with_torch("process_demo::a_torch_training_survives_a_killed_node_bit_for_bit")
        .is_some()
    {
        demo(&Cluster::prepare(), &["--torch"]);
    }
}
