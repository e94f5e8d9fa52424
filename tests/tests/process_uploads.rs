//! A job whose spec names an object store: its checkpoint is uploaded, every node that holds it dies with its disk, and the job goes on elsewhere
//! from the store, with the same bytes. The store is a directory here; how requests to a bucket look `blobs` tests.
//! Does NOT cut an upload short: that is for `blobs`, and for the simulator.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Saves once and waits to be killed; an attempt that resumes says what it was given and ends.
const SCRIPT: &str = "if [ -n \"$MLCTL_RESUME_FROM\" ]; then
  echo resumed $(sha256sum < $MLCTL_RESUME_FROM/weights)
  exit 0
fi
cd $MLCTL_CHECKPOINT_DIR
mkdir step-5.tmp
head -c 9000011 /dev/urandom > step-5.tmp/weights
echo saved $(sha256sum < step-5.tmp/weights)
mv step-5.tmp step-5
while :; do sleep 0.05; done
";

/// The contents of all files of this name below `dir`.
fn named(dir: &Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        let kind = entry.file_type().expect("known");
        if kind.is_dir() {
            found.extend(named(&path, name));
        } else if entry.file_name() == name {
            found.extend(fs::read_to_string(&path));
        }
    }
    found
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().cloned().unwrap_or_default();
    let text = |one: &Value| one.as_str().unwrap_or_default().to_owned();
    list.iter().map(text).collect()
}

#[test]
fn a_job_resumes_from_the_store_when_every_holder_died_with_its_disk() {
    let mut fleet = Fleet::start(&Plan {
        nodes: 3,
        lost_after_ms: 5_000,
        ..Plan::default()
    });
    let far = fleet.work().join("far");
    fs::create_dir(&far).expect("made");
    let url = format!("file://{}", far.display());
    let script = fleet.work().join("job.sh");
    fs::write(&script, SCRIPT).expect("written");
    let spec = format!(
        "name = 'uploads'\ncode = ''\ncommand = ['sh', '{}']\n[checkpoint]\nreplicas = 1\nupload = '{url}'\n",
        script.display()
    );
    fs::write(fleet.work().join("job.toml"), spec).expect("written");
    let id = fleet.submit(&["job.toml"]);
    let saved = fleet.said(&id, "saved ", PATIENCE);
    let holders = until("a copy and an upload", PATIENCE, || {
        let one = fleet.job(&id).0["checkpoints"][0].clone();
        let there = one["durability"] == "1/1" && one["uploaded"] == true;
        there.then(|| texts(&one["holders"]))
    });
    assert_eq!(named(&far, "part-0.json").len(), 1);
    let shown = fleet.mlctl(&["checkpoint", "show", &id]).expect(0);
    assert!(
        shown.stdout.contains(&format!("uploaded to {url}")),
        "{}",
        shown.stdout
    );

    let left: Vec<String> = (fleet.nodes().into_iter())
        .filter(|node| !holders.contains(node))
        .collect();
    let [left] = &left[..] else {
        panic!("{holders:?} hold it")
    };
    for node in &holders {
        fleet.kill_node(node);
        fleet.wipe_disk(node);
    }
    let job = fleet.ended(&id, PATIENCE);
    assert_eq!(job.state(), "Completed", "{:#}", job.0);
    assert_eq!(job.attempts().len(), 2, "{:#}", job.0);
    assert_eq!(fleet.said(&id, "resumed ", PATIENCE), saved);
    let restored = named(&fleet.home(left).join("data"), "restored.json");
    assert!(
        restored.iter().any(|facts| facts.contains(&url)),
        "{restored:?}"
    );
    // What came stays: that node is a holder now.
    until("its new holder", PATIENCE, || {
        let holders = texts(&fleet.job(&id).0["checkpoints"][0]["holders"]);
        holders.contains(left).then_some(())
    });
}
