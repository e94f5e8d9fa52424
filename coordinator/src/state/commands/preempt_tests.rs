//! Preemption in a small cluster: who may be ended for whom, and what it leaves behind; in `kept`, what is kept for whom. Every invariant is checked after each
//! command.
#[cfg(test)]
#[path = "preempt_kept_tests.rs"]
mod kept;

use mlctl_proto::spec::parse_toml;

use super::*;
use crate::state::commands::{
    CancelJobs, ChangeTeams, NewMember, SetMembers, SetQuota, SetTeam, TeamEdit,
};
use crate::state::testing::{Cluster, array_spec, person, system};
use crate::state::view::amounts::GPU;
use crate::state::view::jobs::Class;
use crate::state::view::teams::{Flavor, Limit};
use crate::state::{Applied, Body, Effect};

const HOUR_MS: i64 = 3_600_000;

fn edits() -> Vec<TeamEdit> {
    let sim = Flavor {
        kind: "sim".into(),
        pool: None,
    };
    let made = |team: &str| {
        TeamEdit::Team(SetTeam {
            team: team.into(),
            weight: None,
            limits: Vec::new(),
            max_class: Some(Some(mlctl_proto::spec::Class::Critical)),
        })
    };
    let quota = |team: &str, gpus: u64, borrow: u64| {
        TeamEdit::Quota(SetQuota {
            team: team.into(),
            flavor: sim.clone(),
            nominal: Some(gpus * GPU),
            borrow: Some(Limit::Units(borrow * GPU)),
            lend: None,
            per_user: None,
            remove: false,
        })
    };
    let member = |team: &str, name: &str| {
        TeamEdit::Members(SetMembers {
            team: team.into(),
            add: vec![NewMember {
                user_id: format!("id-{name}"),
                name: name.into(),
                default: true,
            }],
            remove: Vec::new(),
        })
    };
    vec![
        made("acme"),
        made("acme/nlp"),
        made("acme/vision"),
        quota("acme", 8, 0),
        quota("acme/nlp", 4, 4),
        quota("acme/vision", 4, 4),
        member("acme/nlp", "ann"),
        member("acme/vision", "bob"),
    ]
}

/// Two teams of four GPUs each, on two nodes of four: each may borrow the other's.
fn acme() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 4);
    cluster.gpu_node("b", 4);
    let body = Body::ChangeTeams(ChangeTeams { edits: edits() });
    let applied = cluster.run(person("root", true), body);
    assert_eq!(applied.refusal(), None);
    cluster
}

fn submitted(cluster: &mut Cluster, user: &str, lines: &str) -> JobId {
    let spec = parse_toml(&format!("command = ['a']\n{lines}")).expect("good");
    cluster.submitted_spec(user, &spec)
}

fn runs(cluster: &mut Cluster, user: &str, lines: &str, node: &str) -> (JobId, Epoch) {
    let job = submitted(cluster, user, lines);
    let epoch = cluster.started(job, &[node]);
    cluster.running(job, epoch);
    (job, epoch)
}

fn apply(cluster: &mut Cluster, preempt: Preempt) -> Applied {
    cluster.run(system(), Body::Preempt(preempt))
}

/// Why it is refused; nothing changed then, which the cluster checks.
fn refused(cluster: &mut Cluster, preempt: Preempt) -> String {
    let applied = apply(cluster, preempt);
    let refusal = applied.refusal().expect("it is refused");
    assert_eq!(refusal.code, Code::Conflict);
    refusal.message.clone()
}

fn start_refused(cluster: &mut Cluster, job: JobId, nodes: &[&str]) -> String {
    let start = cluster.start(job, nodes);
    match cluster.propose(vec![start]).reply {
        Reply::Started { refused, .. } => refused.into_iter().next().expect("refused").1,
        other => panic!("{other:?}"),
    }
}

fn start_kept(cluster: &mut Cluster, job: JobId) -> Epoch {
    let start = cluster.start_kept(job).expect("something is kept");
    let epoch = start.epoch;
    let reply = cluster.propose(vec![start]).reply;
    let jobs = vec![job];
    assert_eq!(
        reply,
        Reply::Started {
            jobs,
            refused: Vec::new()
        }
    );
    epoch
}

/// Bob holds both nodes, one by borrowing; ann waits for what is hers.
fn borrowed() -> (Cluster, [(JobId, Epoch); 2], JobId) {
    let mut cluster = acme();
    let own = runs(&mut cluster, "bob", "gpus = 4", "a");
    let more = runs(&mut cluster, "bob", "gpus = 4\nclass = 'critical'", "b");
    let waits = submitted(&mut cluster, "ann", "gpus = 4\nclass = 'low'");
    (cluster, [own, more], waits)
}

