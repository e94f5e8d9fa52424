//! Tests of AgentEvents: the life of a gang as its nodes tell it, numbers and marks, and words that come too late.
use super::super::{DeclareNodeLost, LossProof};
use super::*;
use crate::state::Body;
use crate::state::records::{AllocationPhase, EndKind, JobState};
use crate::state::testing::{Cluster, ended, exit, node, person, sealed, system};

/// A gang of two nodes that was started.
fn gang() -> (Cluster, JobId, Epoch) {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.gpu_node(name, 1);
    }
    let job = cluster.submitted("ann", 2, 1);
    let epoch = cluster.started(job, &["a", "b"]);
    (cluster, job, epoch)
}

fn stop(node: &str, job: JobId, epoch: Epoch, reason: EndKind) -> Effect {
    Effect::Stop {
        node: node.into(),
        job,
        epoch,
        reason,
    }
}

fn mark(cluster: &Cluster, node: &str) -> u64 {
    cluster.state.node(node).map_or(0, |node| node.event_mark)
}

#[test]
fn a_gang_runs_when_all_run_and_completes_when_all_exited_0() {
    let (mut cluster, job, epoch) = gang();
    let applied = cluster.event("a", job, epoch, Happening::RanksStarted);
    assert_eq!(cluster.job(job).state, JobState::Starting, "all or none");
    assert_eq!(
        applied.effects,
        [Effect::EventsApplied {
            node: "a".into(),
            journal_id: "journal-a".into(),
            up_to: 1
        }]
    );
    cluster.event("b", job, epoch, Happening::RanksStarted);
    assert_eq!(cluster.job(job).state, JobState::Running);
    assert!(cluster.job(job).started_ms > 0);
    for (name, rank) in [("a", 0), ("b", 1)] {
        cluster.event(name, job, epoch, exit(rank, 0, 0, false));
        cluster.event(name, job, epoch, ended(EndKind::Exited, 0));
    }
    let job = cluster.job(job);
    assert_eq!(
        (job.state, job.outcome.as_ref().map(End::success)),
        (JobState::Completed, Some(true))
    );
    assert_eq!(cluster.state.active_attempts().count(), 0);
}

#[test]
fn a_node_that_is_done_before_another_began() {
    let (mut cluster, job, epoch) = gang();
    cluster.event("a", job, epoch, Happening::RanksStarted);
    cluster.event("a", job, epoch, exit(0, 0, 0, false));
    cluster.event("a", job, epoch, ended(EndKind::Exited, 0));
    assert_eq!(cluster.job(job).state, JobState::Starting);
    cluster.event("b", job, epoch, exit(1, 0, 0, false));
    assert_eq!(
        cluster.job(job).state,
        JobState::Running,
        "a rank that has ended had been started"
    );
    cluster.event("b", job, epoch, ended(EndKind::Exited, 0));
    assert_eq!(cluster.job(job).state, JobState::Completed);
}

#[test]
fn the_first_failing_rank_ends_the_gang_and_is_named() {
    let (mut cluster, job, epoch) = gang();
    cluster.running(job, epoch);
    let applied = cluster.event("b", job, epoch, exit(1, 3, 0, false));
    assert_eq!(
        applied.effects[0],
        stop("a", job, epoch, EndKind::Exited),
        "b knows already"
    );
    cluster.event("a", job, epoch, exit(0, 0, 15, true));
    cluster.event("a", job, epoch, ended(EndKind::Signalled, 15));
    assert_eq!(cluster.job(job).state, JobState::Stopping);
    cluster.event("b", job, epoch, ended(EndKind::Exited, 3));
    let job = cluster.job(job);
    let end = job.outcome.expect("it is over");
    assert_eq!(
        (job.state, end.kind, end.code),
        (JobState::Failed, EndKind::Exited, 3)
    );
    assert_eq!((end.node.as_str(), end.rank), ("b", Some(1)));
    assert_eq!(
        job.infrastructure_restarts, 0,
        "a failing rank does not start again"
    );
}

#[test]
fn a_success_is_only_what_every_rank_says() {
    for (happening, kind) in [
        (exit(0, 0, 9, true), EndKind::Signalled),
        (exit(0, 7, 0, true), EndKind::Exited),
    ] {
        let (mut cluster, job, epoch) = gang();
        cluster.running(job, epoch);
        cluster.event("a", job, epoch, happening);
        cluster.event("a", job, epoch, ended(EndKind::Exited, 0));
        assert_eq!(
            cluster.job(job).state,
            JobState::Stopping,
            "a rank did not exit 0, whatever its node adds up"
        );
        cluster.event("b", job, epoch, ended(EndKind::Cancelled, 0));
        assert_eq!(cluster.job(job).outcome.map(|end| end.kind), Some(kind));
    }
}

