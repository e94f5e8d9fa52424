//! Where a trainer may write its checkpoints beside its node's disk: in the node's memory, from where they are sealed and copied as ever and of
//! which nothing is left behind, and in a directory that every node sees, where nothing is copied.
//! Does NOT show that memory is faster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Says where it is to write, saves once and waits to be killed; an attempt that resumes says what it was given and ends.
const SCRIPT: &str = "echo writes $(stat -f -c %T \"$MLCTL_CHECKPOINT_DIR\") $(cd \"$MLCTL_CHECKPOINT_DIR\" && pwd -P)
if [ -n \"$MLCTL_RESUME_FROM\" ]; then
  echo resumed $(sha256sum < \"$MLCTL_RESUME_FROM/weights\")
  exit 0
fi
cd \"$MLCTL_CHECKPOINT_DIR\"
mkdir step-5.tmp
head -c 5000011 /dev/urandom > step-5.tmp/weights
echo saved $(sha256sum < step-5.tmp/weights)
mv step-5.tmp step-5
while :; do sleep 0.05; done
";

fn fleet() -> Fleet {
    Fleet::start(&Plan {
        nodes: 2,
        lost_after_ms: 5_000,
        ..Plan::default()
    })
}

/// Submits the script with these lines of `[checkpoint]`; waits for a checkpoint that is as durable as that.
fn saved(fleet: &Fleet, lines: &str, durability: &str) -> String {
    let script = fleet.work().join("job.sh");
    fs::write(&script, SCRIPT).expect("written");
    let spec = format!(
        "name = 'places'\ncode = ''\ncommand = ['sh', '{}']\n[checkpoint]\n{lines}\n",
        script.display()
    );
    fs::write(fleet.work().join("job.toml"), spec).expect("written");
    let id = fleet.submit(&["job.toml"]);
    until(&format!("a checkpoint, {durability}"), PATIENCE, || {
        let job = fleet.job(&id).0;
        let one: &Value = &job["checkpoints"][0];
        (one["name"] == "step-5" && one["durability"] == durability).then_some(())
    });
    id
}

/// Where each attempt was told to write: the kind of file system, and the directory.
fn places(fleet: &Fleet, id: &str) -> Vec<(String, PathBuf)> {
    let lines = fleet.lines(id);
    let told = lines.iter().filter_map(|line| line.split_once("writes "));
    let pair = told.filter_map(|(_, rest)| rest.split_once(' '));
    pair.map(|(kind, dir)| (kind.to_owned(), dir.into()))
        .collect()
}

/// The node that the job runs on dies with its disk; which one that is.
fn dies(fleet: &mut Fleet, id: &str) -> String {
    let node = fleet.job(id).nodes().remove(0);
    fleet.kill_node(&node);
    fleet.wipe_disk(&node);
    node
}

/// Of what an attempt had in memory not even the folder above it is left.
fn is_gone(dir: &Path) {
    let outer = dir.parent().expect("it has one").to_owned();
    until(&format!("the end of {}", outer.display()), PATIENCE, || {
        (!outer.exists()).then_some(())
    });
}

#[test]
fn what_is_written_to_memory_survives_its_node_and_leaves_nothing_there() {
    let mut fleet = fleet();
    let id = saved(&fleet, "tier = 'ram'", "1/1");
    let written = fleet.said(&id, "saved ", PATIENCE);
    let first = places(&fleet, &id);
    let [(kind, first)] = &first[..] else {
        panic!("{first:?}: one attempt")
    };
    assert_eq!(kind, "tmpfs");
    assert!(first.join("step-5/weights").exists(), "{}", first.display());

    let node = dies(&mut fleet, &id);
    let job = fleet.ended(&id, PATIENCE);
    assert_eq!(job.state(), "Completed", "{:#}", job.0);
    assert_eq!(fleet.said(&id, "resumed ", PATIENCE), written);
    let (kind, last) = places(&fleet, &id).pop().expect("another attempt");
    assert_eq!(kind, "tmpfs");
    assert_ne!(&last, first);
    is_gone(&last);
    // No machine died here, so what the first attempt had is still in memory, and no disk knows of it.
    assert!(first.exists());
    fleet.boot_node(&node);
    is_gone(first);
}

#[test]
fn a_directory_that_every_node_sees_is_gone_on_from_anywhere() {
    let mut fleet = fleet();
    let seen = fleet.work().join("seen by all");
    fs::create_dir(&seen).expect("made");
    let lines = format!("dir = '{}'\nshared = true", seen.display());
    let id = saved(&fleet, &lines, "shared");
    let written = fleet.said(&id, "saved ", PATIENCE);
    let refused = fleet.mlctl(&["checkpoint", "verify", &id]);
    assert_ne!(refused.code, 0, "{}", refused.text());

    let node = dies(&mut fleet, &id);
    let job = fleet.ended(&id, PATIENCE);
    assert_eq!(job.state(), "Completed", "{:#}", job.0);
    assert_ne!(job.nodes(), [node], "elsewhere");
    assert_eq!(fleet.said(&id, "resumed ", PATIENCE), written);
    for (_, dir) in places(&fleet, &id) {
        assert_eq!(dir, seen.canonicalize().expect("there"));
    }
    let names = fs::read_dir(&seen).expect("read").flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["step-5"], "nothing is moved there, nothing removed");
}