/// The same, and the borrower is being ended for ann.
fn preempted() -> (Cluster, (JobId, Epoch), JobId) {
    let (mut cluster, [own, _], waits) = borrowed();
    let preempt = cluster.preempt(waits, &["a"], Taken::Entitlement);
    assert_eq!(apply(&mut cluster, preempt).refusal(), None);
    (cluster, own, waits)
}

#[test]
fn an_owner_takes_back_what_was_borrowed_and_the_victim_keeps_its_place() {
    // The critical job fills bob's nominal first: what borrows is the other one, on `a`.
    let (mut cluster, [own, more], waits) = borrowed();
    let why = {
        let preempt = cluster.preempt(waits, &["b"], Taken::Entitlement);
        refused(&mut cluster, preempt)
    };
    assert!(why.contains("as entitled"), "{why}");
    let preempt = cluster.preempt(waits, &["a"], Taken::Entitlement);
    let applied = apply(&mut cluster, preempt);
    let stop = Effect::Stop {
        node: "a".into(),
        job: own.0,
        epoch: own.1,
        reason: EndKind::Preempted,
    };
    assert_eq!(applied.effects, [stop, Effect::Replan]);
    assert_eq!(cluster.job(own.0).state, JobState::Stopping);
    let later = submitted(&mut cluster, "bob", "gpus = 4");
    cluster.ended("a", own.0, own.1, EndKind::Preempted);
    let victim = cluster.job(own.0);
    assert_eq!(
        (victim.state, victim.retries.requeues),
        (JobState::Pending, 0)
    );
    assert_eq!(victim.marks.evicted_ms.len(), 1);
    let order: Vec<JobId> = cluster.state.pending().map(|job| job.id).collect();
    assert_eq!(order, [own.0, waits, later], "by submit, as before");

    let epoch = start_kept(&mut cluster, waits);
    let attempt = cluster.state.attempt(waits, epoch).expect("it started");
    assert!(attempt.took);
    assert_eq!(cluster.state.hold_of(waits), None);
    assert_eq!(cluster.job(more.0).state, JobState::Running);
    let settings = cluster.state.settings().expect("set up");
    assert_eq!((settings.preemptions, settings.preemptions_in_vain), (1, 0));
}

#[test]
fn a_borrower_never_evicts_an_owner() {
    let mut cluster = acme();
    let owner = runs(&mut cluster, "ann", "gpus = 4\nclass = 'low'", "a");
    let own = runs(&mut cluster, "bob", "gpus = 4\nclass = 'critical'", "b");
    let borrower = submitted(&mut cluster, "bob", "gpus = 4\nclass = 'high'");
    let preempt = cluster.preempt(borrower, &["a"], Taken::Entitlement);
    let why = refused(&mut cluster, preempt);
    assert!(
        why.contains(&format!("job {} is as entitled", owner.0)),
        "{why}"
    );
    let preempt = cluster.preempt(borrower, &["b"], Taken::Entitlement);
    assert!(refused(&mut cluster, preempt).contains(&format!("job {} is as", own.0)));
    // Who is covered in its place may end what is less urgent.
    let urgent = submitted(&mut cluster, "ann", "gpus = 4\nclass = 'normal'");
    let preempt = cluster.preempt(urgent, &["a"], Taken::Entitlement);
    assert_eq!(apply(&mut cluster, preempt).refusal(), None);
}

#[test]
fn a_preempt_whose_keys_do_not_hold_is_refused_and_changes_nothing() {
    let (mut cluster, [own, more], waits) = borrowed();
    let good = cluster.preempt(waits, &["a"], Taken::Entitlement);
    let spoil = |change: &dyn Fn(&mut Preempt)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let other = cluster.preempt(waits, &["b"], Taken::Entitlement);
    let claims = |one: &mut Preempt| one.entitlement = one.victims[0].entitlement;
    for (bad, part) in [
        (spoil(&claims), "as entitled as it would be"),
        (spoil(&|one| one.victims.clear()), "nobody to end"),
        (
            spoil(&|one| one.victims.push(one.victims[0].clone())),
            "cannot be",
        ),
        (spoil(&|one| one.victims[0].job = waits), "cannot be"),
        (
            spoil(&|one| one.victims[0].epoch = Epoch::new(1, 9)),
            "ends already",
        ),
        (
            spoil(&|one| one.victims[0].why = Taken::Overtime),
            "more urgent",
        ),
        (
            spoil(&|one| one.victims[0].why = Taken::Slice),
            "more urgent",
        ),
        (
            spoil(&|one| one.victims = other.victims.clone()),
            "is held by job",
        ),
        (
            spoil(&|one| one.seats = other.seats.clone()),
            "is held by job",
        ),
        (
            spoil(&|one| one.seats[0].devices.truncate(3)),
            "needs 4 GPUs",
        ),
        (spoil(&|one| one.seats.clear()), "needs 1 nodes"),
        (spoil(&|one| one.job = JobId::new(1, 99)), "no such job"),
        (spoil(&|one| one.job = own.0), "Running"),
        (
            spoil(&|one| {
                one.victims.push(PreemptVictim {
                    why: Taken::Guest,
                    ..other.victims[0].clone()
                })
            }),
            "different grounds",
        ),
    ] {
        let why = refused(&mut cluster, bad);
        assert!(why.contains(part), "{part}: {why}");
    }
    let person = cluster.run(person("root", true), Body::Preempt(good.clone()));
    assert_eq!(person.refusal().map(|one| one.code), Some(Code::Denied));
    assert_eq!(apply(&mut cluster, good.clone()).refusal(), None);
    let again = refused(&mut cluster, good);
    assert!(again.contains("kept for it already"), "{again}");
    assert_eq!(cluster.job(more.0).state, JobState::Running);
}

