//! Tests of what failed attempts lead to, over whole lives of jobs.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{Cause, JobSpec, RetrySpec};

use super::*;
use crate::state::Body;
use crate::state::commands::{CancelJobs, DeclareNodeLost, LossProof, RetryJobs};
use crate::state::records::{EndKind, Reply};
use crate::state::testing::{Cluster, ended, exit, node, person, spec, system};

fn cluster(names: &[&str]) -> Cluster {
    let mut cluster = Cluster::new();
    names.iter().for_each(|name| cluster.gpu_node(name, 1));
    cluster
}

fn retrying(cluster: &mut Cluster, max: u32, on: &[Cause]) -> JobId {
    let retry = Some(RetrySpec {
        max,
        on: on.to_vec(),
    });
    let spec = JobSpec {
        retry,
        ..spec(1, 1)
    };
    cluster.submitted_spec("ann", &spec)
}

fn run_and_end(cluster: &mut Cluster, job: JobId, on: &str, kind: EndKind, code: i32) -> Epoch {
    let epoch = cluster.started(job, &[on]);
    cluster.running(job, epoch);
    if kind == EndKind::Exited {
        cluster.event(on, job, epoch, exit(0, code, 0, false));
    }
    cluster.event(on, job, epoch, ended(kind, code));
    epoch
}

fn cancel(cluster: &mut Cluster, job: JobId) {
    let cancel = CancelJobs::of(vec![job]);
    cluster.run(person("ann", false), Body::CancelJobs(cancel));
}

#[test]
fn a_listed_exit_code_waits_and_starts_again_until_max() {
    let mut cluster = cluster(&["a"]);
    let job = retrying(&mut cluster, 2, &[Cause::Exit(17)]);
    for (used, wait) in [(1, 200), (2, 400)] {
        run_and_end(&mut cluster, job, "a", EndKind::Exited, 17);
        let record = cluster.job(job);
        assert_eq!(record.state, JobState::Pending);
        assert_eq!((record.retries.used, record.retries.requeues), (used, used));
        assert_eq!(record.infrastructure_restarts, 0);
        assert_eq!(record.retries.not_before_ms, cluster.now_ms + wait);
        let start = cluster.start(job, &["a"]);
        let reply = cluster.propose(vec![start]).reply;
        let Reply::Started { jobs, refused } = reply else {
            panic!("{reply:?}")
        };
        assert!(
            jobs.is_empty() && refused[0].1.contains("backs off"),
            "{refused:?}"
        );
        cluster.now_ms += wait;
    }
    run_and_end(&mut cluster, job, "a", EndKind::Exited, 17);
    let record = cluster.job(job);
    assert_eq!(record.state, JobState::Failed);
    let outcome = record.outcome.expect("it is over");
    assert_eq!((outcome.kind, outcome.code), (EndKind::Exited, 17));
}

#[test]
fn a_preemption_counts_for_nothing() {
    let mut cluster = cluster(&["a"]);
    let job = retrying(&mut cluster, 0, &[Cause::Preempted]);
    for _ in 0..9 {
        run_and_end(&mut cluster, job, "a", EndKind::Preempted, 0);
        let record = cluster.job(job);
        assert_eq!(
            (record.state, record.retries),
            (JobState::Pending, Retries::default())
        );
    }
}

#[test]
fn a_node_that_failed_it_is_avoided_while_there_is_another() {
    let mut cluster = cluster(&["a", "b"]);
    let job = retrying(&mut cluster, 9, &[Cause::LaunchFailed]);
    run_and_end(&mut cluster, job, "a", EndKind::LaunchFailed, 0);
    cluster.now_ms += 60_000;
    let start = cluster.start(job, &["a"]);
    let reply = cluster.propose(vec![start]).reply;
    let Reply::Started { refused, .. } = reply else {
        panic!("{reply:?}")
    };
    assert!(
        refused[0].1.contains("node a failed it before"),
        "{refused:?}"
    );
    let epoch = cluster.started(job, &["b"]);
    cluster.event("b", job, epoch, ended(EndKind::LaunchFailed, 0));
    cluster.now_ms += 60_000;
    cluster.started(job, &["a"]);
}

