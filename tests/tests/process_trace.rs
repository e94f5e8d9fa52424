//! One trace leads from `mlctl submit` over commit and launch to the rank. Does NOT judge how long anything took.

use std::time::Duration;

use mlctl_tests::process::collector::Collector;
use mlctl_tests::process::{Cluster, command, until};

#[test]
fn one_trace_from_submit_to_the_rank() {
    let collector = Collector::start();
    let cluster = Cluster::prepare();
    let traced = |arguments: &[&str]| {
        let mut command = cluster.command(arguments);
        command.env("MLCTL_OTLP_ENDPOINT", collector.endpoint());
        command::run(command, Duration::from_secs(60))
    };
    traced(&["dev", "--detach", "--nodes", "2"]).expect(0);
    let output = traced(&[
        "run",
        "--no-code",
        "--nodes",
        "2",
        "--",
        "sh",
        "-c",
        "echo $TRACEPARENT",
    ]);
    let output = output.expect(0);
    let parents: Vec<&str> = output
        .lines()
        .iter()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    assert_eq!(parents.len(), 2, "{}", output.text());
    let trace = parents[0]
        .split('-')
        .nth(1)
        .expect("a traceparent")
        .to_owned();
    assert_eq!(trace.len(), 32, "{}", output.text());
    assert!(
        parents.iter().all(|parent| parent.contains(&trace)),
        "{}",
        output.text()
    );

    let wanted = [
        ("mlctl-cli", "submit"),
        ("mlctl-coordinator", "submit"),
        ("mlctl-coordinator", "commit"),
        ("mlctl-coordinator", "start"),
        ("mlctl-agent", "attempt"),
    ];
    let deadline = Duration::from_secs(20);
    until("every span of the path", deadline, || {
        let spans = collector.trace(&trace);
        let there = |(service, name): &(&str, &str)| {
            spans
                .iter()
                .any(|span| span.service == *service && span.name == *name)
        };
        wanted.iter().all(there).then_some(())
    });
}

#[test]
fn a_dead_collector_costs_nothing() {
    let cluster = Cluster::prepare();
    let mut up = cluster.command(&["dev", "--detach", "--nodes", "1"]);
    up.env("MLCTL_OTLP_ENDPOINT", "http://127.0.0.1:9");
    command::run(up, Duration::from_secs(60)).expect(0);
    let job = cluster.submit(&["--", "true"]);
    assert_eq!(cluster.wait(&job, Duration::from_secs(20)), 0);
}
