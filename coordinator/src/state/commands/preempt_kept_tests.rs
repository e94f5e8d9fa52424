//! What is kept for the beneficiary of a preemption: for how long, from whom, and what frees it.
use super::*;
use crate::state::commands::{DropLate, HoldJobs, Selection, UpdateJobs, Withdraw};

#[test]
fn held_devices_go_to_nobody_else() {
    let (mut cluster, own, waits) = preempted();
    cluster.ended("a", own.0, own.1, EndKind::Preempted);
    let why = start_refused(&mut cluster, own.0, &["a"]);
    assert!(why.contains(&format!("kept for job {waits}")), "{why}");
    let urgent = submitted(&mut cluster, "ann", "gpus = 1\nclass = 'critical'");
    let why = start_refused(&mut cluster, urgent, &["a"]);
    assert!(why.contains("kept for job"), "{why}");
    let preempt = cluster.preempt(urgent, &["b"], Taken::Entitlement);
    let mut taken = preempt;
    taken.seats[0] = cluster.start(waits, &["a"]).placements[0].clone();
    taken.seats[0].devices.truncate(1);
    let why = refused(&mut cluster, taken);
    assert!(why.contains("kept for job"), "{why}");
    start_kept(&mut cluster, waits);
}

#[test]
fn nobody_takes_the_quota_that_is_promised() {
    let mut cluster = acme();
    cluster.gpu_node("c", 8);
    let (victim, epoch) = runs(&mut cluster, "bob", "gpus = 4", "a");
    let urgent = runs(&mut cluster, "bob", "gpus = 4\nclass = 'high'", "b");
    let waits = submitted(&mut cluster, "ann", "gpus = 4");
    let small = submitted(&mut cluster, "ann", "gpus = 1");
    // There is room on `c`, but no quota: the borrower ends for that alone.
    let why = start_refused(&mut cluster, waits, &["c"]);
    assert!(why.contains("acme"), "{why}");
    let mut preempt = cluster.preempt(waits, &["a"], Taken::Entitlement);
    preempt.seats = cluster.start(waits, &["c"]).placements;
    assert_eq!(apply(&mut cluster, preempt).refusal(), None);
    let start = cluster.start_kept(waits).expect("kept");
    let reply = cluster.propose(vec![start]).reply;
    assert!(
        matches!(reply, Reply::Started { jobs, .. } if jobs.is_empty()),
        "not before it has ended"
    );
    cluster.ended("a", victim, epoch, EndKind::Preempted);
    for job in [small, victim] {
        let start = cluster.start(job, &["a"]);
        let reply = cluster.propose(vec![start]).reply;
        assert!(
            matches!(reply, Reply::Started { jobs, .. } if jobs.is_empty()),
            "it is another's"
        );
    }
    start_kept(&mut cluster, waits);
    assert_eq!(cluster.job(urgent.0).state, JobState::Running);
}

#[test]
fn ranks_without_gpus_are_kept_room_for() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 0);
    let (victim, epoch) = runs(&mut cluster, "ann", "ranks = 32", "a");
    let urgent = submitted(&mut cluster, "bob", "ranks = 32\nclass = 'high'");
    let preempt = cluster.preempt(urgent, &["a"], Taken::Entitlement);
    let applied = apply(&mut cluster, preempt);
    assert_eq!(applied.refusal(), None);
    cluster.ended("a", victim, epoch, EndKind::Preempted);
    let start = cluster.start(victim, &["a"]);
    let reply = cluster.propose(vec![start]).reply;
    assert!(matches!(reply, Reply::Started { jobs, .. } if jobs.is_empty()));
    start_kept(&mut cluster, urgent);
}

#[test]
fn a_gang_gets_free_devices_and_those_of_victims_and_starts_whole() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.gpu_node(name, 2);
    }
    let small = runs(&mut cluster, "ann", "gpus = 1", "a");
    let wide = submitted(&mut cluster, "ann", "nodes = 2\ngpus = 2\nclass = 'low'");
    let epoch = cluster.started(wide, &["b", "c"]);
    let gang = submitted(&mut cluster, "bob", "nodes = 2\ngpus = 2\nclass = 'high'");
    let preempt = cluster.preempt(gang, &["a", "b"], Taken::Entitlement);
    assert_eq!(preempt.victims.len(), 2);
    assert_eq!(apply(&mut cluster, preempt).refusal(), None);
    cluster.ended("a", small.0, small.1, EndKind::Preempted);
    cluster.ended("b", wide, epoch, EndKind::Preempted);
    cluster.ended("c", wide, epoch, EndKind::Preempted);
    cluster.started(small.0, &["c"]);
    start_kept(&mut cluster, gang);
}

