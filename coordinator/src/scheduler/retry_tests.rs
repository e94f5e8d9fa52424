//! Tests of jobs that failed before: when they start again, and where not.
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::{Cause, JobSpec, RetrySpec};

use super::*;
use crate::state::records::{EndKind, Reply};
use crate::state::testing::{Cluster, ended, exit, sealed, spec};

fn view(cluster: &Cluster) -> ClusterView {
    let names = cluster.state.nodes().map(|node| node.facts.name.clone());
    ClusterView::new(cluster.state.clone(), names.collect())
}

fn cluster(names: &[&str]) -> (Cluster, JobId) {
    let mut cluster = Cluster::new();
    names.iter().for_each(|name| cluster.gpu_node(name, 1));
    let retry = Some(RetrySpec {
        max: 9,
        on: vec![Cause::Any],
    });
    let spec = JobSpec {
        retry,
        ..spec(1, 1)
    };
    let job = cluster.submitted_spec("ann", &spec);
    (cluster, job)
}

fn fails(cluster: &mut Cluster, job: JobId, on: &str, kind: EndKind) {
    let epoch = cluster.started(job, &[on]);
    cluster.running(job, epoch);
    if kind == EndKind::Exited {
        cluster.event(on, job, epoch, exit(0, 1, 0, false));
    }
    cluster.event(on, job, epoch, ended(kind, 1));
}

/// Where the next plan puts a job, and that apply agrees.
fn placed(cluster: &mut Cluster, job: JobId) -> Option<String> {
    let starts = plan(&view(cluster), cluster.now_ms).starts;
    let start = starts.into_iter().find(|start| start.job == job)?;
    let node = start.placements[0].node.clone();
    let reply = cluster.clone().propose(vec![start]).reply;
    let whole = Reply::Started {
        jobs: vec![job],
        refused: vec![],
    };
    assert_eq!(reply, whole);
    Some(node)
}

#[test]
fn a_back_off_is_waited_for_and_not_polled() {
    let (mut cluster, job) = cluster(&["a"]);
    fails(&mut cluster, job, "a", EndKind::Exited);
    let until = cluster.now_ms + 200;
    assert_eq!(cluster.job(job).retries.not_before_ms, until);
    let reason = |left_ms| Reason::RetryBackoff {
        failures: 1,
        left_ms,
    };
    for (now_ms, left_ms) in [(0, 200), (until - 150, 150), (until - 1, 1)] {
        let waits = plan(&view(&cluster), now_ms);
        assert_eq!(
            (waits.starts, waits.next),
            (vec![], Some(until)),
            "{now_ms}"
        );
        assert_eq!(waits.explanations.get(&job), Some(&reason(left_ms)));
        assert_eq!(explain(&view(&cluster), job, now_ms), [reason(left_ms)]);
    }
    let starts = plan(&view(&cluster), until);
    assert_eq!((starts.starts.len(), starts.next), (1, None));
    assert_eq!(
        reason(1_001).to_string(),
        "after 1 failure it starts again in 2 s; `mlctl retry` starts it now"
    );
}

#[test]
fn the_first_of_several_back_offs_wakes_the_planner() {
    let (mut cluster, one) = cluster(&["a", "b"]);
    let spec = cluster.state.spec(&cluster.job(one).spec_hash).cloned();
    let spec = mlctl_proto::spec::parse_json(&spec.expect("kept").json).expect("good");
    let two = cluster.submitted_spec("bob", &spec);
    fails(&mut cluster, one, "a", EndKind::Exited);
    fails(&mut cluster, two, "b", EndKind::Exited);
    let until = |job| cluster.job(job).retries.not_before_ms;
    assert!(until(one) < until(two));
    assert_eq!(plan(&view(&cluster), 0).next, Some(until(one)));
    assert_eq!(plan(&view(&cluster), until(one)).next, Some(until(two)));
}

#[test]
fn a_node_that_failed_it_is_avoided() {
    let (mut cluster, job) = cluster(&["a", "b"]);
    fails(&mut cluster, job, "a", EndKind::LaunchFailed);
    cluster.now_ms += 60_000;
    assert_eq!(placed(&mut cluster, job).as_deref(), Some("b"));
    let other = cluster.submitted("bob", 1, 1);
    cluster.started(other, &["b"]);
    assert_eq!(placed(&mut cluster, job), None, "a is free, but failed it");
    let reason = Reason::ExcludedNodes {
        nodes: vec!["a".into()],
    };
    let now_ms = cluster.now_ms;
    assert_eq!(
        explain(&view(&cluster), job, now_ms),
        std::slice::from_ref(&reason)
    );
    assert_eq!(
        plan(&view(&cluster), now_ms).explanations.get(&job),
        Some(&reason)
    );
    cluster.silence("b");
    assert_eq!(
        placed(&mut cluster, job).as_deref(),
        Some("a"),
        "there is no other: never a deadlock"
    );
}

#[test]
fn a_checkpoint_is_resumed_where_it_lies() {
    let (mut cluster, job) = cluster(&["a", "b"]);
    let epoch = cluster.started(job, &["a"]);
    cluster.event("a", job, epoch, sealed("step-1", 1));
    cluster.event("a", job, epoch, ended(EndKind::LaunchFailed, 0));
    cluster.now_ms += 60_000;
    assert_eq!(placed(&mut cluster, job).as_deref(), Some("a"));
}

#[test]
fn a_held_job_says_why() {
    let (mut cluster, job) = cluster(&["a", "b", "c"]);
    for node in ["a", "b", "c"] {
        fails(&mut cluster, job, node, EndKind::KeeperLost);
        cluster.now_ms += 60_000;
    }
    let reasons = explain(&view(&cluster), job, 0);
    let [reason] = reasons.as_slice() else {
        panic!("{reasons:?}")
    };
    assert_eq!(reason.word(), "SuspectedPoison");
    assert_eq!(
        reason.to_string(),
        "3 times a node or its agent was lost under it (last on c, b, a): it may be the cause; look at it, then `mlctl retry` or \
         `mlctl cancel`"
    );
    assert_eq!(plan(&view(&cluster), cluster.now_ms), Plan::default());
}
