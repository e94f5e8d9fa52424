//! Two teams on a real cluster: one borrows what the other does not use, the other comes back and takes it, and both are told why. Does NOT check the
//! arithmetic of quotas: the state's own tests do.
use std::time::Duration;

use mlctl_tests::process::Cluster;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(40);
/// As many as there are.
const ALL: &str = "32";

fn reasons(cluster: &Cluster, id: &str) -> Vec<(String, String)> {
    let why = cluster.json(&["why", id]);
    let all = why["reasons"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.iter()
        .map(|one| (text(&one["code"]), text(&one["text"])))
        .collect()
}

/// A part of the devices' model that names it as a flavor.
fn kind(cluster: &Cluster) -> String {
    let nodes = cluster.json(&["nodes"]);
    let model = nodes["nodes"][0]["devices"][0]["model"].as_str();
    let model = model.unwrap_or_else(|| panic!("no device: {nodes}"));
    model.split_whitespace().last().unwrap_or(model).to_owned()
}

/// `acme` has all devices, its two teams half of them each, and each may borrow the other half.
fn two_teams(cluster: &Cluster) -> String {
    let kind = kind(cluster);
    let of = |count: &str| format!("{kind}={count}");
    cluster.mlctl(&["team", "set", "acme"]).expect(0);
    cluster
        .mlctl(&["quota", "set", "acme", "--gpus", &of(ALL)])
        .expect(0);
    let hours = of("1000/month");
    let budget = ["quota", "set", "acme", "--gpu-hours", &hours];
    cluster.mlctl(&budget).expect(0);
    for team in ["acme/red", "acme/blue"] {
        cluster.mlctl(&["team", "set", team]).expect(0);
        let (own, more) = (of("16"), of("16"));
        let words = ["quota", "set", team, "--gpus", &own, "--borrow", &more];
        cluster.mlctl(&words).expect(0);
        cluster
            .mlctl(&["team", "add-user", team, &whoami(cluster)])
            .expect(0);
    }
    kind
}

/// The name of whoever the cluster's context is of.
fn whoami(cluster: &Cluster) -> String {
    let id = cluster.submit(&["--", "true"]);
    let owner = cluster.job(&id).0["owner"].as_str().map(str::to_owned);
    cluster.wait(&id, SOON);
    owner.expect("a job has an owner")
}

#[test]
fn who_comes_back_takes_what_was_borrowed_and_both_are_told_why() {
    let cluster = Cluster::start(4, 8);
    let kind = two_teams(&cluster);
    let red: Vec<String> = (0..4)
        .map(|_| {
            let words = ["--team", "acme/red", "--gpus", "8"];
            cluster.submit(&[&words[..], &["--", "sleep", "600"]].concat())
        })
        .collect();
    for id in &red {
        cluster.wait_state(id, "Running", SOON);
    }
    let blue = cluster.submit(&[
        "--team",
        "acme/blue",
        "--nodes",
        "2",
        "--gpus",
        "8",
        "--",
        "sleep",
        "600",
    ]);
    cluster.wait_state(&blue, "Running", SOON);
    let states = |state: &str| {
        let of = |id: &&String| cluster.job(id).state() == state;
        red.iter().filter(of).cloned().collect::<Vec<String>>()
    };
    let (goes_on, waits) = (states("Running"), states("Pending"));
    assert_eq!((goes_on.len(), waits.len()), (2, 2), "two of four borrowed");
    for id in &waits {
        let job = cluster.job(id);
        assert_eq!(job.attempt_end(1), "Preempted", "{:#}", job.0);
        let (code, text) = reasons(&cluster, id).into_iter().next().expect("it waits");
        assert_eq!(code, "QuotaExceeded", "{text}");
    }
    // What the team above has is all in use: not even its owner could start more.
    let more = cluster.submit(&["--team", "acme/blue", "--gpus", "1", "--", "true"]);
    cluster.wait_until(&more, "explained", SOON, |_| {
        !reasons(&cluster, &more).is_empty()
    });
    let (code, text) = reasons(&cluster, &more)
        .into_iter()
        .next()
        .expect("it waits");
    assert_eq!(code, "QuotaExceeded", "{text}");
    assert!(
        text.contains("acme") && text.to_uppercase().contains(&kind.to_uppercase()),
        "{text}"
    );
    cluster.mlctl(&["cancel", &more]).expect(0);
    // Its owner is done: those who were ended run again.
    cluster.mlctl(&["cancel", &blue]).expect(0);
    for id in &red {
        cluster.wait_state(id, "Running", SOON);
    }
    for id in &red {
        cluster.mlctl(&["cancel", id]).expect(0);
        cluster.wait(id, SOON);
    }
    check_usage(&cluster, &[red, vec![blue]].concat());
}

/// What the budget says was used is what attempts held by the cluster's time, to a hundredth of a second for each GPU, and not less than what their ranks ran by it.
fn check_usage(cluster: &Cluster, jobs: &[String]) {
    let ms = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no time: {value}"));
    let (mut held, mut ran, mut attempts) = (0.0, 0.0, 0.0);
    for id in jobs {
        let job = cluster.job(id);
        for attempt in job.attempts() {
            let gpus: usize = attempt["allocations"].as_array().map_or(0, |all| {
                let devices = |one: &Value| one["devices"].as_array().map_or(0, Vec::len);
                all.iter().map(devices).sum()
            });
            let (started, ended) = (ms(&attempt["started_ms"]), ms(&attempt["ended_ms"]));
            held += gpus as f64 * (ended - started) / 1_000.0;
            let running = ms(&attempt["running_ms"]);
            ran += gpus as f64 * (ended - running.max(started)) / 1_000.0;
            attempts += gpus as f64;
        }
    }
    let shown = cluster.json(&["quota", "show", "acme"]);
    let budget = &shown["teams"][0]["budgets"][0];
    let used = ms(&budget["used_gpu_seconds"]);
    assert!(
        (used - held).abs() <= attempts * 0.01,
        "used {used} s, held {held} s: {shown:#}"
    );
    assert!(
        used > 0.0 && used >= ran - attempts * 0.01,
        "used {used} s, ran {ran} s"
    );
    assert_eq!(budget["committed"], 0, "all have ended: {budget:#}");
}
