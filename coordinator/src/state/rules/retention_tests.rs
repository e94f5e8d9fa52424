//! What stays and what goes, rule by rule.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{CheckpointSpec, JobSpec, KeepBest, KeepEvery};

use super::{dropped, next_to_upload};
use crate::state::commands::{CopyNews, Happening, PartOf, SealedPart};
use crate::state::testing::Cluster;

struct Made {
    step: u64,
    /// On another node too.
    copied: bool,
    metric: Option<u64>,
}

fn made(step: u64) -> Made {
    Made {
        step,
        copied: true,
        metric: None,
    }
}

fn cluster(rules: CheckpointSpec) -> (Cluster, JobId, Epoch) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    cluster.gpu_node("b", 1);
    let mut spec = JobSpec::new(vec!["train".into()]);
    spec.gpus = 1;
    spec.checkpoint = Some(rules);
    let job = cluster.submitted_spec("ann", &spec);
    let epoch = cluster.started(job, &["a"]);
    cluster.running(job, epoch);
    (cluster, job, epoch)
}

/// The steps that are left after these were made, one a minute.
fn left(rules: CheckpointSpec, all: &[Made]) -> Vec<u64> {
    let (mut cluster, job, epoch) = cluster(rules);
    for one in all {
        make(&mut cluster, (job, epoch), one);
    }
    steps(&cluster, job)
}

fn make(cluster: &mut Cluster, (job, epoch): (JobId, Epoch), one: &Made) {
    cluster.now_ms += 60_000;
    let mut manifest = [0; 32];
    manifest[..8].copy_from_slice(&one.step.to_be_bytes());
    let sealed = SealedPart {
        name: format!("step-{}", one.step),
        step: one.step,
        part: Some(PartOf {
            index: 0,
            manifest: Some(manifest),
            bytes: 9,
        }),
        parts: 1,
        metric: one.metric,
        save_ms: 0,
    };
    cluster.event("a", job, epoch, Happening::CheckpointSealed(sealed.clone()));
    if one.copied {
        cluster.copy("b", (job, epoch), CopyNews::Held(sealed));
    }
}

fn steps(cluster: &Cluster, job: JobId) -> Vec<u64> {
    let checkpoints = cluster.job(job).checkpoints;
    checkpoints.iter().map(|one| one.step).collect()
}

fn many(steps: impl IntoIterator<Item = u64>) -> Vec<Made> {
    steps.into_iter().map(made).collect()
}

#[test]
fn the_newest_stay() {
    assert_eq!(left(CheckpointSpec::default(), &many(1..=6)), [4, 5, 6]);
    let one = CheckpointSpec {
        keep_last: Some(1),
        ..CheckpointSpec::default()
    };
    assert_eq!(left(one, &many(1..=6)), [6]);
}

#[test]
fn every_so_many_steps_one_stays() {
    let rules = CheckpointSpec {
        keep_every: Some(KeepEvery::Steps(4)),
        ..CheckpointSpec::default()
    };
    assert_eq!(left(rules, &many(1..=10)), [4, 8, 10]);
    // The first made in each stretch of five minutes.
    let rules = CheckpointSpec {
        keep_every: Some(KeepEvery::Ms(300_000)),
        ..CheckpointSpec::default()
    };
    assert_eq!(left(rules, &many(1..=12)).len(), 4);
}

#[test]
fn the_best_stay() {
    let best = |text| CheckpointSpec {
        keep_best: Some(KeepBest::parse(text).expect("a rule")),
        ..CheckpointSpec::default()
    };
    let all: Vec<Made> = [(1, 50), (2, 10), (3, 40), (4, 20), (5, 30)]
        .map(|(step, metric)| Made {
            metric: Some(metric),
            ..made(step)
        })
        .into();
    assert_eq!(left(best("loss:min:2"), &all), [2, 4, 5]);
    assert_eq!(left(best("loss:max:1"), &all), [1, 5]);
    assert_eq!(
        left(best("loss:max:1"), &many(1..=4)),
        [4],
        "nobody measured"
    );
}

#[test]
fn the_newest_durable_one_stays_until_a_newer_one_is() {
    let rules = CheckpointSpec {
        keep_last: Some(1),
        ..CheckpointSpec::default()
    };
    let local = |step| Made {
        copied: false,
        ..made(step)
    };
    let all = [made(1), made(2), local(3), local(4)];
    // The oldest that came after it stays too, so that its copy can be finished.
    assert_eq!(left(rules.clone(), &all), [2, 3, 4]);
    let faster = [made(1), local(2), local(3), local(4), local(5)];
    assert_eq!(left(rules.clone(), &faster), [1, 2, 5]);
    let none = CheckpointSpec {
        replicas: 0,
        ..rules
    };
    assert_eq!(left(none, &all), [4], "no copies are wanted");
}

