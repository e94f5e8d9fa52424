//! Arrays on real processes: every task ends exactly once as the user sees it, whatever dies meanwhile; limits, logs and cancels.
//! Does NOT measure how fast they are (see the bench `array`).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mlctl_tests::process::workload::nap;
use mlctl_tests::process::{Cluster, Job, machine, until};

const SOON: Duration = Duration::from_secs(20);
const LATER: Duration = Duration::from_secs(60);

/// A number of the array's record.
fn count(job: &Job, what: &str) -> u64 {
    let number = job.0["array"][what].as_u64();
    number.unwrap_or_else(|| panic!("no `{what}` in {:#}", job.0["array"]))
}

/// A file outside of the cluster into which tasks write.
fn probe(cluster: &Cluster) -> PathBuf {
    cluster.work().join("probe")
}

/// How often each line is in a file.
fn lines(path: &PathBuf) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

/// Submits tasks that write their index to the probe and take `seconds`.
fn submit_writers(cluster: &Cluster, array: &str, seconds: &str) -> String {
    let probe = probe(cluster);
    let script = format!(
        "sleep {seconds}; echo $MLCTL_ARRAY_INDEX >> {}",
        probe.display()
    );
    cluster.submit(&["--array", array, "--", "sh", "-c", &script])
}

#[test]
fn a_thousand_tasks_end_each_as_it_did_and_one_can_be_read() {
    let cluster = Cluster::start(2, 0);
    let script = "echo task $MLCTL_ARRAY_INDEX of $MLCTL_ARRAY_COUNT is $MLCTL_TASK_ID, rank $RANK of $WORLD_SIZE; exit $((MLCTL_ARRAY_INDEX % 2))";
    let id = cluster.submit(&["--array", "1000", "--", "sh", "-c", script]);
    assert_eq!(cluster.wait(&id, LATER), 1);
    let job = cluster.job(&id);
    let counts = [
        "tasks",
        "succeeded",
        "failed",
        "cancelled",
        "pending",
        "running",
    ];
    assert_eq!(
        counts.map(|what| count(&job, what)),
        [1_000, 500, 500, 0, 0, 0],
        "{:#}",
        job.0
    );
    let first = &job.0["array"]["failures"][0];
    assert_eq!(
        (&job.outcome()["rank"], &job.outcome()["exit_code"]),
        (&first["index"], &1.into())
    );
    for index in [0, 7, 999] {
        let task = format!("{id}.{index}");
        let log = cluster.mlctl(&["logs", &task]).expect(0).stdout;
        let says = format!("[{index}] task {index} of 1000 is {id}.{index}, rank 0 of 1\n");
        assert_eq!(log, says);
    }
    let all = cluster.log(&id);
    assert_eq!(all.len(), 1_000, "each task said one line");
    let line = cluster.mlctl(&["jobs", "-a"]).expect(0).stdout;
    assert!(line.contains("1000/1000, 500 failed"), "{line}");
    let strange = cluster.mlctl(&["logs", &format!("{id}.1000")]);
    assert_ne!(strange.code, 0, "{}", strange.text());
}

#[test]
fn a_killed_agent_costs_no_task_and_starts_none_twice() {
    let cluster = Cluster::start(2, 0);
    let id = submit_writers(&cluster, "400", "0.2");
    cluster.wait_until(&id, "under way", SOON, |job| count(job, "succeeded") >= 32);
    for node in ["dev-0", "dev-1"] {
        machine::kill(cluster.pid("agent", node));
    }
    assert_eq!(cluster.wait(&id, LATER), 0);
    let job = cluster.job(&id);
    assert_eq!((job.state(), count(&job, "succeeded")), ("Completed", 400));
    let written = lines(&probe(&cluster));
    let twice: Vec<_> = written.iter().filter(|(_, times)| **times != 1).collect();
    assert_eq!((written.len(), twice.len()), (400, 0), "{twice:?}");
}

#[test]
fn a_lost_node_costs_no_task() {
    let cluster = Cluster::start(2, 0);
    let id = submit_writers(&cluster, "400", "0.2");
    cluster.wait_until(&id, "under way", SOON, |job| count(job, "succeeded") >= 32);
    cluster.mlctl(&["dev", "kill", "dev-1"]).expect(0);
    assert_eq!(cluster.wait(&id, LATER), 0);
    let job = cluster.job(&id);
    assert_eq!(
        (job.state(), count(&job, "succeeded"), count(&job, "failed")),
        ("Completed", 400, 0)
    );
    assert_eq!(lines(&probe(&cluster)).len(), 400, "every task ran");
    let lost = job
        .attempts()
        .iter()
        .filter(|one| one["end"]["kind"] == "NodeLost");
    assert_eq!(lost.count(), 1, "{:#}", job.0);
}

#[test]
fn a_cancel_in_the_middle_leaves_nothing() {
    let cluster = Cluster::start(2, 0);
    let nap = nap();
    // Each leaves a child behind that has left its session.
    let script =
        format!("setsid sleep {nap} & if [ $MLCTL_ARRAY_INDEX -gt 9 ]; then sleep {nap}; fi");
    let id = cluster.submit(&["--array", "0-199", "--", "sh", "-c", &script]);
    cluster.wait_until(&id, "under way", SOON, |job| {
        count(job, "succeeded") >= 5 && count(job, "running") >= 10
    });
    cluster.mlctl(&["cancel", &id]).expect(0);
    assert_eq!(cluster.wait(&id, SOON), 130);
    until("an empty machine", SOON, || {
        machine::with_word(&nap).is_empty().then_some(())
    });
    let job = cluster.job(&id);
    let (done, cancelled) = (count(&job, "succeeded"), count(&job, "cancelled"));
    assert_eq!((job.state(), done + cancelled), ("Cancelled", 200));
    assert!(cancelled >= 100, "{:#}", job.0["array"]);
    // Each is let go when the cluster has heard of the end.
    until("the end of its keepers", SOON, || {
        cluster.keepers(&id).is_empty().then_some(())
    });
}

#[test]
fn no_more_at_once_than_the_limit() {
    let cluster = Cluster::start(2, 0);
    let probe = probe(&cluster);
    let script = format!("echo + >> {0}; sleep 0.1; echo - >> {0}", probe.display());
    let id = cluster.submit(&["--array", "0-39%3", "--", "sh", "-c", &script]);
    assert_eq!(cluster.wait(&id, LATER), 0);
    let (mut now, mut most) = (0_i32, 0);
    for line in fs::read_to_string(&probe).expect("tasks wrote").lines() {
        now += if line == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!((now, most), (0, 3));
    assert_eq!(lines(&probe)["+"], 40);
}

#[test]
fn a_program_that_is_not_there_ends_the_array_at_once() {
    let cluster = Cluster::start(2, 0);
    let id = cluster.submit(&["--array", "5000", "--", "no-such-program-anywhere"]);
    assert_eq!(cluster.wait(&id, SOON), 141);
    let job = cluster.job(&id);
    assert_eq!((job.state(), count(&job, "cancelled")), ("Failed", 5_000));
    assert!(job.attempts().len() <= 2, "{:#}", job.0);
}
