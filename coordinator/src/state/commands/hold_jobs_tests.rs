//! Holds of owners and admins, their releases, and what is refused.
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::JobSpec;

use super::*;
use crate::state::commands::{CancelJobs, Filter, ReleaseJobs, RetryJobs};
use crate::state::testing::{Cluster, person, spec};
use crate::state::{Applied, Body};

fn held(cluster: &mut Cluster, name: &str, admin: bool, jobs: &[JobId]) -> Applied {
    let hold = HoldJobs {
        which: Selection::of(jobs.to_vec()),
        why: "later".into(),
    };
    cluster.run(person(name, admin), Body::HoldJobs(hold))
}

fn released(cluster: &mut Cluster, name: &str, admin: bool, jobs: &[JobId]) -> Applied {
    let release = ReleaseJobs {
        which: Selection::of(jobs.to_vec()),
    };
    cluster.run(person(name, admin), Body::ReleaseJobs(release))
}

fn edited(jobs: &[JobId]) -> Reply {
    Reply::Edited {
        jobs: jobs.to_vec(),
        left: Vec::new(),
    }
}

fn code(applied: &Applied) -> Option<Code> {
    applied.refusal().map(|refusal| refusal.code)
}

#[test]
fn what_its_owner_holds_its_owner_releases() {
    let mut cluster = Cluster::new();
    let job = cluster.submitted("ann", 1, 0);
    assert_eq!(
        held(&mut cluster, "ann", false, &[job]).reply,
        edited(&[job])
    );
    let record = cluster.job(job);
    assert_eq!(record.state, JobState::Held);
    let hold = record.turn.hold.expect("it is held");
    assert_eq!(
        (hold.word(), hold.name.as_str(), hold.why.as_str()),
        ("HeldByUser", "ann", "later")
    );
    assert_eq!(cluster.state.pending().count(), 0);
    assert_eq!(
        cluster.state.pending_count_of("id-ann"),
        1,
        "it counts as waiting"
    );
    assert_eq!(
        held(&mut cluster, "ann", false, &[job]).reply,
        edited(&[]),
        "it is held already"
    );
    assert_eq!(
        released(&mut cluster, "ann", false, &[job]).reply,
        edited(&[job])
    );
    let record = cluster.job(job);
    assert_eq!((record.state, record.turn.hold), (JobState::Pending, None));
    assert_eq!(
        code(&released(&mut cluster, "ann", false, &[job])),
        Some(Code::Conflict)
    );
}

#[test]
fn what_an_admin_holds_only_an_admin_releases() {
    let mut cluster = Cluster::new();
    let job = cluster.submitted("ann", 1, 0);
    held(&mut cluster, "ann", false, &[job]);
    assert_eq!(
        held(&mut cluster, "root", true, &[job]).reply,
        edited(&[job]),
        "the stronger one counts"
    );
    assert_eq!(held(&mut cluster, "ann", false, &[job]).reply, edited(&[]));
    assert_eq!(
        cluster.job(job).turn.hold.map(|hold| hold.word()),
        Some("HeldByAdmin")
    );
    assert_eq!(
        code(&released(&mut cluster, "ann", false, &[job])),
        Some(Code::Denied)
    );
    assert_eq!(
        released(&mut cluster, "root", true, &[job]).reply,
        edited(&[job])
    );
    assert_eq!(cluster.job(job).state, JobState::Pending);
}

#[test]
fn a_retry_does_not_release_what_a_person_holds() {
    let mut cluster = Cluster::new();
    let job = cluster.submitted("ann", 1, 0);
    held(&mut cluster, "root", true, &[job]);
    let retry = Body::RetryJobs(RetryJobs { jobs: vec![job] });
    let applied = cluster.run(person("ann", false), retry);
    let going = Reply::Retried {
        released: vec![],
        going: vec![job],
        anew: vec![],
    };
    assert_eq!(applied.reply, going);
    assert_eq!(cluster.job(job).state, JobState::Held);
}

#[test]
fn what_is_held_can_be_cancelled() {
    let mut cluster = Cluster::new();
    let job = cluster.submitted("ann", 1, 0);
    held(&mut cluster, "ann", false, &[job]);
    cluster.run(
        person("ann", false),
        Body::CancelJobs(CancelJobs::of(vec![job])),
    );
    let record = cluster.job(job);
    assert_eq!(
        (record.state, record.turn.hold),
        (JobState::Cancelled, None)
    );
    assert_eq!(cluster.state.pending_count_of("id-ann"), 0);
}

#[test]
fn a_spec_may_ask_for_a_hold() {
    let mut cluster = Cluster::new();
    let asked = JobSpec {
        hold: true,
        ..spec(1, 0)
    };
    let job = cluster.submitted_spec("ann", &asked);
    assert_eq!(cluster.job(job).state, JobState::Held);
    assert_eq!(
        released(&mut cluster, "ann", false, &[job]).reply,
        edited(&[job])
    );
}

#[test]
fn named_jobs_are_held_together_or_not_at_all_and_a_filter_takes_what_it_can() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let runs = cluster.submitted("ann", 1, 1);
    let waits = cluster.submitted("ann", 1, 1);
    let foreign = cluster.submitted("bob", 1, 1);
    cluster.started(runs, &["a"]);
    for (jobs, want) in [
        (vec![waits, runs], Code::Conflict),
        (vec![waits, foreign], Code::Denied),
        (vec![waits, JobId::new(1, 99)], Code::NotFound),
        (vec![], Code::BadRequest),
    ] {
        assert_eq!(code(&held(&mut cluster, "ann", false, &jobs)), Some(want));
        assert_eq!(cluster.job(waits).state, JobState::Pending);
    }
    let filter = Filter {
        user: "me".into(),
        ..Filter::default()
    };
    let hold = HoldJobs {
        which: Selection {
            jobs: vec![],
            filter: Some(filter),
        },
        why: String::new(),
    };
    let applied = cluster.run(person("ann", false), Body::HoldJobs(hold));
    let Reply::Edited { jobs, left } = applied.reply else {
        panic!("{:?}", applied.reply);
    };
    assert_eq!(jobs, [waits]);
    assert_eq!(left.first().map(|(job, _)| *job), Some(runs));
    assert!(
        left[0].1.contains("only what waits can be held"),
        "{left:?}"
    );
    assert_eq!(cluster.job(foreign).state, JobState::Pending);
}

#[test]
fn what_may_still_run_on_a_silent_node_is_not_held() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let job = cluster.submitted("ann", 1, 1);
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    cluster.lose("a");
    assert_eq!(cluster.job(job).state, JobState::Pending);
    let applied = held(&mut cluster, "ann", false, &[job]);
    assert!(
        applied
            .refusal()
            .is_some_and(|refusal| refusal.message.contains("silent"))
    );
}

#[test]
fn reasons_are_short() {
    let mut cluster = Cluster::new();
    let job = cluster.submitted("ann", 1, 0);
    let hold = HoldJobs {
        which: Selection::of(vec![job]),
        why: "x".repeat(257),
    };
    let applied = cluster.run(person("ann", false), Body::HoldJobs(hold));
    assert_eq!(code(&applied), Some(Code::BadRequest));
    assert_eq!(cluster.job(job).state, JobState::Pending);
}