/// It kills the agent of whatever node it runs on.
#[test]
fn a_poison_job_is_held_and_a_person_lets_it_go() {
    let mut cluster = cluster(&["a", "b", "c"]);
    let job = cluster.submitted("ann", 1, 1);
    for node in ["a", "b", "c"] {
        run_and_end(&mut cluster, job, node, EndKind::KeeperLost, 0);
    }
    let record = cluster.job(job);
    assert_eq!(record.state, JobState::Held);
    assert_eq!(record.retries.hold, Some(HoldReason::SuspectedPoison));
    assert_eq!(record.retries.losses, 3);
    assert_eq!(
        (record.outcome, record.ended_ms),
        (None, 0),
        "it is not over"
    );
    let start = cluster.start(job, &["a"]);
    let reply = cluster.propose(vec![start]).reply;
    assert!(matches!(reply, Reply::Started { jobs, .. } if jobs.is_empty()));

    let retry = RetryJobs { jobs: vec![job] };
    cluster.run(person("ann", false), Body::RetryJobs(retry));
    let record = cluster.job(job);
    assert_eq!(
        (record.state, record.retries),
        (JobState::Pending, Retries::default())
    );
    run_and_end(&mut cluster, job, "a", EndKind::KeeperLost, 0);
    assert_eq!(cluster.job(job).state, JobState::Pending, "it begins anew");
    run_and_end(&mut cluster, job, "b", EndKind::KeeperLost, 0);
    run_and_end(&mut cluster, job, "c", EndKind::KeeperLost, 0);
    assert_eq!(cluster.job(job).state, JobState::Held);
    cancel(&mut cluster, job);
    let record = cluster.job(job);
    assert_eq!(
        (record.state, record.retries.hold),
        (JobState::Cancelled, None)
    );
}

#[test]
fn losses_count_over_retries_of_other_causes() {
    let mut cluster = cluster(&["a", "b", "c"]);
    let job = retrying(&mut cluster, 99, &[Cause::Any]);
    for kind in [
        EndKind::KeeperLost,
        EndKind::Exited,
        EndKind::KeeperLost,
        EndKind::Exited,
    ] {
        run_and_end(&mut cluster, job, "c", kind, 1);
        cluster.now_ms += 60_000;
        if kind == EndKind::KeeperLost {
            // So that it is not avoided below.
            let mut record = cluster.job(job);
            record.retries.excluded.clear();
            cluster.state.put_job(record);
            cluster.state.settle(&mut Vec::new());
        }
    }
    assert_eq!(cluster.job(job).retries.losses, 2);
    run_and_end(&mut cluster, job, "a", EndKind::KeeperLost, 0);
    assert_eq!(cluster.job(job).state, JobState::Held);
}

/// What is Lost by silence may come back; it counts when it does not.
#[test]
fn a_loss_in_doubt_counts_once_it_is_certain() {
    let mut cluster = cluster(&["a", "b", "c"]);
    let job = cluster.submitted("ann", 1, 1);
    let first = cluster.started(job, &["a"]);
    cluster.running(job, first);
    cluster.lose("a");
    assert_eq!(cluster.job(job).state, JobState::Pending);
    assert_eq!(cluster.job(job).retries.losses, 0);
    run_and_end(&mut cluster, job, "b", EndKind::KeeperLost, 0);
    let record = cluster.job(job);
    assert_eq!(
        (record.state, record.retries.losses),
        (JobState::Pending, 2)
    );
    assert!(cluster.state.in_doubt(job).is_none(), "the second one ran");
    run_and_end(&mut cluster, job, "c", EndKind::KeeperLost, 0);
    assert_eq!(cluster.job(job).state, JobState::Held);
}

