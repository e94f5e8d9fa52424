//! Devices with something on them that is no job's, on real agents with the fake driver: the end of the last job does not wait, the
//! next one does, and everybody is told. Does NOT need a GPU.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::until;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// A process that uses a device although no job started it. It ends with the test.
struct Leftover(Child);

impl Leftover {
    fn start() -> Self {
        let sleep = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn();
        Self(sleep.expect("sleep is there"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        // It may be gone, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is on each device of a node, by its place; `None`: nothing.
fn dirt(fleet: &Fleet, node: &str) -> Vec<Option<String>> {
    let shown = fleet.mlctl(&["nodes", "-o", "json"]).expect(0);
    let value: Value = serde_json::from_str(&shown.stdout).expect("a program reads this");
    let nodes = value["nodes"].as_array().expect("a list");
    let node = nodes
        .iter()
        .find(|one| one["name"] == node)
        .expect("it is there");
    let devices = node["devices"].as_array().expect("a list");
    let why = |device: &Value| device["dirty"].as_str().map(str::to_owned);
    devices.iter().map(why).collect()
}

fn reasons(fleet: &Fleet, job: &str) -> String {
    let why = fleet.mlctl(&["why", "-o", "json", job]).expect(0);
    let value: Value = serde_json::from_str(&why.stdout).expect("a program reads this");
    value["reasons"].to_string()
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::start(&Plan {
        nodes: 1,
        driver_gpus: 2,
        ..Plan::default()
    });
    fleet.wait_whole();
    fleet
}

#[test]
fn a_device_is_free_only_when_nothing_is_on_it() {
    let mut fleet = fleet();
    let mut leftover = Leftover::start();
    let why = format!("process {} (sleep)", leftover.pid());
    let marker = fleet.work().join("go");
    let script = format!(
        "until [ -e {} ]; do sleep 0.05; done; exit 3",
        marker.display()
    );
    let first = fleet.submit(&["--gpus", "2", "--", "sh", "-c", &script]);
    until("the first job to run", SOON, || {
        (fleet.job(&first).state() == "Running").then_some(())
    });
    fleet.set_driver("n1", &format!("gpus 2\nproc 1 {}\n", leftover.pid()));
    std::fs::write(&marker, "").expect("written");
    let begun = Instant::now();
    let job = fleet.ended(&first, SOON);
    assert_eq!(job.0["outcome"]["exit_code"], 3, "{:#}", job.0);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "its end waits for nobody"
    );
    assert_eq!(dirt(&fleet, "n1"), [None, Some(why.clone())]);
    let table = fleet.mlctl(&["nodes"]).expect(0).stdout;
    assert!(
        table.contains(&format!("is still in use: {why}")),
        "{table}"
    );

    let both = fleet.submit(&["--gpus", "2", "--", "true"]);
    let waits = until("a reason", SOON, || {
        Some(reasons(&fleet, &both)).filter(|reasons| reasons.contains("Cleaning"))
    });
    assert!(waits.contains(&why), "{waits}");
    let one = fleet.submit(&["--gpus", "1", "--", "true"]);
    assert_eq!(
        fleet.ended(&one, SOON).state(),
        "Completed",
        "the other device is free"
    );

    fleet.kill(&["n1"]);
    fleet.start_one("n1");
    fleet.wait_whole();
    assert_eq!(
        dirt(&fleet, "n1"),
        [None, Some(why)],
        "a restart forgets nothing"
    );
    assert_eq!(fleet.job(&both).state(), "Pending");

    leftover.0.kill().expect("it runs");
    leftover.0.wait().expect("it is ours");
    assert_eq!(fleet.ended(&both, SOON).state(), "Completed");
    assert_eq!(dirt(&fleet, "n1"), [None, None]);
}

#[test]
fn an_agent_that_starts_gives_nobody_a_device_that_somebody_uses() {
    let mut fleet = fleet();
    let leftover = Leftover::start();
    fleet.kill(&["n1"]);
    fleet.set_driver("n1", &format!("gpus 2\nproc 0 {}\n", leftover.pid()));
    fleet.start_one("n1");
    fleet.wait_whole();
    until("the look of the agent", SOON, || {
        dirt(&fleet, "n1")[0].is_some().then_some(())
    });
    drop(leftover);
    until("a clean device", SOON, || {
        (dirt(&fleet, "n1") == [None, None]).then_some(())
    });
}