#[test]
fn nobody_evicts_an_equal_and_who_has_no_quota_goes_by_class() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    runs(&mut cluster, "ann", "gpus = 1", "a");
    let equal = submitted(&mut cluster, "bob", "gpus = 1");
    let urgent = submitted(&mut cluster, "bob", "gpus = 1\nclass = 'high'");
    let preempt = cluster.preempt(equal, &["a"], Taken::Entitlement);
    assert!(refused(&mut cluster, preempt).contains("as entitled"));
    let preempt = cluster.preempt(urgent, &["a"], Taken::Entitlement);
    assert_eq!(apply(&mut cluster, preempt).refusal(), None);
}

#[test]
fn a_beneficiary_that_is_over_at_once_has_to_wait() {
    let (mut cluster, own, waits) = preempted();
    cluster.ended("a", own.0, own.1, EndKind::Preempted);
    let epoch = start_kept(&mut cluster, waits);
    cluster.now_ms += 9 * 60_000;
    cluster.ended("a", waits, epoch, EndKind::Preempted);
    let job = cluster.job(waits);
    assert_eq!(job.marks.no_preempt_until_ms, cluster.now_ms + HOUR_MS);
    assert_eq!(
        cluster
            .state
            .settings()
            .expect("set up")
            .preemptions_in_vain,
        1
    );
    assert_eq!(job.marks.attained, 4 * GPU * 540, "what it had");
    cluster.started(own.0, &["a"]);
    let preempt = cluster.preempt(waits, &["a"], Taken::Entitlement);
    assert!(refused(&mut cluster, preempt).contains("has to wait"));
    cluster.now_ms += HOUR_MS;
    let preempt = cluster.preempt(waits, &["a"], Taken::Entitlement);
    assert_eq!(apply(&mut cluster, preempt).refusal(), None);
}

#[test]
fn a_job_that_starts_again_by_itself_ends_nobody() {
    let (mut cluster, [own, _], waits) = borrowed();
    cluster.ended("a", own.0, own.1, EndKind::KeeperLost);
    let epoch = cluster.started(waits, &["a"]);
    cluster.ended("a", waits, epoch, EndKind::KeeperLost);
    cluster.gpu_node("c", 4);
    cluster.started(own.0, &["c"]);
    let preempt = cluster.preempt(waits, &["c"], Taken::Entitlement);
    assert!(refused(&mut cluster, preempt).contains("has to wait"));
}

#[test]
fn min_runtime_and_three_evictions_protect() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let (victim, mut epoch) = runs(&mut cluster, "ann", "gpus = 1\nmin_runtime = '10m'", "a");
    let take = |cluster: &mut Cluster| {
        let urgent = submitted(cluster, "bob", "gpus = 1\nclass = 'high'");
        let preempt = cluster.preempt(urgent, &["a"], Taken::Entitlement);
        (urgent, preempt)
    };
    let (_, preempt) = take(&mut cluster);
    assert!(refused(&mut cluster, preempt).contains("min_runtime"));
    for _ in 0..3 {
        cluster.now_ms += 10 * 60_000;
        let (urgent, preempt) = take(&mut cluster);
        assert_eq!(apply(&mut cluster, preempt).refusal(), None);
        cluster.ended("a", victim, epoch, EndKind::Preempted);
        let cancel = Body::CancelJobs(CancelJobs::of(vec![urgent]));
        cluster.run(person("bob", false), cancel);
        epoch = cluster.started(victim, &["a"]);
        cluster.running(victim, epoch);
    }
    cluster.now_ms += 10 * 60_000;
    let (_, preempt) = take(&mut cluster);
    let why = refused(&mut cluster, preempt.clone());
    assert!(why.contains("3 times within a day"), "{why}");
    cluster.now_ms += 24 * HOUR_MS - 20 * 60_000;
    assert_eq!(apply(&mut cluster, preempt).refusal(), None, "forgotten");
}