#[test]
fn how_jobs_go_on_after_an_end() {
    let check = |kind: EndKind, state: JobState| {
        let (mut cluster, job, epoch) = gang();
        cluster.running(job, epoch);
        cluster.event("a", job, epoch, ended(kind, 1));
        cluster.event("b", job, epoch, ended(EndKind::Superseded, 0));
        let job = cluster.job(job);
        assert_eq!(job.state, state, "{kind:?}");
        assert_eq!(
            job.infrastructure_restarts,
            u32::from(kind.infrastructure()),
            "{kind:?}"
        );
        assert_eq!(
            job.outcome.map(|end| end.kind),
            state.terminal().then_some(kind),
            "the first reason, not the second"
        );
    };
    check(EndKind::NodeLost, JobState::Pending);
    check(EndKind::KeeperLost, JobState::Pending);
    check(EndKind::DeviceError, JobState::Pending);
    check(EndKind::Preempted, JobState::Pending);
    check(EndKind::Cancelled, JobState::Cancelled);
    check(EndKind::TimedOut, JobState::TimedOut);
    for kind in [
        EndKind::Exited,
        EndKind::Signalled,
        EndKind::OutOfMemory,
        EndKind::LaunchFailed,
        EndKind::NeverStarted,
        EndKind::Superseded,
        EndKind::Hung,
    ] {
        check(kind, JobState::Failed);
    }
}

#[test]
fn infrastructure_restarts_are_bounded_and_preemptions_are_not() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let job = cluster.submitted("ann", 1, 1);
    for (number, kind) in [
        EndKind::NodeLost,
        EndKind::Preempted,
        EndKind::DeviceError,
        EndKind::DeviceError,
    ]
    .iter()
    .enumerate()
    {
        let epoch = cluster.started(job, &["a"]);
        assert_eq!(epoch.counter as usize, number + 1);
        cluster.event("a", job, epoch, ended(*kind, 0));
        assert_eq!(cluster.job(job).state, JobState::Pending);
    }
    let epoch = cluster.started(job, &["a"]);
    cluster.event("a", job, epoch, ended(EndKind::Preempted, 0));
    let epoch = cluster.started(job, &["a"]);
    cluster.event("a", job, epoch, ended(EndKind::DeviceError, 0));
    let job = cluster.job(job);
    assert_eq!(
        (job.state, job.outcome.map(|end| end.kind)),
        (JobState::Held, None),
        "it waits for a person"
    );
    assert_eq!(job.infrastructure_restarts, 3);
}

#[test]
fn a_restarted_job_keeps_its_place_in_the_queue() {
    let (mut cluster, job, epoch) = gang();
    let later = cluster.submitted("bob", 1, 1);
    cluster.ended("a", job, epoch, EndKind::NodeLost);
    cluster.ended("b", job, epoch, EndKind::NodeLost);
    let order: Vec<JobId> = cluster.state.pending().map(|job| job.id).collect();
    assert_eq!(order, [job, later]);
}

fn event(seq: u64, job: JobId, epoch: Epoch, what: Happening) -> AgentEvent {
    let news = News::OfAttempt { job, epoch, what };
    AgentEvent { seq, news }
}

#[test]
fn numbers_are_contiguous() {
    let (mut cluster, job, epoch) = gang();
    let event = |seq, what| event(seq, job, epoch, what);
    let started = || Happening::RanksStarted;
    for events in [
        vec![event(2, started())],
        vec![event(0, started())],
        vec![event(1, started()), event(3, started())],
        vec![event(1, started()), event(1, started())],
        vec![event(u64::MAX, started()), event(0, started())],
    ] {
        let refusal = cluster
            .report("a", events)
            .refusal()
            .map(|refusal| refusal.code);
        assert_eq!((refusal, mark(&cluster, "a")), (Some(Code::Conflict), 0));
    }
    let long = (1..=EVENTS_PER_BATCH_MAX as u64 + 1)
        .map(|seq| event(seq, started()))
        .collect();
    assert_eq!(
        cluster
            .report("a", long)
            .refusal()
            .map(|refusal| refusal.code),
        Some(Code::LimitExceeded)
    );
}

#[test]
fn repeats_are_skipped_and_the_mark_moves_over_refused_words() {
    let (mut cluster, job, epoch) = gang();
    let started = || Happening::RanksStarted;
    let unknown = event(1, JobId::new(1, 77), epoch, started());
    let future = event(2, job, Epoch::new(1, 2), started());
    let event = |seq, what| event(seq, job, epoch, what);
    cluster.report("a", vec![unknown, future, event(3, started())]);
    assert_eq!(mark(&cluster, "a"), 3);
    assert_eq!(
        cluster
            .state
            .attempt(job, epoch)
            .map(|one| one.allocations[0].phase),
        Some(AllocationPhase::Running)
    );
    let again = cluster.report(
        "a",
        vec![
            event(2, ended(EndKind::Exited, 9)),
            event(3, ended(EndKind::Exited, 9)),
            event(4, exit(0, 0, 0, false)),
        ],
    );
    assert_eq!(
        again.effects,
        [Effect::EventsApplied {
            node: "a".into(),
            journal_id: "journal-a".into(),
            up_to: 4
        }]
    );
    assert_eq!(
        cluster.job(job).state,
        JobState::Starting,
        "2 and 3 were applied before"
    );
    let none = cluster.report("a", vec![]);
    assert_eq!(
        none.effects,
        [Effect::EventsApplied {
            node: "a".into(),
            journal_id: "journal-a".into(),
            up_to: 4
        }]
    );
}