#[test]
fn the_beneficiarys_cancel_frees_them() {
    let (mut cluster, own, waits) = preempted();
    let cancel = Body::CancelJobs(CancelJobs::of(vec![waits]));
    let applied = cluster.run(person("ann", false), cancel);
    assert!(applied.effects.contains(&Effect::Replan));
    assert_eq!(cluster.state.holds().count(), 0);
    cluster.ended("a", own.0, own.1, EndKind::Preempted);
    cluster.started(own.0, &["a"]);
    let settings = cluster.state.settings().expect("set up");
    assert_eq!((settings.preemptions, settings.preemptions_in_vain), (1, 1));
}

#[test]
fn a_hold_by_a_person_a_withdrawal_and_a_lost_node_free_them() {
    let frees = |body: Body, actor| {
        let (mut cluster, _, waits) = preempted();
        cluster.run(actor, body);
        assert_eq!(cluster.state.hold_of(waits), None);
        assert!(cluster.job(waits).marks.planned_again);
    };
    let (mut cluster, _, waits) = preempted();
    let which = Selection::of(vec![waits]);
    frees(
        Body::HoldJobs(HoldJobs {
            which,
            why: String::new(),
        }),
        person("ann", false),
    );
    let jobs = vec![JobId::new(1, 77), waits];
    frees(Body::Withdraw(Withdraw { jobs }), system());
    cluster.lose("b");
    assert!(
        cluster.state.hold_of(waits).is_some(),
        "nothing is kept there"
    );
    cluster.lose("a");
    assert_eq!(cluster.state.hold_of(waits), None);
}

#[test]
fn a_job_that_becomes_another_one_lets_go_of_what_was_kept() {
    let (mut cluster, _, waits) = preempted();
    let edit = |edit: &str| {
        Body::UpdateJobs(UpdateJobs {
            which: Selection::of(vec![waits]),
            edit: edit.into(),
        })
    };
    cluster.run(person("ann", false), edit(r#"{"time":"1h"}"#));
    assert!(cluster.state.hold_of(waits).is_some(), "it needs the same");
    cluster.run(person("ann", false), edit(r#"{"gpus":2}"#));
    assert_eq!(cluster.state.hold_of(waits), None);
}

#[test]
fn what_is_kept_is_kept_for_grace_and_kill_and_a_little_longer() {
    let (mut cluster, own, waits) = preempted();
    let hold = cluster.state.hold_of(waits).expect("kept").clone();
    assert_eq!(hold.until_ms - hold.since_ms, 600_000 + 30_000 + 120_000);
    assert_eq!(
        cluster.state.gone_by(own.0, own.1),
        Some(hold.since_ms + 630_000)
    );
    cluster.now_ms = hold.until_ms - 2;
    cluster.run(system(), Body::DropLate(DropLate { most: 1 }));
    assert!(cluster.state.hold_of(waits).is_some());
    cluster.run(system(), Body::DropLate(DropLate { most: 1 }));
    assert_eq!(cluster.state.hold_of(waits), None);
    // Once it is planned again at once; the next time it has to wait.
    cluster.ended("a", own.0, own.1, EndKind::Preempted);
    cluster.started(own.0, &["a"]);
    let preempt = cluster.preempt(waits, &["a"], Taken::Entitlement);
    assert_eq!(apply(&mut cluster, preempt).refusal(), None);
    let withdraw = Withdraw { jobs: vec![waits] };
    cluster.run(system(), Body::Withdraw(withdraw));
    let until = cluster.job(waits).marks.no_preempt_until_ms;
    assert_eq!(until, cluster.now_ms + HOUR_MS);
}

#[test]
fn who_asks_for_a_shorter_grace_has_it_and_is_not_waited_for() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    runs(&mut cluster, "ann", "gpus = 1\ngrace = '1m'", "a");
    let urgent = submitted(&mut cluster, "bob", "gpus = 1\nclass = 'high'");
    let preempt = cluster.preempt(urgent, &["a"], Taken::Entitlement);
    apply(&mut cluster, preempt);
    let hold = cluster.state.hold_of(urgent).expect("kept");
    assert_eq!(hold.until_ms - hold.since_ms, 60_000 + 30_000 + 120_000);
}
