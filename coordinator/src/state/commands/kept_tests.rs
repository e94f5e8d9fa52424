//! Jobs that want no second attempt beside one that may still run.
use mlctl_proto::errors::Code;
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{JobSpec, OnDisconnect};

use crate::state::commands::{CancelJobs, DeclareNodeLost, Happening, LossProof, SubmitJob};
use crate::state::records::{EndKind, JobState, Liveness, RankExit, Reply};
use crate::state::testing::{Cluster, node, person, system};
use crate::state::{Applied, Body};

/// Three nodes with two GPUs each, and a job on the first `nodes` of them that runs.
fn running(policy: OnDisconnect, nodes: u32) -> (Cluster, JobId, Epoch) {
    let mut cluster = Cluster::new();
    let names = ["a", "b", "c"];
    names.iter().for_each(|name| cluster.gpu_node(name, 2));
    let mut spec = JobSpec::new(vec!["train".into()]);
    (spec.nodes, spec.gpus, spec.on_disconnect) = (nodes, 1, policy);
    let submit = Body::SubmitJob(SubmitJob {
        spec: spec.canonical_json(),
        code_manifest: String::new(),
        code_bytes: 0,
        traceparent: String::new(),
        submitter_uid: 0,
    });
    let Reply::Submitted { job } = cluster.run(person("ann", false), submit).reply else {
        panic!("it is a good job");
    };
    let epoch = cluster.started(job, &names[..nodes as usize]);
    cluster.running(job, epoch);
    (cluster, job, epoch)
}

fn lose(cluster: &mut Cluster, node: &str, proof: LossProof) -> Applied {
    let actor = match proof {
        LossProof::DeclaredByAdmin => person("root", true),
        _ => system(),
    };
    let body = Body::DeclareNodeLost(DeclareNodeLost {
        node: node.into(),
        boot_id: format!("boot-{node}"),
        proof,
    });
    cluster.run(actor, body)
}

fn state(cluster: &Cluster, job: JobId) -> JobState {
    cluster.job(job).state
}

#[test]
fn what_a_loss_makes_of_a_job_is_its_own_choice() {
    use JobState::{Pending, Running};
    use LossProof::{DeclaredByAdmin, LostAfter, Witness};
    for (policy, proof, after, open) in [
        (OnDisconnect::Replace, Witness, Pending, true),
        (OnDisconnect::Replace, LostAfter, Pending, true),
        (OnDisconnect::Replace, DeclaredByAdmin, Pending, false),
        (OnDisconnect::Fence, Witness, Running, true),
        (OnDisconnect::Fence, LostAfter, Pending, false),
        (OnDisconnect::Fence, DeclaredByAdmin, Pending, false),
        (OnDisconnect::Hold, Witness, Running, true),
        (OnDisconnect::Hold, LostAfter, Running, true),
        (OnDisconnect::Hold, DeclaredByAdmin, Pending, false),
    ] {
        let (mut cluster, job, epoch) = running(policy, 1);
        cluster.silence("a");
        assert_eq!(lose(&mut cluster, "a", proof).refusal(), None);
        let attempt = cluster.state.attempt(job, epoch).expect("it was started");
        assert_eq!(
            (state(&cluster, job), !attempt.closed(), attempt.in_doubt),
            (after, open, policy == OnDisconnect::Replace && open),
            "{policy:?} {proof:?}"
        );
        let liveness = cluster.state.node("a").map(|node| node.liveness);
        assert_eq!(liveness, Some(Liveness::Lost), "{policy:?} {proof:?}");
    }
}

