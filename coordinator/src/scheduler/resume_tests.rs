//! Tests of resuming: rank 0 goes where the checkpoint is, and a job does not give up work that may still come back.
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::{CheckpointSpec, JobSpec, OnDisconnect};

use super::*;
use crate::state::records::{EndKind, Reply};
use crate::state::testing::{Cluster, sealed, spec};

/// A job that sealed `step-10` on `a` and `b` and `step-20` on `b`, and waits to start again; `c` is a spare.
fn interrupted() -> (Cluster, JobId) {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.gpu_node(name, 1);
    }
    let job = cluster.submitted("ann", 2, 1);
    let epoch = cluster.started(job, &["a", "b"]);
    for (name, step) in [("a", 10), ("b", 10), ("b", 20)] {
        cluster.event(name, job, epoch, sealed(&format!("step-{step}"), step));
    }
    cluster.ended("a", job, epoch, EndKind::Preempted);
    cluster.ended("b", job, epoch, EndKind::Preempted);
    (cluster, job)
}

fn view(cluster: &Cluster, heard: &[&str]) -> ClusterView {
    let heard = heard.iter().map(|name| (*name).to_owned()).collect();
    ClusterView::new(cluster.state.clone(), heard)
}

/// The job starts on `nodes`, in node-rank order, from the checkpoint `from`; apply agrees.
fn starts(spoil: &dyn Fn(&mut Cluster), heard: &[&str], nodes: &[&str], from: &str) {
    let (mut cluster, job) = interrupted();
    spoil(&mut cluster);
    let plan = plan(&view(&cluster, heard), 0);
    let start = plan
        .starts
        .iter()
        .find(|start| start.job == job)
        .expect("it starts");
    let placed: Vec<&str> = start
        .placements
        .iter()
        .map(|one| one.node.as_str())
        .collect();
    assert_eq!(
        (placed.as_slice(), start.resume_from.as_str()),
        (nodes, from)
    );
    let reply = cluster.propose(plan.starts).reply;
    assert!(
        matches!(&reply, Reply::Started { refused, .. } if refused.is_empty()),
        "{reply:?}"
    );
}

/// The job waits for that reason, in the plan and in words.
fn waits(spoil: &dyn Fn(&mut Cluster), heard: &[&str], reason: &Reason) {
    let (mut cluster, job) = interrupted();
    spoil(&mut cluster);
    let view = view(&cluster, heard);
    assert_eq!(plan(&view, 0).explanations.get(&job), Some(reason));
    assert_eq!(explain(&view, job, 0), std::slice::from_ref(reason));
}

const ALL: [&str; 4] = ["a", "b", "c", "d"];

fn out(name: &str) -> Reason {
    Reason::NodeUnhealthy {
        nodes: vec![name.into()],
        holds: Some("step-20".into()),
    }
}

#[test]
fn from_the_newest_checkpoint_on_its_holder() {
    starts(&|_| {}, &ALL, &["b", "a"], "step-20");
}

#[test]
fn a_lost_holder_is_given_up() {
    starts(&|cluster| cluster.lose("b"), &ALL, &["a", "c"], "step-10");
    let both = |cluster: &mut Cluster| {
        cluster.lose("a");
        cluster.lose("b");
        cluster.gpu_node("d", 1);
    };
    starts(&both, &ALL, &["c", "d"], "");
}

#[test]
fn a_silent_holder_is_waited_for_unless_another_checkpoint_has_one() {
    starts(
        &|cluster| cluster.silence("b"),
        &ALL,
        &["a", "c"],
        "step-10",
    );
    let both = |cluster: &mut Cluster| {
        cluster.silence("a");
        cluster.silence("b");
        cluster.gpu_node("d", 1);
    };
    waits(&both, &ALL, &out("b"));
}

#[test]
fn a_holder_that_a_new_leader_has_not_heard_yet_is_waited_for() {
    waits(&|_| {}, &["a", "c"], &out("b"));
}

#[test]
fn a_full_holder_is_waited_for() {
    let full = |cluster: &mut Cluster| {
        cluster.gpu_node("d", 1);
        for name in ["a", "b"] {
            let other = cluster.submitted("bob", 1, 1);
            cluster.started(other, &[name]);
        }
    };
    let reason = Reason::HolderFull {
        checkpoint: "step-20".into(),
        nodes: vec!["b".into()],
        gpus: 1,
    };
    waits(&full, &ALL, &reason);
}

/// Whatever becomes of `c`, which wrote it as rank 0: any node will do, and nobody waits.
#[test]
fn what_every_node_sees_draws_rank_0_nowhere() {
    let spoils: [&dyn Fn(&mut Cluster); 3] =
        [&|_| {}, &|cluster| cluster.silence("c"), &|cluster| {
            cluster.lose("c")
        }];
    for spoil in spoils {
        let mut cluster = Cluster::new();
        for name in ["a", "b", "c"] {
            cluster.gpu_node(name, 1);
        }
        let rules = CheckpointSpec {
            shared: true,
            replicas: 0,
            ..CheckpointSpec::in_dir("/nfs/a")
        };
        let asked = JobSpec {
            checkpoint: Some(rules),
            on_disconnect: OnDisconnect::Fence,
            ..spec(2, 1)
        };
        let job = cluster.submitted_spec("ann", &asked);
        let epoch = cluster.started(job, &["c", "b"]);
        for step in [10, 20] {
            cluster.event("c", job, epoch, sealed(&format!("step-{step}"), step));
        }
        cluster.ended("c", job, epoch, EndKind::Preempted);
        cluster.ended("b", job, epoch, EndKind::Preempted);
        spoil(&mut cluster);
        // A new leader has not heard c.
        let plan = plan(&view(&cluster, &["a", "b"]), 0);
        let start = plan.starts.first().expect("it starts");
        let places = start.placements.iter();
        let placed: Vec<&str> = places.map(|one| one.node.as_str()).collect();
        assert_eq!(placed, ["a", "b"]);
        assert_eq!(start.resume_from, "step-20");
        let reply = cluster.propose(plan.starts).reply;
        assert!(
            matches!(&reply, Reply::Started { refused, .. } if refused.is_empty()),
            "{reply:?}"
        );
    }
}
