//! Jobs that are changed in place: what changes, what stands, and what is refused.
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::{Class, parse_toml};

use super::*;
use crate::state::testing::{Cluster, array_spec, person};
use crate::state::{Applied, Body};

fn updated(cluster: &mut Cluster, (name, admin): (&str, bool), job: JobId, edit: &str) -> Applied {
    let update = UpdateJobs {
        which: Selection::of(vec![job]),
        edit: edit.into(),
    };
    cluster.run(person(name, admin), Body::UpdateJobs(update))
}

const ANN: (&str, bool) = ("ann", false);

fn submitted(cluster: &mut Cluster, lines: &str) -> JobId {
    let spec = parse_toml(&format!("command = ['a']\n{lines}")).expect("good");
    cluster.submitted_spec("ann", &spec)
}

fn edited(jobs: &[JobId]) -> Reply {
    Reply::Edited {
        jobs: jobs.to_vec(),
        left: Vec::new(),
    }
}

fn spec(cluster: &Cluster, job: JobId) -> JobSpec {
    let hash = cluster.job(job).spec_hash;
    let stored = cluster.state.spec(&hash).expect("it is stored");
    Request::spec(&stored.json).expect("it can be read")
}

#[test]
fn a_job_that_waits_changes_in_place_and_keeps_its_place() {
    let mut cluster = Cluster::new();
    let first = submitted(&mut cluster, "nodes = 2");
    let second = submitted(&mut cluster, "nodes = 2");
    let before = cluster.job(first);
    let edit =
        r#"{"nodes":1,"time":"2h","class":"low","name":"x","end_by":"2999-01-01T00:00:00Z"}"#;
    assert_eq!(
        updated(&mut cluster, ANN, first, edit).reply,
        edited(&[first])
    );
    let job = cluster.job(first);
    assert_eq!(
        (job.submit_index, job.submitted_ms),
        (before.submit_index, before.submitted_ms)
    );
    assert_eq!((job.name.as_str(), job.turn.class), ("x", Class::Low));
    assert_eq!(job.turn.end_by_ms, 32_472_144_000_000);
    let asked = cluster.state.request(&job).map(|request| request.nodes);
    assert_eq!(asked, Some(1));
    let order: Vec<JobId> = cluster.state.queue().map(|job| job.id).collect();
    assert_eq!(order, [first, second]);
    // The other job still names what both named.
    assert_eq!(spec(&cluster, second).nodes, 2);
    let hash = cluster.job(second).spec_hash;
    assert_eq!(cluster.state.spec(&hash).map(|spec| spec.uses), Some(1));
    assert_eq!(
        updated(&mut cluster, ANN, first, edit).reply,
        edited(&[]),
        "it is so already"
    );
}

#[test]
fn only_an_admin_raises_a_class() {
    let mut cluster = Cluster::new();
    let job = submitted(&mut cluster, "");
    let high = r#"{"class":"high"}"#;
    let refused = updated(&mut cluster, ANN, job, high);
    assert_eq!(
        refused.refusal().map(|refusal| refusal.code),
        Some(Code::Denied)
    );
    assert_eq!(
        updated(&mut cluster, ("root", true), job, high).reply,
        edited(&[job])
    );
    assert_eq!(
        updated(&mut cluster, ANN, job, r#"{"class":"normal"}"#).reply,
        edited(&[job])
    );
}

#[test]
fn what_runs_keeps_what_it_was_started_with() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    let job = submitted(&mut cluster, "gpus = 1");
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    for edit in [r#"{"time":"1h"}"#, r#"{"gpus":2}"#, r#"{"begin":null}"#] {
        let refused = updated(&mut cluster, ANN, job, edit);
        assert_eq!(
            refused.refusal().map(|refusal| refusal.code),
            Some(Code::Conflict),
            "{edit}"
        );
    }
    let free = r#"{"name":"x","class":"low","end_by":"2999-01-01T00:00:00Z"}"#;
    assert_eq!(updated(&mut cluster, ANN, job, free).reply, edited(&[job]));
    cluster.ended("a", job, epoch, crate::state::records::EndKind::KeeperLost);
    assert_eq!(cluster.job(job).state, JobState::Pending);
    assert_eq!(
        updated(&mut cluster, ANN, job, r#"{"time":"1h"}"#).reply,
        edited(&[job])
    );
    let refused = updated(&mut cluster, ANN, job, r#"{"gpus":2}"#);
    let refusal = refused.refusal().expect("it has run");
    assert!(refusal.message.contains("has run"), "{refusal}");
}

#[test]
fn the_limit_of_an_array_changes_while_it_runs_and_ends_nothing() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    let job = cluster.submitted_spec("ann", &array_spec("0-9%4", 0));
    let tasks = mlctl_proto::spec::Ranges::span(0, 3);
    let start = cluster.wave(job, "a", 4, tasks);
    cluster.propose(vec![start]);
    assert_eq!(
        updated(&mut cluster, ANN, job, r#"{"array_limit":2}"#).reply,
        edited(&[job])
    );
    let array = cluster.job(job).array.expect("an array");
    assert_eq!((array.limit, array.pending.count()), (2, 6));
    assert_eq!(cluster.job(job).state, JobState::Starting);
}

#[test]
fn what_could_not_be_submitted_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    let job = submitted(&mut cluster, "gpus = 1");
    let before = cluster.state.digest();
    for (edit, code) in [
        ("{}", Code::BadRequest),
        (r#"{"command":"x"}"#, Code::BadRequest),
        (r#"{"nodes":0}"#, Code::BadRequest),
        (r#"{"gpus":-1}"#, Code::BadRequest),
        (r#"{"gpus":3}"#, Code::NeverFits),
        (r#"{"array_limit":2}"#, Code::BadRequest),
    ] {
        let applied = updated(&mut cluster, ANN, job, edit);
        let got = applied.refusal().map(|refusal| refusal.code);
        assert_eq!(got, Some(code), "{edit}");
    }
    let foreign = updated(&mut cluster, ("bob", false), job, r#"{"class":"low"}"#);
    assert_eq!(
        foreign.refusal().map(|refusal| refusal.code),
        Some(Code::Denied)
    );
    assert_eq!(cluster.state.digest(), before);
}

#[test]
fn what_is_over_or_being_ended_does_not_change() {
    let mut cluster = Cluster::new();
    let job = submitted(&mut cluster, "");
    let cancel = crate::state::commands::CancelJobs::of(vec![job]);
    cluster.run(person("ann", false), Body::CancelJobs(cancel));
    let applied = updated(&mut cluster, ANN, job, r#"{"name":"x"}"#);
    assert_eq!(
        applied.refusal().map(|refusal| refusal.code),
        Some(Code::Conflict)
    );
}
