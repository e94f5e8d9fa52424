//! Jobs that wait for others: met, not yet, never; chains, arrays, and what is refused.
use mlctl_proto::spec::{ArraySpec, Ranges, parse_toml};

use super::*;
use crate::state::commands::CancelJobs;
use crate::state::records::{EndKind, Reply};
use crate::state::testing::{
    Cluster, array_spec, ended, exit, person, spec, submit_body, tasks_ended,
};
use crate::state::{Applied, Body};

fn after(lines: &str) -> JobSpec {
    parse_toml(&format!("command = ['a']\n{lines}")).expect("good")
}

fn submit(cluster: &mut Cluster, lines: &str) -> Applied {
    cluster.run(person("ann", false), submit_body(&after(lines)))
}

fn submitted(cluster: &mut Cluster, lines: &str) -> JobId {
    cluster.submitted_spec("ann", &after(lines))
}

fn cancel(cluster: &mut Cluster, job: JobId) {
    cluster.run(
        person("ann", false),
        Body::CancelJobs(CancelJobs::of(vec![job])),
    );
}

/// Runs a job of one node to its end.
fn ends(cluster: &mut Cluster, job: JobId, code: i32) {
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    cluster.event("a", job, epoch, exit(0, code, 0, false));
    cluster.event("a", job, epoch, ended(EndKind::Exited, code));
}

fn cluster() -> (Cluster, JobId) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let first = cluster.submitted_spec("ann", &spec(1, 0));
    (cluster, first)
}

#[test]
fn each_kind_waits_for_its_own_end() {
    for (code, met) in [
        (0, ["ok", "any", "started"]),
        (7, ["notok", "any", "started"]),
    ] {
        let (mut cluster, first) = cluster();
        let jobs = met.map(|kind| submitted(&mut cluster, &format!("after = ['{kind}:{first}']")));
        for job in jobs {
            assert_eq!(cluster.job(job).turn.after.len(), 1);
        }
        ends(&mut cluster, first, code);
        for (job, kind) in jobs.into_iter().zip(met) {
            let job = cluster.job(job);
            assert_eq!(
                (job.state, job.turn.after.len()),
                (JobState::Pending, 0),
                "{kind}"
            );
        }
    }
}

#[test]
fn what_began_is_enough_for_who_waits_for_that() {
    let (mut cluster, first) = cluster();
    let starts = submitted(&mut cluster, &format!("after = ['started:{first}']"));
    let both = submitted(
        &mut cluster,
        &format!("after = ['started:{first}', 'any:{starts}']"),
    );
    let epoch = cluster.started(first, &["a"]);
    assert_eq!(
        cluster.job(starts).turn.after.len(),
        1,
        "not all ranks run yet"
    );
    cluster.running(first, epoch);
    assert!(cluster.job(starts).turn.after.is_empty());
    assert_eq!(cluster.job(both).turn.after.len(), 1);
}

#[test]
fn what_can_never_start_is_cancelled_along_the_chain_and_says_why() {
    let (mut cluster, first) = cluster();
    let second = submitted(&mut cluster, &format!("after = ['ok:{first}']"));
    let third = submitted(
        &mut cluster,
        &format!("hold = true\nafter = ['ok:{second}']"),
    );
    let last = submitted(
        &mut cluster,
        &format!("after = ['ok:{third}', 'any:{first}']"),
    );
    let other = submitted(&mut cluster, &format!("after = ['any:{second}']"));
    ends(&mut cluster, first, 1);
    for (job, on) in [(second, first), (third, second), (last, third)] {
        let job = cluster.job(job);
        assert_eq!(job.state, JobState::Cancelled);
        let end = job.outcome.expect("it is over");
        assert_eq!(end.kind, EndKind::Cancelled);
        assert!(end.detail.contains(&format!("ok:{on}")), "{}", end.detail);
    }
    let other = cluster.job(other);
    assert_eq!(
        (other.state, other.turn.after.len()),
        (JobState::Pending, 0)
    );
    assert_eq!(cluster.state.dependents(first).count(), 0);
}

#[test]
fn a_cancel_decides_too() {
    let (mut cluster, first) = cluster();
    let ok = submitted(&mut cluster, &format!("after = ['ok:{first}']"));
    let notok = submitted(&mut cluster, &format!("after = ['notok:{first}']"));
    cancel(&mut cluster, first);
    assert_eq!(cluster.job(ok).state, JobState::Cancelled);
    assert!(cluster.job(notok).turn.after.is_empty());
}

