//! What the scheduler says of a job, asked of a real cluster: before it is submitted, while it waits, and what would help. Does NOT check every reason: the
//! scheduler's own tests do.
use std::time::{Duration, Instant};

use mlctl_tests::process::Cluster;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn words<'a>(first: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [first, &["--"], command].concat()
}

fn foreseen(cluster: &Cluster, asks: &[&str]) -> Value {
    let first = [&["submit", "--dry-run", "--no-code"], asks].concat();
    cluster.json(&words(&first, &["sleep", "600"]))["foreseen"].clone()
}

fn helps(why: &Value, field: &str) -> Option<Value> {
    let all = why["helps"].as_array()?;
    all.iter().find(|one| one["field"] == field).cloned()
}

#[test]
fn a_dry_run_and_why_say_what_then_happens() {
    let cluster = Cluster::start(2, 4);
    // Nodes may be Ready a moment before the plan counts on them.
    let asks = ["--nodes", "2", "--gpus", "4"];
    let mut before = foreseen(&cluster, &asks);
    let end = Instant::now() + SOON;
    while before["starts"] == Value::Null && Instant::now() < end {
        before = foreseen(&cluster, &asks);
    }
    let nodes = before["starts"]["nodes"].as_array().map(Vec::len);
    assert_eq!(nodes, Some(2), "{before:#}");
    assert_eq!(before["starts"]["borrowed"], false, "{before:#}");
    let jobs = cluster.json(&["jobs", "-a"]);
    assert_eq!(jobs["jobs"], serde_json::json!([]), "nothing is queued");

    let first = cluster.submit(&words(&["--gpus", "3"], &["sleep", "600"]));
    cluster.wait_state(&first, "Running", SOON);
    let then = foreseen(&cluster, &["--nodes", "2", "--gpus", "4"]);
    assert_eq!(then["starts"], Value::Null, "{then:#}");
    let code = &then["reasons"][0]["code"];
    assert_eq!(code, "InsufficientGpus", "{then:#}");

    let gpus = cluster.mlctl(&["gpus"]).expect(0).stdout;
    let shapes = "a job starts: 1 now · 2 now · 4 now · 2 x 4 20";
    assert!(gpus.contains(shapes), "{gpus}");

    let waits = cluster.submit(&words(&asks, &["sleep", "600"]));
    let why = cluster.json(&["why", &waits]);
    assert_eq!(why["reasons"][0]["code"], "InsufficientGpus", "{why:#}");
    assert_eq!(why["standing"]["overall"], 1, "{why:#}");
    assert_eq!(why["eta"]["when_ends"], Value::from(first), "{why:#}");
    let shown = cluster.mlctl(&["why", &waits]).expect(0).stdout;
    assert!(shown.contains("--nodes 1 starts now"), "{shown}");
    // It says what would start now; so it does.
    let smaller = helps(&why, "nodes").unwrap_or_else(|| panic!("{why:#}"));
    assert_eq!(smaller["starts_now"], true, "{why:#}");
    let value = smaller["value"].as_str().expect("a value").to_owned();
    let update = ["update", &waits, "--nodes", &value];
    cluster.mlctl(&update).expect(0);
    cluster.wait_state(&waits, "Running", SOON);
}

#[test]
fn a_dry_run_is_refused_as_the_job_would_be() {
    let cluster = Cluster::start(1, 1);
    let asks = ["submit", "--dry-run", "--no-code", "--gpus", "64"];
    let dry = cluster.mlctl(&words(&asks, &["true"]));
    let asks = ["submit", "--no-code", "--gpus", "64"];
    let real = cluster.mlctl(&words(&asks, &["true"]));
    assert_ne!(real.code, 0, "no node has so many");
    assert_eq!(dry.code, real.code);
    assert!(dry.stderr.ends_with(&real.stderr), "{}", dry.stderr);
}

#[test]
fn an_elastic_job_has_the_most_nodes_that_are_free() {
    let cluster = Cluster::start(3, 1);
    let busy = cluster.submit(&words(&["--gpus", "1"], &["sleep", "600"]));
    cluster.wait_state(&busy, "Running", SOON);
    let says = ["sh", "-c", "echo world $WORLD_SIZE"];
    let elastic = || cluster.submit(&words(&["--nodes", "1..3", "--gpus", "1"], &says));
    let on = |id: &str, nodes: u64| {
        assert_eq!(cluster.wait(id, SOON), 0);
        assert_eq!(cluster.job(id).0["nodes"], nodes);
        let logs = cluster.mlctl(&["logs", id]).expect(0).stdout;
        let world = format!("world {nodes}");
        let ranks = logs.matches(&world).count() as u64;
        assert_eq!(ranks, nodes, "{logs}");
    };
    on(&elastic(), 2);
    cluster.mlctl(&["cancel", &busy]).expect(0);
    cluster.wait(&busy, SOON);
    on(&elastic(), 3);
}
