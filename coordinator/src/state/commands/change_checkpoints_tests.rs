//! Tests of what a person does with checkpoints.
use mlctl_proto::ids::Epoch;
use mlctl_proto::spec::{CheckpointSpec, JobSpec};

use super::*;
use crate::state::commands::{
    ArchiveJobs, CancelJobs, Happening, IdempotencyKey, PartOf, RetryJobs, SealedPart,
};
use crate::state::records::{EndKind, PartKey};
use crate::state::testing::{Cluster, command, person, spec, system};
use crate::state::{Applied, Body, Effect};
use CheckpointAction::{Pin, Remove, Unpin};

const MANIFEST: [u8; 32] = [7; 32];

fn body(job: JobId, names: &[&str], action: CheckpointAction) -> Body {
    let named = |name: &&str| NamedCheckpoint {
        name: (*name).into(),
        attempt: 0,
    };
    Body::ChangeCheckpoints(ChangeCheckpoints {
        job,
        which: names.iter().map(named).collect(),
        action,
    })
}

fn of_attempt(job: JobId, (name, attempt): (&str, u64), action: CheckpointAction) -> Body {
    let name = name.into();
    Body::ChangeCheckpoints(ChangeCheckpoints {
        job,
        which: vec![NamedCheckpoint { name, attempt }],
        action,
    })
}

fn made(cluster: &mut Cluster, job: JobId, epoch: Epoch, step: u64) {
    let sealed = SealedPart {
        name: format!("step-{step}"),
        step,
        part: Some(PartOf {
            index: 0,
            manifest: Some(MANIFEST),
            bytes: 10,
        }),
        parts: 1,
        metric: None,
        save_ms: 0,
    };
    cluster.event("a", job, epoch, Happening::CheckpointSealed(sealed));
}

/// A job that runs on node `a` and made three checkpoints; its rules keep many.
fn running() -> (Cluster, JobId, Epoch) {
    running_with(64)
}

fn running_with(keep_last: u32) -> (Cluster, JobId, Epoch) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    let spec = JobSpec {
        checkpoint: Some(CheckpointSpec {
            keep_last: Some(keep_last),
            ..CheckpointSpec::default()
        }),
        ..spec(1, 1)
    };
    let job = cluster.submitted_spec("ann", &spec);
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    for step in [1, 2, 3] {
        made(&mut cluster, job, epoch, step);
    }
    (cluster, job, epoch)
}

fn names(cluster: &Cluster, job: JobId) -> Vec<String> {
    let list = cluster.job(job).checkpoints;
    let text = |one: &Checkpoint| match one.pinned {
        true => format!("{}!", one.name),
        false => one.name.clone(),
    };
    list.iter().map(text).collect()
}

fn by_ann(cluster: &mut Cluster, body: Body) -> Applied {
    cluster.run(person("ann", false), body)
}

fn refused(applied: &Applied, code: Code, words: &str) {
    let refusal = applied.refusal().expect(words);
    assert_eq!(refusal.code, code, "{refusal}");
    assert!(refusal.message.contains(words), "{refusal}");
}

#[test]
fn what_is_pinned_stays_until_it_is_unpinned() {
    let (mut cluster, job, epoch) = running_with(3);
    assert_eq!(
        by_ann(&mut cluster, body(job, &["step-1"], Pin)).reply,
        Reply::Done
    );
    for step in 4..20 {
        made(&mut cluster, job, epoch, step);
    }
    let kept = names(&cluster, job);
    assert_eq!(kept.first().map(String::as_str), Some("step-1!"));
    let applied = by_ann(&mut cluster, body(job, &["step-1"], Unpin));
    let key = PartKey {
        job,
        epoch,
        name: "step-1".into(),
        index: 0,
        manifest: MANIFEST,
    };
    let forget = Effect::Forget {
        node: "a".into(),
        parts: vec![key],
    };
    assert!(applied.effects.contains(&forget), "{:?}", applied.effects);
    assert_eq!(names(&cluster, job), kept[1..]);
}

#[test]
fn what_is_removed_is_forgotten_by_its_holders() {
    let (mut cluster, job, epoch) = running();
    let applied = by_ann(
        &mut cluster,
        body(job, &["step-2", "step-1", "step-1"], Remove),
    );
    assert_eq!(applied.reply, Reply::Done);
    let forgotten = applied.effects.iter().find_map(|effect| match effect {
        Effect::Forget { node, parts } if node == "a" => Some(parts.clone()),
        _ => None,
    });
    let forgotten = forgotten.expect("the holder is told");
    let gone: Vec<&str> = forgotten.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(gone, ["step-1", "step-2"]);
    assert!(forgotten.iter().all(|key| key.epoch == epoch));
    assert_eq!(names(&cluster, job), ["step-3"]);
}