#[test]
fn another_journal_and_other_speakers_are_refused() {
    let (mut cluster, job, epoch) = gang();
    let events = vec![event(1, job, epoch, Happening::RanksStarted)];
    let report = |node: &str, journal: &str| {
        Body::AgentEvents(AgentEvents {
            node: node.into(),
            journal_id: journal.into(),
            events: events.clone(),
        })
    };
    for (actor, node, journal, code) in [
        (system(), "a", "journal-old", Code::Conflict),
        (system(), "z", "journal-z", Code::NotFound),
        (person("ann", true), "a", "journal-a", Code::Denied),
    ] {
        let applied = cluster.run(actor, report(node, journal));
        assert_eq!(applied.refusal().map(|refusal| refusal.code), Some(code));
    }
    cluster.run(system(), report("c", "journal-c"));
    let attempt = cluster
        .state
        .attempt(job, epoch)
        .cloned()
        .expect("it was started");
    assert!(
        attempt
            .allocations
            .iter()
            .all(|one| one.phase == AllocationPhase::Assigned),
        "c is not in the gang"
    );
    assert_eq!(mark(&cluster, "c"), 1);
}

#[test]
fn nothing_of_a_closed_epoch_is_accepted() {
    let (mut cluster, job, old) = gang();
    cluster.running(job, old);
    let lost = DeclareNodeLost {
        node: "a".into(),
        boot_id: "boot-a".into(),
        proof: LossProof::LostAfter,
    };
    cluster.run(system(), Body::DeclareNodeLost(lost));
    cluster.event("b", job, old, ended(EndKind::NodeLost, 0));
    cluster.event("a", job, old, exit(0, 0, 0, false));
    assert_eq!(
        cluster.job(job).state,
        JobState::Pending,
        "a comes back, but what it held has ended"
    );
    cluster.register(&node("a", 1, "SIM"));
    cluster.started(job, &["b", "c"]);
    let before = (cluster.job(job), cluster.state.attempt(job, old).cloned());
    for what in [
        Happening::RanksStarted,
        exit(0, 1, 0, false),
        sealed("step-9", 9),
        ended(EndKind::Exited, 0),
    ] {
        cluster.event("a", job, old, what.clone());
        cluster.event("b", job, old, what);
    }
    assert_eq!(
        (cluster.job(job), cluster.state.attempt(job, old).cloned()),
        before
    );
}

#[test]
fn checkpoints_are_recorded_once_with_all_their_holders() {
    let (mut cluster, job, epoch) = gang();
    cluster.running(job, epoch);
    for (name, checkpoint, step) in [
        ("a", "step-10", 10),
        ("b", "step-10", 10),
        ("a", "step-10", 10),
        ("a", "../evil", 1),
        ("c", "step-10", 10),
    ] {
        cluster.event(name, job, epoch, sealed(checkpoint, step));
    }
    let checkpoints = cluster.job(job).checkpoints;
    assert_eq!(checkpoints.len(), 1);
    assert_eq!(checkpoints[0].holders(), ["a", "b"]);
    for step in [30, 20] {
        cluster.event("a", job, epoch, sealed(&format!("step-{step}"), step));
    }
    cluster.event("a", job, epoch, sealed("final", 0));
    let names = |cluster: &Cluster| {
        cluster
            .job(job)
            .checkpoints
            .iter()
            .map(|one| one.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&cluster),
        ["step-10", "step-20", "step-30", "final"],
        "none is durable, so none goes"
    );
    cluster.event("a", job, epoch, exit(0, 1, 0, false));
    cluster.event("b", job, epoch, sealed("step-200", 200));
    assert_eq!(
        names(&cluster).last().map(String::as_str),
        Some("step-200"),
        "also while the attempt ends"
    );
}

#[test]
fn hostile_words_do_no_harm() {
    let (mut cluster, job, epoch) = gang();
    cluster.running(job, epoch);
    for what in [exit(99, 1, 0, false), exit(u32::MAX, 1, 0, false)] {
        cluster.event("a", job, epoch, what);
        assert_eq!(cluster.job(job).state, JobState::Running, "no such rank");
    }
    cluster.event("a", job, epoch, exit(0, 0, 0, false));
    cluster.event("a", job, epoch, exit(0, 1, 0, false));
    assert_eq!(
        cluster.job(job).state,
        JobState::Running,
        "a rank ends once"
    );
    let long = End {
        detail: "ü".repeat(4_000),
        node: "b".into(),
        code: i32::MAX,
        ..End::of(EndKind::Signalled)
    };
    cluster.event("a", job, epoch, Happening::AllocationEnded(long));
    let end = cluster
        .state
        .attempt(job, epoch)
        .and_then(|one| one.end.clone())
        .expect("it ends");
    assert_eq!(
        (end.detail.len(), end.node.as_str()),
        (DETAIL_BYTES_MAX, "a"),
        "a node speaks for itself only"
    );
    assert_eq!(end.exit_code().0, i32::MAX);
}
