//! Tests of StartAttempts: each precondition alone, and that the rest of a plan stands when a part of it is stale.
use mlctl_proto::spec::JobSpec;

use super::*;
use crate::state::Body;
use crate::state::records::{Admin, EndKind, Liveness};
use crate::state::testing::{Cluster, node, sealed, spec, system};

/// Two nodes with two GPUs each, and a pending job of two nodes with one GPU each.
fn cluster() -> (Cluster, JobId) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 2);
    cluster.gpu_node("b", 2);
    let job = cluster.submitted("ann", 2, 1);
    (cluster, job)
}

fn refused(cluster: &mut Cluster, start: StartAttempt) -> String {
    let before = cluster.state.attempts().count();
    match cluster.propose(vec![start]).reply {
        Reply::Started { jobs, mut refused } if jobs.is_empty() && refused.len() == 1 => {
            assert_eq!(cluster.state.attempts().count(), before, "all or nothing");
            refused.remove(0).1
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_start_commits_and_tells_every_node() {
    let (mut cluster, job) = cluster();
    let start = cluster.start(job, &["b", "a"]);
    let applied = cluster.propose(vec![start]);
    let epoch = Epoch::new(1, 1);
    let effect = |node: &str| Effect::Start {
        node: node.into(),
        job,
        epoch,
    };
    assert_eq!(
        applied.effects,
        [effect("b"), effect("a")],
        "in node-rank order"
    );
    assert_eq!(cluster.job(job).state, JobState::Starting);
    assert_eq!(cluster.state.device_holder("a", "a-0"), Some((job, epoch)));
    assert_eq!(cluster.state.open_allocations_on("b"), [(job, epoch)]);
    assert_eq!(cluster.state.pending().count(), 0);
}

#[test]
fn every_precondition_is_checked() {
    let check = |part: &str, spoil: fn(&mut StartAttempt)| {
        let (mut cluster, job) = cluster();
        let mut start = cluster.start(job, &["a", "b"]);
        spoil(&mut start);
        let why = refused(&mut cluster, start);
        assert!(why.contains(part), "{part}: {why}");
    };
    check("no such job", |start| start.job = JobId::new(1, 99));
    check("next epoch is 1, not 2", |start| start.epoch.counter = 2);
    check("next epoch is 1", |start| start.epoch.incarnation = 2);
    check("needs 2 nodes, the plan has 1", |start| {
        drop(start.placements.pop())
    });
    check("twice", |start| {
        start.placements[1] = start.placements[0].clone()
    });
    check("no node z", |start| start.placements[0].node = "z".into());
    check("booted again", |start| {
        start.placements[1].boot_id = "old".into()
    });
    check("needs 1 GPUs", |start| start.placements[0].devices.clear());
    check("needs 1 GPUs", |start| {
        start.placements[0].devices.push("a-1".into())
    });
    check("no device a-7", |start| {
        start.placements[0].devices[0] = "a-7".into()
    });
    check("no device b-0", |start| {
        start.placements[0].devices[0] = "b-0".into()
    });
    check("no node holds checkpoint step-1", |start| {
        start.resume_from = "step-1".into()
    });
}

#[test]
fn nodes_must_take_new_work() {
    type Spoil = fn(&mut crate::state::records::Node);
    let spoils: [(Spoil, &str); 3] = [
        (
            |node| node.liveness = Liveness::Unreachable,
            "takes no new work",
        ),
        (|node| node.admin = Admin::Cordoned, "takes no new work"),
        (
            |node| node.facts.devices[0].model = "NVIDIA A100".into(),
            "one model",
        ),
    ];
    for (spoil, part) in spoils {
        let (mut cluster, job) = cluster();
        let start = cluster.start(job, &["a", "b"]);
        let mut other = node("b", 2, "SIM");
        spoil(&mut other);
        cluster.plant(other);
        let why = refused(&mut cluster, start);
        assert!(why.contains(part), "{part}: {why}");
    }
}

#[test]
fn one_pool_one_model_and_the_type_that_was_asked_for() {
    let mut cluster = Cluster::new();
    let mut cloud = node("c", 2, "NVIDIA H100");
    cloud.facts.pool = "cloud".into();
    let mut mixed = node("m", 1, "NVIDIA H100");
    mixed
        .facts
        .devices
        .extend(node("n", 1, "NVIDIA A100").facts.devices);
    for node in [
        node("a", 2, "NVIDIA H100"),
        node("b", 2, "NVIDIA H100"),
        cloud,
        mixed,
    ] {
        cluster.register(&node);
    }
    let h100 = |nodes, gpus| JobSpec {
        gpu: vec!["H100".into()],
        ..spec(nodes, gpus)
    };
    let two = cluster.submitted_spec("ann", &h100(2, 1));
    let start = cluster.start(two, &["a", "c"]);
    assert!(refused(&mut cluster, start).contains("one pool"));
    let whole = cluster.submitted("ann", 1, 2);
    let start = cluster.start(whole, &["m"]);
    assert!(refused(&mut cluster, start).contains("different models"));
    let one = cluster.submitted_spec("ann", &h100(1, 1));
    let mut start = cluster.start(one, &["m"]);
    start.placements[0].devices = vec!["n-0".into()];
    assert!(refused(&mut cluster, start).contains("not of a type"));
    cluster.started(two, &["a", "b"]);
}

#[test]
fn the_rest_of_a_plan_stands() {
    let (mut cluster, first) = cluster();
    let second = cluster.submitted("bob", 1, 2);
    let third = cluster.submitted("bob", 1, 1);
    let starts = vec![
        cluster.start(first, &["a", "b"]),
        cluster.start(second, &["a"]),
        {
            let mut start = cluster.start(third, &["b"]);
            start.placements[0].devices = vec!["b-1".into()];
            start
        },
    ];
    let stale = starts.clone();
    match cluster.propose(starts).reply {
        Reply::Started { jobs, refused } => {
            assert_eq!(jobs, [first, third]);
            assert_eq!(refused.len(), 1);
            assert!(
                refused[0].0 == second && refused[0].1.contains("held by job 1"),
                "{refused:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    match cluster.propose(stale).reply {
        Reply::Started { jobs, refused } => assert_eq!(
            (jobs.len(), refused.len()),
            (0, 3),
            "the same plan again starts nothing"
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn ranks_without_gpus_share_a_node_up_to_a_bound() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 0);
    let wide = cluster.submitted_spec(
        "ann",
        &JobSpec {
            ranks: Some(12),
            ..spec(1, 0)
        },
    );
    let next = cluster.submitted_spec(
        "ann",
        &JobSpec {
            ranks: Some(5),
            ..spec(1, 0)
        },
    );
    let small = cluster.submitted_spec(
        "ann",
        &JobSpec {
            ranks: Some(4),
            ..spec(1, 0)
        },
    );
    let epoch = cluster.started(wide, &["a"]);
    let start = cluster.start(next, &["a"]);
    assert_eq!(refused(&mut cluster, start), "node a runs 12 ranks already");
    cluster.started(small, &["a"]);
    assert_eq!(cluster.state.cpu_ranks_on("a"), 16);
    cluster.ended("a", wide, epoch, EndKind::Exited);
    assert_eq!(cluster.state.cpu_ranks_on("a"), 4);
    cluster.started(next, &["a"]);
}

#[test]
fn a_resume_needs_a_checkpoint_and_its_holder() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.gpu_node(name, 1);
    }
    let job = cluster.submitted("ann", 1, 1);
    let epoch = cluster.started(job, &["a"]);
    cluster.event("a", job, epoch, sealed("step-10", 10));
    cluster.event("a", job, epoch, sealed("step-20", 20));
    cluster.ended("a", job, epoch, EndKind::KeeperLost);
    let start = |cluster: &Cluster, node: &str, from: &str| StartAttempt {
        resume_from: from.into(),
        ..cluster.start(job, &[node])
    };
    for (node, from, part) in [
        ("a", "", "has a checkpoint"),
        ("b", "step-20", "rank 0 is not on a node"),
        ("a", "step-30", "rank 0 is not on a node"),
    ] {
        let start = start(&cluster, node, from);
        let why = refused(&mut cluster, start);
        assert!(why.contains(part), "{part}: {why}");
    }
    let lost = super::super::DeclareNodeLost {
        node: "a".into(),
        boot_id: "boot-a".into(),
        proof: super::super::LossProof::LostAfter,
    };
    let mut without = cluster.clone();
    without.run(system(), Body::DeclareNodeLost(lost));
    let stale = start(&without, "b", "step-20");
    assert!(refused(&mut without, stale).contains("no node holds"));
    let fresh = start(&without, "b", "");
    assert!(
        matches!(without.propose(vec![fresh]).reply, Reply::Started { refused, .. } if refused.is_empty())
    );

    let older = start(&cluster, "a", "step-10");
    assert!(
        matches!(cluster.propose(vec![older]).reply, Reply::Started { refused, .. } if refused.is_empty())
    );
}

#[test]
fn only_a_leader_starts_jobs() {
    let (mut cluster, job) = cluster();
    let starts = vec![cluster.start(job, &["a", "b"])];
    let applied = cluster.run(
        crate::state::testing::person("root", true),
        Body::StartAttempts(StartAttempts { starts }),
    );
    assert_eq!(
        applied.refusal().map(|refusal| refusal.code),
        Some(mlctl_proto::errors::Code::Denied)
    );
}
