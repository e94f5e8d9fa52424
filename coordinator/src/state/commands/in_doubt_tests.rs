//! Lost by silence, back again or not: who goes on, and what counts.
use crate::state::commands::{CancelJobs, SupersedeAttempt};
use crate::state::records::{EndKind, JobState, Liveness, Reply};
use crate::state::testing::{Cluster, ended, exit, node, person, sealed, system};
use crate::state::{Applied, Body, Effect};
use mlctl_proto::errors::Code;
use mlctl_proto::ids::{Epoch, JobId};

const E1: Epoch = Epoch::new(1, 1);
const E2: Epoch = Epoch::new(1, 2);

/// A job that ran on `a`, which fell silent; `b` and `c` are there.
fn doubtful() -> (Cluster, JobId) {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.gpu_node(name, 1);
    }
    let job = cluster.submitted("ann", 1, 1);
    cluster.started(job, &["a"]);
    cluster.running(job, E1);
    cluster.lose("a");
    (cluster, job)
}

fn supersede(cluster: &mut Cluster, job: JobId, epoch: Epoch) -> Applied {
    let body = Body::SupersedeAttempt(SupersedeAttempt { job, epoch });
    cluster.run(system(), body)
}

fn back(cluster: &mut Cluster, name: &str) -> Applied {
    cluster.register(&node(name, 1, "SIM"))
}

/// Job state, current epoch, and of each attempt whether it is in doubt and closed.
fn stands(cluster: &Cluster, job: JobId) -> (JobState, u64, Vec<(bool, bool)>) {
    let record = cluster.job(job);
    let attempts = cluster.state.attempts_of(job);
    (
        record.state,
        record.epoch().map_or(0, |epoch| epoch.counter),
        attempts.map(|one| (one.in_doubt, one.closed())).collect(),
    )
}

fn stop(node: &str, job: JobId, epoch: Epoch, reason: EndKind) -> Effect {
    Effect::Stop {
        node: node.into(),
        job,
        epoch,
        reason,
    }
}

#[test]
fn silence_leaves_the_attempt_current_and_the_job_waiting() {
    let (mut cluster, job) = doubtful();
    assert_eq!(
        stands(&cluster, job),
        (JobState::Pending, 1, vec![(true, false)])
    );
    assert_eq!(cluster.state.device_holder("a", "a-0"), Some((job, E1)));
    cluster.lose("a");
    back(&mut cluster, "a");
    assert_eq!(
        stands(&cluster, job),
        (JobState::Running, 1, vec![(false, false)])
    );
    assert_eq!(cluster.job(job).infrastructure_restarts, 0);
}

#[test]
fn supersede_closes_the_old_epoch_and_nothing_of_it_counts() {
    let (mut cluster, job) = doubtful();
    cluster.started(job, &["b"]);
    assert_eq!(
        stands(&cluster, job),
        (JobState::Starting, 2, vec![(true, false), (false, false)])
    );
    let applied = supersede(&mut cluster, job, E2);
    assert_eq!(applied.reply, Reply::Done);
    assert_eq!(
        applied.effects,
        [stop("a", job, E1, EndKind::NodeLost)],
        "should it listen"
    );
    assert_eq!(cluster.job(job).infrastructure_restarts, 1);
    cluster.running(job, E2);
    back(&mut cluster, "a");
    for what in [
        exit(0, 0, 0, false),
        sealed("step-9", 9),
        ended(EndKind::Exited, 0),
    ] {
        cluster.event("a", job, E1, what);
    }
    let record = cluster.job(job);
    assert!(record.checkpoints.is_empty());
    assert_eq!(
        stands(&cluster, job),
        (JobState::Running, 2, vec![(false, true), (false, false)])
    );
    let again = supersede(&mut cluster, job, E2);
    assert_eq!(again.reply, Reply::Done, "it has taken over already");
}

#[test]
fn a_successor_that_seals_a_checkpoint_runs_and_nobody_comes_back() {
    let (mut cluster, job) = doubtful();
    cluster.started(job, &["b"]);
    cluster.event("b", job, E2, sealed("step-8", 8));
    assert_eq!(
        stands(&cluster, job),
        (JobState::Starting, 2, vec![(false, true), (false, false)])
    );
    back(&mut cluster, "a");
    let (_, epoch, _) = stands(&cluster, job);
    assert_eq!((epoch, cluster.job(job).checkpoints.len()), (2, 1));
}

#[test]
fn who_comes_back_before_it_is_superseded_goes_on_and_the_successor_is_dropped() {
    let (mut cluster, job) = doubtful();
    cluster.started(job, &["b"]);
    let applied = back(&mut cluster, "a");
    assert!(
        applied
            .effects
            .contains(&stop("b", job, E2, EndKind::Superseded))
    );
    assert_eq!(
        stands(&cluster, job),
        (JobState::Running, 1, vec![(false, false), (false, false)])
    );
    let late = supersede(&mut cluster, job, E2);
    assert_eq!(
        late.refusal().map(|refusal| refusal.code),
        Some(Code::Conflict)
    );

    cluster.event("a", job, E1, sealed("step-9", 9));
    assert_eq!(cluster.job(job).checkpoints.len(), 1, "it is current");
    cluster.event("b", job, E2, sealed("step-8", 8));
    cluster.ended("b", job, E2, EndKind::NeverStarted);
    assert_eq!(cluster.job(job).checkpoints.len(), 1);
    let dropped = cluster.state.attempt(job, E2).cloned().expect("it was");
    assert!(dropped.closed() && dropped.ended_ms > 0);
    assert_eq!(
        dropped.end.as_ref().map(|end| end.kind),
        Some(EndKind::Superseded)
    );
    assert_eq!(cluster.state.device_holder("b", "b-0"), None);

    cluster.event("a", job, E1, exit(0, 0, 0, false));
    cluster.ended("a", job, E1, EndKind::Exited);
    assert_eq!(cluster.job(job).state, JobState::Completed);
}