#[test]
fn at_a_submit_what_is_over_is_met_or_refused() {
    let (mut cluster, first) = cluster();
    ends(&mut cluster, first, 0);
    let job = submitted(&mut cluster, &format!("after = ['ok:{first}', ]"));
    assert!(cluster.job(job).turn.after.is_empty());
    let before = cluster.state.digest();
    for (lines, code, part) in [
        (
            format!("after = ['notok:{first}']"),
            Code::Conflict,
            "is Completed",
        ),
        ("after = ['ok:99']".into(), Code::NotFound, "there is none"),
        (
            format!("array = 2\nafter = ['corr:{first}']"),
            Code::BadRequest,
            "is none",
        ),
    ] {
        let applied = submit(&mut cluster, &lines);
        let refusal = applied.refusal().expect("refused");
        assert_eq!(refusal.code, code, "{lines}");
        assert!(refusal.message.contains(part), "{refusal}");
    }
    assert_eq!(cluster.state.digest(), before);
    // Nobody can name itself, or a later job: there is none yet.
    let next = cluster.job(job).id.counter + 1;
    let applied = submit(&mut cluster, &format!("after = ['ok:{next}']"));
    assert_eq!(
        applied.refusal().map(|refusal| refusal.code),
        Some(Code::NotFound)
    );
}

#[test]
fn no_start_comes_before_its_time() {
    let (mut cluster, first) = cluster();
    let waits = submitted(&mut cluster, &format!("after = ['any:{first}']"));
    let later = submitted(&mut cluster, "begin = '2999-01-01T00:00:00Z'");
    let starts = vec![cluster.start(waits, &["a"]), cluster.start(later, &["a"])];
    let Reply::Started { jobs, refused } = cluster.propose(starts).reply else {
        panic!("it is a plan");
    };
    assert_eq!((jobs.len(), refused.len()), (0, 2), "{refused:?}");
    assert!(refused[0].1.contains("waits for"), "{refused:?}");
    assert!(refused[1].1.contains("start time"), "{refused:?}");
}

#[test]
fn arrays_go_task_by_task() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    cluster.gpu_node("b", 1);
    let first = cluster.submitted_spec("ann", &array_spec("0-3", 0));
    let paired = JobSpec {
        array: ArraySpec::parse("0-3").ok(),
        ..after(&format!("array = 4\nafter = ['corr:{first}']"))
    };
    let second = cluster.submitted_spec("ann", &paired);
    let wave = cluster.wave(first, "a", 1, Ranges::span(0, 3));
    let epoch = wave.epoch;
    cluster.propose(vec![wave]);
    let start = cluster.wave(second, "b", 1, Ranges::span(0, 1));
    let refused = |cluster: &mut Cluster, start| match cluster.propose(vec![start]).reply {
        Reply::Started { refused, .. } => refused.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&mut cluster, start.clone()), 1, "nothing is ready");
    cluster.event("a", first, epoch, tasks_ended(0, Ranges::span(0, 1)));
    assert_eq!(refused(&mut cluster, start), 0, "two tasks are");
    cluster.event("a", first, epoch, tasks_ended(1, Ranges::span(2, 3)));
    cluster.event("a", first, epoch, ended(EndKind::Exited, 0));
    assert_eq!(cluster.job(first).state, JobState::Failed);
    let array = cluster.job(second).array.expect("an array");
    assert_eq!(array.cancelled, Ranges::span(2, 3), "their partners failed");
    let open = cluster.job(second).epoch().expect("it runs");
    cluster.event("b", second, open, tasks_ended(0, Ranges::span(0, 1)));
    cluster.event("b", second, open, ended(EndKind::Exited, 0));
    let job = cluster.job(second);
    let end = job.outcome.expect("it is over");
    assert_eq!(
        (job.state, end.kind),
        (JobState::Failed, EndKind::Cancelled)
    );
    assert!(!end.success());
}

#[test]
fn an_array_of_which_no_task_can_start_is_cancelled() {
    let mut cluster = Cluster::new();
    let first = cluster.submitted_spec("ann", &array_spec("0-3", 0));
    let second = submitted(
        &mut cluster,
        &format!("array = 4\nafter = ['corr:{first}']"),
    );
    cancel(&mut cluster, first);
    let job = cluster.job(second);
    assert_eq!(job.state, JobState::Cancelled);
    assert!(
        job.outcome
            .is_some_and(|end| end.detail.contains("no task"))
    );
    let refused = submit(
        &mut cluster,
        &format!("array = 4\nafter = ['corr:{first}']"),
    );
    assert_eq!(
        refused.refusal().map(|refusal| refusal.code),
        Some(Code::Conflict)
    );
}