#[test]
fn pinned_ones_stay_and_the_newest_does_whatever_happens() {
    let (mut cluster, job, epoch) = cluster(CheckpointSpec {
        keep_last: Some(1),
        ..CheckpointSpec::default()
    });
    make(&mut cluster, (job, epoch), &made(1));
    let mut pinned = cluster.job(job);
    pinned.checkpoints[0].pinned = true;
    for step in 2..=90 {
        pinned.checkpoints.push(crate::state::records::Checkpoint {
            step,
            name: format!("step-{step}"),
            ..pinned.checkpoints[0].clone()
        });
    }
    let gone = dropped(&cluster.state, &pinned);
    // Pinned ones too, where there are more than a job may have; never the newest.
    assert_eq!(gone.len(), 26);
    assert_eq!(gone.last(), Some(&25));
    assert!(!gone.contains(&89));
}

/// Its last part comes too late to matter.
#[test]
fn what_newer_ones_have_overtaken_goes_before_it_is_whole() {
    let (mut cluster, job, epoch) = cluster(CheckpointSpec::default());
    for step in 2..=4 {
        make(&mut cluster, (job, epoch), &made(step));
    }
    let mut record = cluster.job(job);
    let half = |step| crate::state::records::Checkpoint {
        step,
        name: format!("step-{step}"),
        whole: 2,
        ..record.checkpoints[0].clone()
    };
    let (older, newer) = (half(1), half(5));
    record.checkpoints.insert(0, older);
    record.checkpoints.push(newer);
    assert_eq!(dropped(&cluster.state, &record), [0].into());
    record.checkpoints.remove(1);
    assert_eq!(
        dropped(&cluster.state, &record),
        [].into(),
        "two are not enough"
    );
}

/// With `keep_last = 1` and no copies only what the store has survives the node.
#[test]
fn the_newest_uploaded_one_stays_and_so_does_the_next_that_will_be() {
    let rules = CheckpointSpec {
        replicas: 0,
        keep_last: Some(1),
        upload: Some("s3://runs/a".into()),
        ..CheckpointSpec::default()
    };
    let (mut cluster, job, epoch) = cluster(rules);
    let save = |cluster: &mut Cluster, step| {
        let copied = false;
        make(
            cluster,
            (job, epoch),
            &Made {
                copied,
                ..made(step)
            },
        );
    };
    let upload = |cluster: &mut Cluster, step: u64| {
        let mut manifest = [0; 32];
        manifest[..8].copy_from_slice(&step.to_be_bytes());
        let news = CopyNews::Uploaded {
            name: format!("step-{step}"),
            index: 0,
            manifest,
        };
        cluster.copy("a", (job, epoch), news);
    };
    for step in 1..=4 {
        save(&mut cluster, step);
    }
    assert_eq!(steps(&cluster, job), [1, 4], "1 is on its way");
    upload(&mut cluster, 1);
    for step in 5..=6 {
        save(&mut cluster, step);
    }
    assert_eq!(steps(&cluster, job), [1, 4, 6], "1 is there, 4 on its way");
    upload(&mut cluster, 6);
    assert_eq!(steps(&cluster, job), [6]);
    // What no living node has is waited for by nobody.
    for step in 7..=8 {
        save(&mut cluster, step);
    }
    assert_eq!(steps(&cluster, job), [6, 7, 8]);
    assert_eq!(
        next_to_upload(&cluster.state, &cluster.job(job).checkpoints),
        Some(1)
    );
    cluster.lose("a");
    assert_eq!(
        next_to_upload(&cluster.state, &cluster.job(job).checkpoints),
        None
    );
}

#[test]
fn of_those_that_will_never_be_whole_few_stay() {
    let rules = CheckpointSpec {
        keep_every: Some(KeepEvery::Steps(1_000)),
        ..CheckpointSpec::default()
    };
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    cluster.gpu_node("b", 1);
    let mut spec = JobSpec::new(vec!["train".into()]);
    (spec.gpus, spec.nodes, spec.checkpoint) = (1, 2, Some(rules));
    let job = cluster.submitted_spec("ann", &spec);
    let epoch = cluster.started(job, &["a", "b"]);
    cluster.running(job, epoch);
    for step in 1..=20_u8 {
        let sealed = SealedPart {
            name: format!("step-{step}"),
            step: step.into(),
            part: Some(PartOf {
                index: 0,
                manifest: Some([step; 32]),
                bytes: 9,
            }),
            parts: 2,
            metric: None,
            save_ms: 0,
        };
        cluster.event("a", job, epoch, Happening::CheckpointSealed(sealed));
    }
    assert_eq!(steps(&cluster, job), Vec::from_iter(13..=20));
}