#[test]
fn what_a_job_needs_is_not_removed() {
    let (mut cluster, job, epoch) = running();
    let applied = by_ann(&mut cluster, body(job, &["step-3"], Remove));
    refused(
        &applied,
        Code::Conflict,
        "is the newest of job 1, which is not over",
    );
    by_ann(&mut cluster, body(job, &["step-2"], Pin));
    let applied = by_ann(&mut cluster, body(job, &["step-1", "step-2"], Remove));
    refused(
        &applied,
        Code::Conflict,
        "`mlctl checkpoint unpin 1 step-2` first",
    );
    assert_eq!(
        names(&cluster, job),
        ["step-1", "step-2!", "step-3"],
        "all or nothing"
    );

    cluster.ended("a", job, epoch, EndKind::Preempted);
    let next = cluster.started(job, &["a"]);
    cluster.running(job, next);
    made(&mut cluster, job, next, 4);
    let applied = by_ann(&mut cluster, body(job, &["step-3"], Remove));
    refused(
        &applied,
        Code::Conflict,
        "job 1 has resumed from checkpoint step-3",
    );
    // Its own of that name is another one.
    made(&mut cluster, job, next, 3);
    made(&mut cluster, job, next, 5);
    let own = of_attempt(job, ("step-3", 2), Remove);
    assert_eq!(by_ann(&mut cluster, own).reply, Reply::Done);
    let applied = by_ann(&mut cluster, of_attempt(job, ("step-3", 1), Remove));
    refused(&applied, Code::Conflict, "still runs");

    cluster.ended("a", job, next, EndKind::Exited);
    assert!(cluster.job(job).state.terminal());
    let applied = by_ann(
        &mut cluster,
        body(job, &["step-1", "step-3", "step-4", "step-5"], Remove),
    );
    assert_eq!(applied.reply, Reply::Done, "nothing needs them any more");
    assert_eq!(names(&cluster, job), ["step-2!"]);
}

#[test]
fn what_another_try_goes_on_from_is_not_removed() {
    let (mut cluster, job, epoch) = running();
    cluster.ended("a", job, epoch, EndKind::Exited);
    let retry = Body::RetryJobs(RetryJobs { jobs: vec![job] });
    by_ann(&mut cluster, retry);
    let again = JobId::new(1, 2);
    let applied = by_ann(&mut cluster, body(job, &["step-3"], Remove));
    refused(
        &applied,
        Code::Conflict,
        "job 2, which is not over, goes on from it",
    );
    let mut start = cluster.start(again, &["a"]);
    start.resume_from = "step-3".into();
    let next = start.epoch;
    cluster.propose(vec![start]);
    cluster.running(again, next);
    made(&mut cluster, again, next, 9);
    let applied = by_ann(&mut cluster, body(job, &["step-3"], Remove));
    refused(
        &applied,
        Code::Conflict,
        "job 2 has resumed from checkpoint step-3 of job 1",
    );
    cluster.ended("a", again, next, EndKind::Exited);
    let applied = by_ann(
        &mut cluster,
        body(job, &["step-1", "step-2", "step-3"], Remove),
    );
    assert_eq!(applied.reply, Reply::Done);
    assert!(names(&cluster, job).is_empty());
    let applied = by_ann(&mut cluster, body(job, &["step-3"], Pin));
    refused(&applied, Code::NotFound, "it has none");
}

#[test]
fn one_name_of_several_attempts() {
    let (mut cluster, job, epoch) = running();
    cluster.ended("a", job, epoch, EndKind::Preempted);
    let next = cluster.started(job, &["a"]);
    cluster.running(job, next);
    for step in [1, 4] {
        made(&mut cluster, job, next, step);
    }
    by_ann(&mut cluster, body(job, &["step-1"], Pin));
    assert_eq!(
        names(&cluster, job),
        ["step-1", "step-2", "step-3", "step-1!", "step-4"],
        "the newest"
    );
    by_ann(&mut cluster, of_attempt(job, ("step-1", 1), Pin));
    by_ann(&mut cluster, body(job, &["step-1"], Unpin));
    assert_eq!(
        names(&cluster, job),
        ["step-1", "step-2", "step-3", "step-1", "step-4"]
    );
    let applied = by_ann(&mut cluster, of_attempt(job, ("step-4", 1), Remove));
    refused(
        &applied,
        Code::NotFound,
        "no checkpoint step-4 that attempt 1 made: it has step-4 of attempt 2, step-1 of attempt 2",
    );
    by_ann(&mut cluster, body(job, &["step-1"], Remove));
    assert_eq!(names(&cluster, job), ["step-2", "step-3", "step-4"]);
}

