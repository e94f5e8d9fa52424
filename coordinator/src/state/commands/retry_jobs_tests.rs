//! Tests of a person's retry.
use super::*;
use crate::state::commands::{ArchiveJobs, CancelJobs, IdempotencyKey};
use crate::state::records::EndKind;
use crate::state::testing::{Cluster, command, ended, exit, person, sealed, system};
use crate::state::{Body, Effect};

fn retry(jobs: &[JobId]) -> Body {
    Body::RetryJobs(RetryJobs {
        jobs: jobs.to_vec(),
    })
}

fn failed(cluster: &mut Cluster, on: &str) -> JobId {
    let job = cluster.submitted("ann", 1, 1);
    let epoch = cluster.started(job, &[on]);
    cluster.event(on, job, epoch, sealed("step-5", 5));
    cluster.event(on, job, epoch, exit(0, 3, 0, false));
    cluster.event(on, job, epoch, ended(EndKind::Exited, 3));
    assert_eq!(cluster.job(job).state, JobState::Failed);
    job
}

#[test]
fn a_job_that_is_over_is_submitted_anew_and_goes_on_where_it_was() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let over = failed(&mut cluster, "a");
    let before = cluster.job(over);
    let applied = cluster.run(person("root", true), retry(&[over]));
    let again = JobId::new(1, 2);
    let reply = Reply::Retried {
        released: vec![],
        going: vec![],
        anew: vec![(over, again)],
    };
    assert_eq!(
        (applied.reply, applied.effects),
        (reply, vec![Effect::Queued])
    );
    assert_eq!(cluster.job(over), before, "what is over stays as it ended");
    let job = cluster.job(again);
    assert_eq!(job.state, JobState::Pending);
    assert_eq!(
        (job.owner_id.as_str(), job.spec_hash),
        ("id-ann", before.spec_hash),
        "it is its owner's, whoever asks"
    );
    let mut start = cluster.start(again, &["a"]);
    assert_eq!(start.resume_from, "", "it made none itself");
    start.resume_from = "step-5".into();
    let epoch = start.epoch;
    cluster.propose(vec![start]);
    let attempt = cluster.state.attempt(again, epoch).expect("it was started");
    assert_eq!(attempt.resume_job, Some(over));

    // A try that makes no checkpoint hands on what it was given.
    cluster.event("a", again, epoch, ended(EndKind::Exited, 4));
    cluster.run(person("ann", false), retry(&[again]));
    let third = cluster
        .job(JobId::new(1, 3))
        .lineage
        .expect("it comes from one");
    assert_eq!((third.retry_of, third.made_by), (again, over));
    assert_eq!(third.checkpoints, before.checkpoints);
}

#[test]
fn own_checkpoints_come_before_those_that_were_handed_on() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let over = failed(&mut cluster, "a");
    cluster.run(person("ann", false), retry(&[over]));
    let again = JobId::new(1, 2);
    let mut start = cluster.start(again, &["a"]);
    start.resume_from = "step-5".into();
    let epoch = start.epoch;
    cluster.propose(vec![start]);
    cluster.event("a", again, epoch, sealed("step-9", 9));
    cluster.event("a", again, epoch, ended(EndKind::Preempted, 0));
    let epoch = cluster.started(again, &["a"]);
    let attempt = cluster.state.attempt(again, epoch).expect("it was started");
    assert_eq!(
        (attempt.resume_from.as_str(), attempt.resume_job),
        ("step-9", None)
    );
}

#[test]
fn what_runs_or_waits_needs_nothing() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let running = cluster.submitted("ann", 1, 1);
    let waiting = cluster.submitted("ann", 1, 1);
    let epoch = cluster.started(running, &["a"]);
    cluster.running(running, epoch);
    let digest = cluster.state.digest();
    let applied = cluster.run(person("ann", false), retry(&[waiting, running, running]));
    let reply = Reply::Retried {
        released: vec![],
        going: vec![running, waiting],
        anew: vec![],
    };
    assert_eq!((applied.reply, applied.effects), (reply, vec![]));
    assert_ne!(cluster.state.digest(), digest, "only state time went on");
}

#[test]
fn only_owners_and_admins_and_only_what_there_is() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let over = failed(&mut cluster, "a");
    for (actor, jobs, code) in [
        (person("bob", false), vec![over], Code::Denied),
        (system(), vec![over], Code::Denied),
        (person("ann", false), vec![], Code::BadRequest),
        (
            person("ann", false),
            vec![over, JobId::new(1, 77)],
            Code::NotFound,
        ),
    ] {
        let applied = cluster.run(actor, retry(&jobs));
        assert_eq!(applied.refusal().map(|refusal| refusal.code), Some(code));
    }
    assert_eq!(cluster.state.jobs().count(), 1);
    // Two stay in memory: the third to end sends the first into history.
    for _ in 0..2 {
        let job = cluster.submitted("ann", 1, 1);
        let cancel = CancelJobs::of(vec![job]);
        cluster.run(person("ann", false), Body::CancelJobs(cancel));
    }
    cluster.run(system(), Body::ArchiveJobs(ArchiveJobs { most: 9 }));
    let refused = cluster.run(person("ann", false), retry(&[over]));
    let refusal = refused.refusal().expect("it is history");
    assert_eq!(refusal.code, Code::Conflict);
    assert!(
        refusal.message.contains("submit its spec anew"),
        "{refusal}"
    );
}

#[test]
fn an_array_is_submitted_anew_with_all_its_tasks() {
    let mut cluster = Cluster::new();
    let spec = mlctl_proto::spec::JobSpec {
        array: mlctl_proto::spec::ArraySpec::parse("0-9").ok(),
        ..crate::state::testing::spec(1, 0)
    };
    let over = cluster.submitted_spec("ann", &spec);
    let array = cluster.job(over).array;
    let cancel = CancelJobs::of(vec![over]);
    cluster.run(person("ann", false), Body::CancelJobs(cancel));
    assert_ne!(cluster.job(over).array, array, "its tasks are cancelled");
    cluster.run(person("ann", false), retry(&[over]));
    assert_eq!(cluster.job(JobId::new(1, 2)).array, array);
}

#[test]
fn the_same_request_makes_one_job() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let over = failed(&mut cluster, "a");
    let mut asked = command(person("ann", false), cluster.now_ms, retry(&[over]));
    asked.key = Some(IdempotencyKey {
        uuid: [1; 16],
        request_hash: [2; 32],
    });
    let first = cluster.apply(&asked).reply;
    assert_eq!(cluster.apply(&asked).reply, first);
    assert_eq!(cluster.state.jobs().count(), 2);
}