#[test]
fn overtime_and_guests_go_when_their_time_is_over_and_not_before() {
    let mut cluster = Cluster::new();
    for name in ["a", "b"] {
        cluster.gpu_node(name, 1);
    }
    let (over, _) = runs(&mut cluster, "ann", "gpus = 1", "a");
    let guest = submitted(&mut cluster, "ann", "gpus = 1\ntime = '9h'");
    let mut start = cluster.start(guest, &["b"]);
    start.footing = Footing::Guest(cluster.now_ms + HOUR_MS);
    let epoch = start.epoch;
    cluster.propose(vec![start]);
    let (first, second) = (
        submitted(&mut cluster, "bob", "gpus = 1"),
        submitted(&mut cluster, "bob", "gpus = 1\nclass = 'low'"),
    );
    let of_guest = cluster.preempt(first, &["b"], Taken::Guest);
    let of_over = cluster.preempt(first, &["a"], Taken::Overtime);
    for bad in [of_guest.clone(), of_over.clone()] {
        assert!(refused(&mut cluster, bad).contains("is not over"));
    }
    cluster.now_ms += HOUR_MS;
    let wrong = cluster.preempt(first, &["b"], Taken::Overtime);
    assert!(refused(&mut cluster, wrong).contains("is not over"));
    assert_eq!(apply(&mut cluster, of_guest).refusal(), None);
    cluster.ended("b", guest, epoch, EndKind::Preempted);
    assert!(cluster.job(guest).marks.guest_taken);
    start_kept(&mut cluster, first);
    cluster.gpu_node("c", 1);
    let mut again = cluster.start(guest, &["c"]);
    again.footing = Footing::Guest(cluster.now_ms + HOUR_MS);
    let reply = cluster.propose(vec![again]).reply;
    assert!(
        matches!(reply, Reply::Started { jobs, .. } if jobs.is_empty()),
        "once"
    );
    cluster.now_ms += 23 * HOUR_MS;
    let urgent = cluster.preempt(second, &["a"], Taken::Overtime);
    assert!(refused(&mut cluster, urgent).contains("more urgent"));
    let equal = submitted(&mut cluster, "bob", "gpus = 1");
    let taken = cluster.preempt(equal, &["a"], Taken::Overtime);
    assert_eq!(apply(&mut cluster, taken).refusal(), None);
    assert_eq!(cluster.job(over).state, JobState::Stopping);
}

#[test]
fn one_wave_of_an_array_ends_and_its_tasks_wait_again() {
    let mut cluster = Cluster::new();
    for name in ["a", "b"] {
        cluster.gpu_node(name, 1);
    }
    let array = cluster.submitted_spec("ann", &array_spec("0-9", 1));
    let mut epochs = Vec::new();
    for (name, from) in [("a", 0), ("b", 5)] {
        let tasks = mlctl_proto::spec::Ranges::span(from, from + 4);
        let start = cluster.wave(array, name, 1, tasks);
        epochs.push(start.epoch);
        cluster.propose(vec![start]);
    }
    let urgent = submitted(&mut cluster, "bob", "gpus = 1\nclass = 'high'");
    let preempt = cluster.preempt(urgent, &["a"], Taken::Entitlement);
    assert_eq!(apply(&mut cluster, preempt).refusal(), None);
    assert_ne!(
        cluster.job(array).state,
        JobState::Stopping,
        "the rest goes on"
    );
    cluster.ended("a", array, epochs[0], EndKind::Preempted);
    let record = cluster.job(array).array.expect("an array");
    assert_eq!((record.pending.count(), record.returned.len()), (5, 0));
    start_kept(&mut cluster, urgent);
    let cancel = Body::CancelJobs(CancelJobs::of(vec![array]));
    cluster.run(person("ann", false), cancel);
    cluster.ended("b", array, epochs[1], EndKind::Cancelled);
    assert_eq!(cluster.job(array).state, JobState::Cancelled);
}

#[test]
fn a_cancel_does_not_wait_for_the_grace() {
    let (mut cluster, own, _) = preempted();
    let cancel = Body::CancelJobs(CancelJobs::of(vec![own.0]));
    let applied = cluster.run(person("bob", false), cancel);
    let stop = Effect::Stop {
        node: "a".into(),
        job: own.0,
        epoch: own.1,
        reason: EndKind::Cancelled,
    };
    assert!(applied.effects.contains(&stop), "{:?}", applied.effects);
    cluster.ended("a", own.0, own.1, EndKind::Preempted);
    assert_eq!(cluster.job(own.0).state, JobState::Cancelled);
}

#[test]
fn a_class_that_is_higher_decides_within_a_cover() {
    let one = Entitlement {
        cover: 1,
        class: Class::Critical,
    };
    let two = Entitlement {
        cover: 2,
        class: Class::Low,
    };
    assert!(one < two);
}