#[test]
fn a_pending_job_is_held_when_its_third_loss_becomes_certain() {
    let mut cluster = cluster(&["a", "b", "c"]);
    let job = cluster.submitted("ann", 1, 1);
    run_and_end(&mut cluster, job, "b", EndKind::KeeperLost, 0);
    let first = cluster.started(job, &["a"]);
    cluster.running(job, first);
    cluster.lose("a");
    // Its successor dies before it is told to go.
    let epoch = cluster.started(job, &["c"]);
    cluster.event("c", job, epoch, ended(EndKind::KeeperLost, 0));
    assert_eq!(cluster.job(job).retries.losses, 2);
    assert!(cluster.state.in_doubt(job).is_some());
    let dead = DeclareNodeLost {
        node: "a".into(),
        boot_id: "boot-a".into(),
        proof: LossProof::NewBootId,
    };
    let mut again = node("a", 1, "SIM");
    again.facts.boot_id = "boot-a-2".into();
    cluster.register(&again);
    cluster.run(system(), Body::DeclareNodeLost(dead));
    let record = cluster.job(job);
    assert_eq!((record.state, record.retries.losses), (JobState::Held, 3));
    assert!(cluster.state.in_doubt(job).is_none());
}

#[test]
fn a_cancel_wins_over_a_hold() {
    let mut cluster = cluster(&["a", "b", "c"]);
    let job = cluster.submitted("ann", 1, 1);
    for node in ["a", "b"] {
        run_and_end(&mut cluster, job, node, EndKind::KeeperLost, 0);
    }
    let epoch = cluster.started(job, &["c"]);
    cancel(&mut cluster, job);
    cluster.ended("c", job, epoch, EndKind::KeeperLost);
    assert_eq!(cluster.job(job).state, JobState::Cancelled);
}

/// A job of one node that runs `ran_ms` and is ended by its time limit.
fn runs_into_its_limit(cluster: &mut Cluster, job: JobId, ran_ms: i64) -> Job {
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    cluster.now_ms += ran_ms;
    cluster.ended("a", job, epoch, EndKind::TimedOut);
    cluster.job(job)
}

#[test]
fn a_chain_of_attempts_ends_when_the_total_time_is_used_up() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let lines =
        "gpus = 1\ntime = '1h'\ntotal_time = '150m'\nretry = { max = 9, on = ['time_limit'] }";
    let spec = mlctl_proto::spec::parse_toml(&format!("command = ['a']\n{lines}")).expect("good");
    let job = cluster.submitted_spec("ann", &spec);
    for round in 1..=2 {
        let after = runs_into_its_limit(&mut cluster, job, 3_600_000);
        assert_eq!(
            (after.state, after.retries.used),
            (JobState::Pending, round)
        );
        assert_eq!(
            after.retries.not_before_ms, 0,
            "nothing failed: it goes on at once"
        );
    }
    let over = runs_into_its_limit(&mut cluster, job, 1_800_000);
    assert_eq!(over.state, JobState::TimedOut);
    assert!(over.turn.ran_ms >= 9_000_000, "{}", over.turn.ran_ms);
}

#[test]
fn only_who_says_so_starts_again_after_a_time_limit() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    for on in ["any", "oom"] {
        let lines = format!("command = ['a']\ngpus = 1\nretry = {{ max = 9, on = ['{on}'] }}");
        let spec = mlctl_proto::spec::parse_toml(&lines).expect("good");
        let job = cluster.submitted_spec("ann", &spec);
        let over = runs_into_its_limit(&mut cluster, job, 1_000);
        assert_eq!(over.state, JobState::TimedOut, "{on}");
    }
}

#[test]
fn a_lost_node_does_not_stretch_the_total_time() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let spec = mlctl_proto::spec::parse_toml("command = ['a']\ngpus = 1\ntotal_time = '1h'");
    let job = cluster.submitted_spec("ann", &spec.expect("good"));
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    cluster.now_ms += 3_600_000;
    cluster.ended("a", job, epoch, EndKind::KeeperLost);
    let over = cluster.job(job);
    assert_eq!(over.state, JobState::TimedOut);
    let end = over.outcome.expect("it is over");
    assert!(
        end.kind == EndKind::TimedOut && end.detail.contains("total_time"),
        "{}",
        end.detail
    );
}