#[test]
fn only_owners_and_admins_and_only_what_there_is() {
    let (mut cluster, job, _) = running();
    let evil = format!("step-\x1b[2J{}", "x".repeat(500));
    let many = vec!["step-1"; NAMES_MAX + 1];
    let long = "it has step-3, step-2, step-1";
    for (actor, body, code, words) in [
        (
            person("bob", false),
            body(job, &["step-1"], Pin),
            Code::Denied,
            "belongs to ann",
        ),
        (
            system(),
            body(job, &["step-1"], Pin),
            Code::Denied,
            "only a person",
        ),
        (
            person("ann", false),
            body(job, &[], Pin),
            Code::BadRequest,
            "name 1 to",
        ),
        (
            person("ann", false),
            body(job, &many, Pin),
            Code::BadRequest,
            "name 1 to",
        ),
        (
            person("ann", false),
            body(job, &["step-1", "step-9"], Pin),
            Code::NotFound,
            long,
        ),
        (
            person("ann", false),
            body(job, &[&evil], Pin),
            Code::NotFound,
            long,
        ),
        (
            person("ann", false),
            body(JobId::new(1, 9), &["x"], Pin),
            Code::NotFound,
            "no job 9",
        ),
    ] {
        let applied = cluster.run(actor, body);
        refused(&applied, code, words);
        let refusal = applied.refusal().expect("refused");
        assert!(
            refusal.message.len() < 400 && !refusal.message.contains('\x1b'),
            "{refusal}"
        );
        assert_eq!(names(&cluster, job), ["step-1", "step-2", "step-3"]);
    }
    let applied = cluster.run(person("root", true), body(job, &["step-1"], Pin));
    assert_eq!(applied.reply, Reply::Done, "an admin may");
}

#[test]
fn what_is_history_stays_as_it_is() {
    let (mut cluster, job, epoch) = running();
    cluster.ended("a", job, epoch, EndKind::Exited);
    // Two stay in memory: the third to end sends the first into history.
    for _ in 0..2 {
        let job = cluster.submitted("ann", 1, 1);
        by_ann(&mut cluster, Body::CancelJobs(CancelJobs::of(vec![job])));
    }
    cluster.run(system(), Body::ArchiveJobs(ArchiveJobs { most: 9 }));
    let applied = by_ann(&mut cluster, body(job, &["step-1"], Remove));
    refused(&applied, Code::Conflict, "ended long ago");
}

#[test]
fn many_checkpoints_are_not_all_listed_and_a_request_counts_once() {
    let (mut cluster, job, epoch) = running();
    for step in 4..12 {
        made(&mut cluster, job, epoch, step);
        by_ann(&mut cluster, body(job, &[&format!("step-{step}")], Pin));
    }
    let count = cluster.job(job).checkpoints.len();
    assert!(count > LISTED_MAX, "there are many");
    let applied = by_ann(&mut cluster, body(job, &["x"], Unpin));
    refused(
        &applied,
        Code::NotFound,
        &format!("the newest of its {count} are step-11, "),
    );
    refused(
        &applied,
        Code::NotFound,
        "`mlctl checkpoint ls 1` lists all",
    );

    let unpin = body(job, &["step-4"], Unpin);
    let mut asked = command(person("ann", false), cluster.now_ms, unpin);
    asked.key = Some(IdempotencyKey {
        uuid: [1; 16],
        request_hash: [2; 32],
    });
    assert_eq!(cluster.apply(&asked).reply, Reply::Done);
    by_ann(&mut cluster, body(job, &["step-4"], Pin));
    let before = names(&cluster, job);
    assert_eq!(cluster.apply(&asked).reply, Reply::Done);
    assert_eq!(
        names(&cluster, job),
        before,
        "it was answered, not done again"
    );
}