#[test]
fn what_was_kept_ends_by_better_proof_or_goes_on() {
    for (policy, better) in [
        (OnDisconnect::Fence, LossProof::LostAfter),
        (OnDisconnect::Hold, LossProof::DeclaredByAdmin),
    ] {
        let (mut cluster, job, epoch) = running(policy, 1);
        lose(&mut cluster, "a", LossProof::Witness);
        lose(&mut cluster, "a", better);
        assert_eq!(state(&cluster, job), JobState::Pending, "{policy:?}");
        assert!(cluster.state.open_allocations_on("a").is_empty());
        let next = cluster.started(job, &["b"]);
        assert!(next > epoch);
        // The node is back, with the attempt that was closed: nothing that it says counts.
        cluster.register(&node("a", 2, "SIM"));
        cluster.ended("a", job, epoch, EndKind::Exited);
        assert_eq!(state(&cluster, job), JobState::Starting, "{policy:?}");
    }
    let (mut cluster, job, epoch) = running(OnDisconnect::Hold, 1);
    lose(&mut cluster, "a", LossProof::LostAfter);
    cluster.register(&node("a", 2, "SIM"));
    assert_eq!(state(&cluster, job), JobState::Running);
    cluster.ended("a", job, epoch, EndKind::Exited);
    assert_eq!(state(&cluster, job), JobState::Completed);
}

#[test]
fn another_boot_is_proof_for_everybody() {
    for policy in [OnDisconnect::Fence, OnDisconnect::Hold] {
        let (mut cluster, job, _) = running(policy, 1);
        lose(&mut cluster, "a", LossProof::Witness);
        let mut again = node("a", 2, "SIM");
        again.facts.boot_id = "boot-2".into();
        cluster.register(&again);
        assert_eq!(state(&cluster, job), JobState::Pending, "{policy:?}");
    }
}

#[test]
fn a_cancelled_job_keeps_nothing() {
    for first in [true, false] {
        let (mut cluster, job, _) = running(OnDisconnect::Hold, 2);
        let cancel = Body::CancelJobs(CancelJobs::of(vec![job]));
        if first {
            cluster.run(person("ann", false), cancel.clone());
        }
        lose(&mut cluster, "a", LossProof::LostAfter);
        if !first {
            assert_eq!(state(&cluster, job), JobState::Running, "the gang is kept");
            cluster.run(person("ann", false), cancel);
        }
        assert!(cluster.state.open_allocations_on("a").is_empty());
        assert_eq!(state(&cluster, job), JobState::Stopping, "b holds a device");
        let epoch = cluster.job(job).epoch().expect("it was started");
        cluster.ended("b", job, epoch, EndKind::Cancelled);
        assert_eq!(state(&cluster, job), JobState::Cancelled);
    }
}

/// Ranks fail when their peer is cut off; what would make the job start again must not free what the silent node runs.
#[test]
fn a_failing_peer_frees_nothing_on_a_silent_node() {
    let (mut cluster, job, epoch) = running(OnDisconnect::Hold, 2);
    lose(&mut cluster, "a", LossProof::LostAfter);
    let exit = RankExit {
        rank: 1,
        code: 1,
        signal: 0,
        killed_by_us: false,
        oom: None,
    };
    cluster.event("b", job, epoch, Happening::RankExited(exit));
    cluster.ended("b", job, epoch, EndKind::Exited);
    lose(&mut cluster, "a", LossProof::LostAfter);
    assert_eq!(state(&cluster, job), JobState::Stopping);
    assert_eq!(cluster.state.open_allocations_on("a").len(), 1);
    lose(&mut cluster, "a", LossProof::DeclaredByAdmin);
    assert_eq!(
        state(&cluster, job),
        JobState::Pending,
        "the loss explains it"
    );
}

#[test]
fn only_an_admin_declares_and_only_what_is_silent() {
    let (mut cluster, job, _) = running(OnDisconnect::Hold, 1);
    let body = |node: &str| {
        Body::DeclareNodeLost(DeclareNodeLost {
            node: node.into(),
            boot_id: format!("boot-{node}"),
            proof: LossProof::DeclaredByAdmin,
        })
    };
    let mut check = |actor, node: &str, code| {
        let applied = cluster.run(actor, body(node));
        assert_eq!(applied.refusal().map(|refusal| refusal.code), code);
    };
    check(person("root", true), "a", Some(Code::Conflict));
    check(person("root", true), "z", Some(Code::NotFound));
    check(person("ann", false), "a", Some(Code::Denied));
    check(system(), "a", Some(Code::Denied));
    cluster.silence("a");
    assert_eq!(cluster.run(person("root", true), body("a")).refusal(), None);
    assert_eq!(state(&cluster, job), JobState::Pending);
}
