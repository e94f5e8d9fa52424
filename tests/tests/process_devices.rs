//! Simulated GPUs on real processes: what fits never, what waits and why, what a rank sees.
//! Does NOT need a GPU.

use std::time::Duration;

use mlctl_tests::process::workload::nap;
use mlctl_tests::process::{Cluster, list, until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn what_can_never_run_is_refused_with_the_numbers() {
    let cluster = Cluster::start(2, 2);
    for (flags, words) in [
        (&["--gpus", "3"][..], &["3 GPUs", "2"][..]),
        (&["--nodes", "3"], &["3 nodes", "2"]),
        (&["--nodes", "3", "--gpus", "1"], &["3 nodes", "2 nodes"]),
        (
            &["--gpus", "1", "--gpu", "H100"],
            &["no such GPU", "only SIM"],
        ),
    ] {
        cluster
            .mlctl(&[&["submit", "--no-code"], flags, &["--", "true"]].concat())
            .refused(64, words);
        let json = cluster
            .mlctl(
                &[
                    &["-o", "json", "submit", "--no-code"],
                    flags,
                    &["--", "true"],
                ]
                .concat(),
            )
            .expect(64);
        let value: Value = serde_json::from_str(&json.stdout).expect("one JSON value");
        assert_eq!(value["error"]["code"], "NeverFits", "{value}");
    }
    assert_eq!(
        cluster.json(&["jobs", "-a"])["jobs"],
        serde_json::json!([]),
        "nothing was queued"
    );
}

#[test]
fn a_job_waits_for_devices_and_says_so() {
    let cluster = Cluster::start(2, 2);
    let holder = cluster.submit(&["--gpus", "2", "--", "sleep", &nap()]);
    cluster.wait_state(&holder, "Running", SOON);
    let waiting = cluster.submit(&[
        "--nodes",
        "2",
        "--gpus",
        "1",
        "--",
        "sh",
        "-c",
        "exit $RANK",
    ]);
    let why = until("a reason", SOON, || {
        let why = cluster.json(&["why", &waiting]);
        why["reasons"]
            .as_array()
            .is_some_and(|reasons| !reasons.is_empty())
            .then_some(why)
    });
    // Two GPUs are free, but on one node.
    assert_eq!(
        (&why["state"], &why["reasons"][0]["code"]),
        (&"Pending".into(), &"Fragmented".into()),
        "{why}"
    );
    let whole = cluster.submit(&["--nodes", "2", "--gpus", "2", "--", "true"]);
    let why = until("a reason", SOON, || {
        let why = cluster.json(&["why", &whole]);
        let codes: Vec<&str> = why["reasons"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["code"].as_str())
            .collect();
        codes.contains(&"InsufficientGpus").then_some(why.clone())
    });
    assert!(
        why["reasons"].to_string().contains("4 GPUs needed, 2 free"),
        "{why}"
    );
    let table = cluster.mlctl(&["why", &whole]).expect(0).stdout;
    assert!(table.contains("InsufficientGpus"), "{table}");
    // A job that fits beside them need not wait.
    let small = cluster.submit(&["--gpus", "1", "--", "true"]);
    let blocked = cluster.job(&waiting);
    assert_eq!(blocked.state(), "Pending");
    assert!(
        !blocked.0["reason"].as_str().unwrap_or_default().is_empty(),
        "{:#}",
        blocked.0
    );
    cluster.mlctl(&["cancel", &holder]).expect(0);
    assert_eq!(
        cluster.wait(&waiting, SOON),
        1,
        "it starts when devices are free"
    );
    assert_eq!(
        (cluster.wait(&whole, SOON), cluster.wait(&small, SOON)),
        (0, 0)
    );
    assert_eq!(cluster.job(&waiting).attempts().len(), 1);
}

#[test]
fn simulated_devices_are_called_so_everywhere() {
    let cluster = Cluster::start(2, 2);
    let nap = nap();
    let id = cluster.submit(&[
        "--gpus",
        "2",
        "--launcher",
        "python",
        "--",
        "sh",
        "-c",
        &format!("echo devices=${{CUDA_VISIBLE_DEVICES-unset}} local=$LOCAL_RANK; sleep {nap}"),
    ]);
    for rank in 0..2 {
        cluster.wait_line(&id, &format!("[{rank}] devices=unset local={rank}"), SOON);
    }
    let job = cluster.job(&id);
    let attempt = &job.attempts()[0];
    let devices = list(&attempt["allocations"][0]["devices"]);
    assert_eq!(
        (devices.len(), &attempt["simulated"]),
        (2, &true.into()),
        "{:#}",
        job.0
    );
    let called = |device: &Value| device.as_str().is_some_and(|uuid| uuid.starts_with("SIM-"));
    assert!(devices.iter().all(called), "{devices:?}");
    let nodes = cluster.json(&["nodes"]);
    let all = || {
        list(&nodes["nodes"])
            .iter()
            .flat_map(|node| list(&node["devices"]))
    };
    let simulated = all().filter(|device| device["simulated"] == true).count();
    let held = all().filter(|device| device["job"] == id.as_str()).count();
    assert_eq!((all().count(), simulated, held), (4, 4, 2), "{nodes}");
    for arguments in [&["nodes"][..], &["show", &id]] {
        let table = cluster.mlctl(arguments).expect(0).stdout;
        assert!(table.contains("SIM"), "{table}");
    }
    cluster.mlctl(&["cancel", &id]).expect(0);
    assert_eq!(cluster.wait(&id, SOON), 130);
    let freed = cluster.json(&["nodes"]);
    assert!(
        list(&freed["nodes"])
            .iter()
            .all(|node| node["gpus_used"] == 0),
        "{freed}"
    );
}