#[test]
fn the_next_attempt_waits_until_the_dropped_one_is_gone_and_has_a_new_epoch() {
    let (mut cluster, job) = doubtful();
    cluster.started(job, &["b"]);
    back(&mut cluster, "a");
    cluster.ended("a", job, E1, EndKind::KeeperLost);
    assert_eq!(cluster.job(job).state, JobState::Pending);
    let start = cluster.start(job, &["c"]);
    assert_eq!(start.epoch.counter, 3);
    let refused = cluster.propose(vec![start.clone()]).reply;
    assert!(
        matches!(&refused, Reply::Started { refused, .. } if refused[0].1.contains("still holds")),
        "{refused:?}"
    );
    cluster.ended("b", job, E2, EndKind::NeverStarted);
    let reply = cluster.propose(vec![start]).reply;
    assert!(matches!(reply, Reply::Started { jobs, .. } if jobs == [job]));
    assert_eq!(cluster.job(job).epoch(), Some(Epoch::new(1, 3)));
}

#[test]
fn proof_of_death_closes_at_once() {
    for successor in [false, true] {
        let (mut cluster, job) = doubtful();
        if successor {
            cluster.started(job, &["b"]);
        }
        let before = cluster.job(job).state;
        let mut reborn = node("a", 1, "SIM");
        reborn.facts.boot_id = "another".into();
        cluster.register(&reborn);
        let (state, _, attempts) = stands(&cluster, job);
        assert_eq!((state, attempts[0]), (before, (false, true)));
        let old = cluster.state.attempt(job, E1).cloned().expect("it was");
        assert_eq!(
            old.end.as_ref().map(|end| end.kind),
            Some(EndKind::NodeLost)
        );
    }
}

#[test]
fn an_agent_that_lost_its_journal_brings_nothing_back() {
    let (mut cluster, job) = doubtful();
    let mut forgetful = node("a", 1, "SIM");
    forgetful.journal_id = "new".into();
    cluster.register(&forgetful);
    assert_eq!(
        stands(&cluster, job),
        (JobState::Pending, 1, vec![(false, true)])
    );
}

#[test]
fn a_cancel_ends_what_is_in_doubt() {
    for successor in [false, true] {
        let (mut cluster, job) = doubtful();
        if successor {
            cluster.started(job, &["b"]);
        }
        let cancel = Body::CancelJobs(CancelJobs::of(vec![job]));
        cluster.run(person("ann", false), cancel);
        assert!(cluster.state.in_doubt(job).is_none());
        back(&mut cluster, "a");
        if successor {
            cluster.ended("b", job, E2, EndKind::Cancelled);
        }
        assert_eq!(cluster.job(job).state, JobState::Cancelled);
    }
}

#[test]
fn a_successor_that_fails_for_good_takes_the_doubt_with_it() {
    let (mut cluster, job) = doubtful();
    cluster.started(job, &["b"]);
    cluster.ended("b", job, E2, EndKind::LaunchFailed);
    assert_eq!(
        stands(&cluster, job),
        (JobState::Failed, 2, vec![(false, true), (false, true)])
    );
}

#[test]
fn a_successor_that_is_lost_too_is_over_and_the_first_may_still_come_back() {
    let (mut cluster, job) = doubtful();
    cluster.started(job, &["b"]);
    cluster.lose("b");
    assert_eq!(
        stands(&cluster, job),
        (JobState::Pending, 2, vec![(true, false), (false, true)]),
        "at most one is in doubt"
    );
    back(&mut cluster, "a");
    assert_eq!(
        stands(&cluster, job),
        (JobState::Running, 1, vec![(false, false), (false, true)])
    );
}

#[test]
fn a_gang_that_lost_one_of_several_is_ended_as_a_whole() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    cluster.gpu_node("b", 1);
    let job = cluster.submitted("ann", 2, 1);
    let epoch = cluster.started(job, &["a", "b"]);
    cluster.running(job, epoch);
    cluster.lose("b");
    assert_eq!(
        stands(&cluster, job),
        (JobState::Stopping, 1, vec![(false, false)])
    );
}

#[test]
fn a_lost_node_says_hello_before_its_words_count() {
    let (mut cluster, job) = doubtful();
    let early = cluster.event("a", job, E1, ended(EndKind::Exited, 0));
    assert_eq!(
        early.refusal().map(|refusal| refusal.code),
        Some(Code::Conflict)
    );
    assert_eq!(
        cluster.state.node("a").map(|one| one.liveness),
        Some(Liveness::Lost)
    );
    assert!(cluster.state.in_doubt(job).is_some());
}

#[test]
fn ranks_that_run_have_taken_over() {
    let (mut cluster, job) = doubtful();
    cluster.started(job, &["b"]);
    cluster.running(job, E2);
    assert_eq!(
        stands(&cluster, job),
        (JobState::Running, 2, vec![(false, true), (false, false)])
    );
}

#[test]
fn only_a_current_attempt_takes_over() {
    let (mut cluster, job) = doubtful();
    for (job, epoch) in [(job, E1), (job, E2), (JobId::new(1, 9), E1)] {
        let refusal = supersede(&mut cluster, job, epoch).refusal().cloned();
        let refusal = refusal.expect("nobody takes over");
        assert!(
            refusal.message.contains("takes over from nobody"),
            "{refusal}"
        );
    }
    let body = Body::SupersedeAttempt(SupersedeAttempt { job, epoch: E1 });
    let refusal = cluster.run(person("ann", true), body).refusal().cloned();
    assert_eq!(refusal.map(|refusal| refusal.code), Some(Code::Denied));
}
