//! Tests of who may have which checkpoint uploaded, and where to.
use mlctl_proto::spec::{CheckpointSpec, JobSpec};

use super::*;
use crate::state::commands::{Happening, PartOf, SealedPart};
use crate::state::testing::{Cluster, person as actor};

const OWN: &str = "s3://runs/a";

fn request() -> UploadCheckpointRequest {
    UploadCheckpointRequest {
        job: "1".into(),
        attempt: 1,
        name: "step-1".into(),
        url: String::new(),
    }
}

fn person(name: &str, admin: bool) -> Person {
    Person {
        actor: actor(name, admin),
        forwarded: false,
        source: "test".into(),
    }
}

/// A job of ann that has saved `part` as step-1.
fn saved(upload: Option<&str>, part: Option<PartOf>) -> (Cluster, JobId) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let spec = JobSpec {
        gpus: 1,
        checkpoint: Some(CheckpointSpec {
            upload: upload.map(str::to_owned),
            ..CheckpointSpec::default()
        }),
        ..JobSpec::new(vec!["true".into()])
    };
    let job = cluster.submitted_spec("ann", &spec);
    let epoch = cluster.started(job, &["a"]);
    let sealed = SealedPart {
        name: "step-1".into(),
        step: 1,
        part,
        parts: 1,
        metric: None,
        save_ms: 0,
    };
    cluster.event("a", job, epoch, Happening::CheckpointSealed(sealed));
    (cluster, job)
}

fn part() -> Option<PartOf> {
    Some(PartOf {
        index: 0,
        manifest: Some([1; 32]),
        bytes: 7,
    })
}

#[test]
fn owners_and_admins_have_their_checkpoints_uploaded() {
    let (cluster, job) = saved(Some(OWN), part());
    let told = |name: &str, admin, request: &UploadCheckpointRequest| {
        let asked = asked(&cluster.state, &person(name, admin), job, request);
        let told = asked.map(|asked| (asked.checkpoint.name, asked.store.url));
        told.map_err(|refusal| refusal.code)
    };
    let good = Ok(("step-1".to_owned(), OWN.to_owned()));
    assert_eq!(told("ann", false, &request()), good);
    assert_eq!(told("root", true, &request()), good);
    assert_eq!(told("bob", false, &request()), Err(Code::Denied));
    for gone in [
        UploadCheckpointRequest {
            attempt: 2,
            ..request()
        },
        UploadCheckpointRequest {
            name: "step-2".into(),
            ..request()
        },
    ] {
        assert_eq!(told("ann", false, &gone), Err(Code::NotFound));
    }
    let none = asked(
        &cluster.state,
        &person("ann", false),
        JobId::new(1, 9),
        &request(),
    );
    assert_eq!(none.expect_err("there is none").code, Code::NotFound);
}

#[test]
fn what_was_never_sealed_is_refused() {
    let (cluster, job) = saved(Some(OWN), None);
    let refusal = asked(&cluster.state, &person("ann", false), job, &request());
    let refusal = refusal.expect_err("only a directory");
    assert_eq!(refusal.code, Code::Conflict);
    assert!(refusal.message.contains("on a "), "{}", refusal.message);
}

#[test]
fn the_store_is_the_specs_or_the_one_that_is_named() {
    let id = JobId::new(1, 1);
    let to = |url: &str, elsewhere| Store {
        url: url.to_owned(),
        elsewhere,
    };
    for (of_spec, named, wanted) in [
        (Some(OWN), "", to(OWN, false)),
        (Some(OWN), OWN, to(OWN, false)),
        (Some(OWN), "s3://runs/a/", to(OWN, false)),
        (Some(OWN), "s3://runs/b", to("s3://runs/b", true)),
        (Some(OWN), "gs://runs/a", to("gs://runs/a", true)),
        (None, "file:///mnt/a", to("file:///mnt/a", true)),
    ] {
        let store = store(id, of_spec, named);
        assert_eq!(store.expect("a good one"), wanted, "{of_spec:?} {named}");
    }
    let refusal = store(id, None, "").expect_err("nowhere");
    assert_eq!(refusal.code, Code::BadRequest);
    for word in ["`--to s3://", "upload = ", "[checkpoint]"] {
        assert!(refusal.message.contains(word), "{}", refusal.message);
    }
}

#[test]
fn a_url_that_may_hold_a_secret_is_refused_and_not_repeated() {
    for url in [
        "s3://me:hunter2@runs/a",
        "s3://runs/a?X-Amz-Signature=hunter2",
        "https://hunter2/a",
        "file:///../hunter2",
        "hunter2",
        "s3://runs/hunter2\u{1b}[2J",
    ] {
        let refusal = store(JobId::new(1, 1), Some(OWN), url).expect_err(url);
        assert_eq!(refusal.code, Code::BadRequest, "{url}");
        let text = refusal.message;
        assert!(!text.contains("hunter2"), "{text}");
    }
}
