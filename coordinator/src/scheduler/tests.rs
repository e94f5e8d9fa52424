//! Tests of the scheduler: placements and reasons as tables.
use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::ids::JobId;
use mlctl_proto::spec::JobSpec;

use super::*;
use crate::state::commands::DeviceNews;
use crate::state::records::{Admin, DirtyDevice, Node, Reply};
use crate::state::testing::{Cluster, node, spec};

fn view(cluster: &Cluster) -> ClusterView {
    let heard = cluster
        .state
        .nodes()
        .map(|node| node.facts.name.clone())
        .collect();
    ClusterView::new(cluster.state.clone(), heard)
}

/// `a b` for one job per line of a plan, in node-rank order, or the word of its reason.
fn shown(cluster: &Cluster) -> Vec<String> {
    let plan = plan(&view(cluster), 0);
    let started = plan.starts.iter().map(|start| {
        let nodes: Vec<&str> = start
            .placements
            .iter()
            .map(|placement| placement.node.as_str())
            .collect();
        (start.job, nodes.join(" "))
    });
    let waits = plan
        .explanations
        .iter()
        .map(|(job, reason)| (*job, reason.word().to_owned()));
    started
        .chain(waits)
        .collect::<BTreeMap<JobId, String>>()
        .into_values()
        .collect()
}

fn in_pool(pool: &str, mut node: Node) -> Node {
    node.facts.pool = pool.into();
    node
}

fn of(kinds: &[&str], nodes: u32, gpus: u32) -> JobSpec {
    JobSpec {
        gpu: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        ..spec(nodes, gpus)
    }
}

fn check_plan(what: &str, nodes: &[Node], jobs: &[JobSpec], expected: &[&str]) {
    let mut cluster = Cluster::new();
    // Submitted before there is a node, so that nothing is refused as impossible.
    for spec in jobs {
        cluster.submitted_spec("ann", spec);
    }
    for node in nodes {
        cluster.register(node);
    }
    assert_eq!(shown(&cluster), expected, "{what}");
}

/// Nobody knows which processors its devices are near.
fn h100(name: &str, gpus: u32) -> Node {
    let mut node = node(name, gpus, "NVIDIA H100");
    for device in &mut node.facts.devices {
        device.numa_node = None;
    }
    node
}

fn a100(name: &str, gpus: u32) -> Node {
    node(name, gpus, "NVIDIA A100")
}

#[test]
fn placements_with_gpus() {
    check_plan(
        "no node",
        &[],
        &[spec(1, 1), spec(1, 0)],
        &["InsufficientGpus", "CpuOrMemory"],
    );
    check_plan(
        "best fit",
        &[h100("a", 8), h100("b", 2), h100("c", 4)],
        &[spec(1, 2), spec(1, 3), spec(1, 8)],
        &["b", "c", "a"],
    );
    check_plan(
        "packed",
        &[h100("a", 4), h100("b", 4)],
        &[spec(1, 1), spec(1, 1), spec(1, 4)],
        &["a", "a", "b"],
    );
    check_plan(
        "a gang on distinct nodes",
        &[h100("a", 8), h100("b", 1)],
        &[spec(2, 1)],
        &["a b"],
    );
    check_plan(
        "all or none",
        &[h100("a", 2), h100("b", 2)],
        &[spec(1, 2), spec(2, 1), spec(1, 2)],
        &["a", "JobsAhead", "b"],
    );
    check_plan(
        "a wide job does not block",
        &[h100("a", 2)],
        &[spec(1, 4), spec(1, 2)],
        &["NeverFits", "a"],
    );
}

#[test]
fn gangs_have_one_model_and_one_pool() {
    check_plan(
        "by type",
        &[a100("a", 1), h100("b", 1)],
        &[of(&["h100"], 1, 1), of(&["B200"], 1, 1)],
        &["b", "GpuTypeMissing"],
    );
    check_plan(
        "in order of preference",
        &[a100("a", 1), h100("b", 1)],
        &[of(&["H100", "A100"], 1, 1), of(&["H100", "A100"], 1, 1)],
        &["b", "a"],
    );
    check_plan(
        "one model per gang",
        &[a100("a", 1), h100("b", 1), h100("c", 1)],
        &[spec(2, 1)],
        &["b c"],
    );
    check_plan(
        "one pool per gang",
        &[
            h100("a", 1),
            in_pool("x", h100("b", 1)),
            in_pool("x", h100("c", 1)),
        ],
        &[spec(2, 1), spec(2, 0)],
        &["b c", "b c"],
    );
}

#[test]
fn placements_without_gpus() {
    check_plan(
        "no GPU at all",
        &[node("a", 0, "")],
        &[spec(1, 1)],
        &["GpuTypeMissing"],
    );
    check_plan(
        "too few nodes",
        &[node("a", 0, "")],
        &[spec(2, 0)],
        &["NeverFits"],
    );
    let ranks = |ranks| JobSpec {
        ranks: Some(ranks),
        ..spec(1, 0)
    };
    check_plan(
        "spread",
        &[node("a", 0, ""), node("b", 0, "")],
        &[ranks(1), ranks(1), ranks(1)],
        &["a", "b", "a"],
    );
    check_plan(
        "CPU jobs leave GPUs",
        &[h100("a", 1), node("b", 0, "")],
        &[ranks(1), ranks(1)],
        &["b", "b"],
    );
    check_plan(
        "CPU room",
        &[node("a", 0, "")],
        &[ranks(15), ranks(2), ranks(1)],
        &["a", "JobsAhead", "a"],
    );
}

/// Nodes with so many GPUs, of which so many are held.
fn busy(gpus: &[(&str, u32, u32)]) -> Cluster {
    let mut cluster = Cluster::new();
    for (name, gpus, held) in gpus {
        cluster.gpu_node(name, *gpus);
        if *held > 0 {
            let job = cluster.submitted("bob", 1, *held);
            cluster.started(job, &[name]);
        }
    }
    cluster
}

fn check_reasons(mut cluster: Cluster, spec: JobSpec, expected: &[Reason]) {
    let job = cluster.submitted_spec("ann", &spec);
    let view = view(&cluster);
    assert_eq!(explain(&view, job, 0), expected);
    assert_eq!(plan(&view, 0).explanations.get(&job), expected.first());
}

#[test]
fn reasons_of_a_busy_cluster() {
    check_reasons(
        busy(&[("a", 4, 3), ("b", 4, 3)]),
        spec(1, 3),
        &[Reason::InsufficientGpus { wanted: 3, free: 2 }],
    );
    check_reasons(
        busy(&[("a", 4, 2), ("b", 4, 2)]),
        spec(1, 3),
        &[Reason::Fragmented {
            nodes: 1,
            gpus: 3,
            with_room: 0,
            free: 4,
        }],
    );
    check_reasons(
        busy(&[("a", 4, 4), ("b", 4, 2)]),
        spec(2, 1),
        &[Reason::Fragmented {
            nodes: 2,
            gpus: 1,
            with_room: 1,
            free: 2,
        }],
    );
}

#[test]
fn reasons_of_a_broken_cluster() {
    let mut down = busy(&[("a", 4, 4), ("b", 4, 0)]);
    down.silence("b");
    let out = Reason::NodeUnhealthy {
        nodes: vec!["b".into()],
        holds: None,
    };
    let none_free = Reason::InsufficientGpus { wanted: 1, free: 0 };
    check_reasons(down.clone(), spec(1, 1), &[none_free.clone(), out.clone()]);
    let wide = Reason::InsufficientGpus { wanted: 2, free: 0 };
    check_reasons(down, spec(2, 1), &[out.clone(), wide]);

    let mut closed = busy(&[("a", 4, 4)]);
    closed.plant(Node {
        admin: Admin::Cordoned,
        ..node("b", 4, "SIM")
    });
    let drained = Reason::NodeDrained {
        nodes: vec!["b".into()],
        holds: None,
    };
    check_reasons(closed, spec(1, 1), &[none_free, drained]);

    let mut unheard = busy(&[("a", 1, 0)]);
    let job = unheard.submitted("ann", 1, 1);
    let view = ClusterView::new(unheard.state.clone(), BTreeSet::new());
    assert_eq!(
        plan(&view, 0).starts,
        [],
        "no plan needs a node that was not heard"
    );
    let a_is_out = Reason::NodeUnhealthy {
        nodes: vec!["a".into()],
        holds: None,
    };
    assert_eq!(explain(&view, job, 0)[0], a_is_out);
}

fn says(reason: Reason, text: &str) {
    assert_eq!(reason.to_string(), text);
}

fn two() -> Vec<String> {
    vec!["a".into(), "b".into()]
}

#[test]
fn every_reason_is_one_readable_line() {
    let missing = |wanted: &str, present| Reason::GpuTypeMissing {
        wanted: wanted.into(),
        present,
    };
    let fragmented = |nodes, gpus| Reason::Fragmented {
        nodes,
        gpus,
        with_room: 1,
        free: 9,
    };
    let room = |nodes, ranks| Reason::CpuOrMemory {
        nodes,
        ranks,
        with_room: 0,
    };
    says(
        Reason::JobsAhead { jobs: 1 },
        "1 job before it takes what it needs",
    );
    says(
        Reason::JobsAhead { jobs: 3 },
        "3 jobs before it take what it needs",
    );
    says(
        missing("b200 GPUs", vec![]),
        "it asks for b200 GPUs, but no node has a GPU",
    );
    says(
        missing("b200 GPU", two()),
        "it asks for b200 GPU; there are only a, b",
    );
    says(
        Reason::InsufficientGpus { wanted: 4, free: 1 },
        "4 GPUs needed, 1 free",
    );
    says(
        Reason::InsufficientGpus { wanted: 1, free: 0 },
        "1 GPU needed, 0 free",
    );
    says(
        fragmented(2, 4),
        "9 GPUs free, but 2 nodes with 4 of one model each needed, 1 free",
    );
    says(
        room(2, 4),
        "2 nodes with room for 4 ranks each needed, 0 free",
    );
    says(room(1, 1), "1 node with room for 1 rank needed, 0 free");
}

#[test]
fn every_reason_names_its_two() {
    let unhealthy = |holds: Option<&str>| Reason::NodeUnhealthy {
        nodes: two(),
        holds: holds.map(Into::into),
    };
    let full = Reason::HolderFull {
        checkpoint: "step-9".into(),
        nodes: two(),
        gpus: 1,
    };
    says(unhealthy(None), "not available: a, b");
    says(
        unhealthy(Some("step-9")),
        "not available: a, b, and the checkpoint step-9 is there",
    );
    let drained = Reason::NodeDrained {
        nodes: two(),
        holds: None,
    };
    says(drained, "closed to new work by an admin: a, b");
    says(
        full,
        "the checkpoint step-9 is on a, b, and there is no room",
    );
}

#[test]
fn a_stale_plan_is_refused_job_by_job() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.gpu_node(name, 1);
    }
    let jobs: Vec<JobId> = (0..3).map(|_| cluster.submitted("ann", 1, 1)).collect();
    let plan = plan(&view(&cluster), 0);
    assert_eq!(plan.starts.len(), 3);
    cluster.lose("a");
    cluster.started(jobs[1], &["c"]);
    match cluster.propose(plan.starts).reply {
        Reply::Started {
            jobs: started,
            refused,
        } => {
            assert_eq!(started, []);
            let words: Vec<&str> = refused.iter().map(|(_, why)| why.as_str()).collect();
            assert_eq!(
                words,
                [
                    "node a takes no new work",
                    "it is Starting, not Pending",
                    "device c-0 of c is held by job 2"
                ]
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_very_large_plan_is_made_in_parts() {
    let mut cluster = Cluster::new();
    cluster.checked = false;
    for number in 0..300 {
        cluster.register(&node(&format!("n{number}"), 64, "SIM"));
    }
    for _ in 0..300 {
        cluster.submitted("ann", 1, 64);
    }
    let first = plan(&view(&cluster), 77);
    assert!(first.starts.len() < 300);
    assert_eq!(first.next, Some(77), "the rest is planned at once");
    cluster.propose(first.starts.clone());
    let second = plan(&view(&cluster), 78);
    assert_eq!(
        (first.starts.len() + second.starts.len(), second.next),
        (300, None)
    );
}

#[test]
fn a_dirty_device_is_waited_for_only_by_those_who_need_it() {
    let mut cluster = Cluster::new();
    cluster.register(&h100("a", 2));
    cluster.register(&a100("b", 1));
    let dirty = DirtyDevice {
        uuid: "a-0".into(),
        why: "process 7 (python)".into(),
    };
    cluster.news("a", DeviceNews::Dirty(vec![dirty]));
    let both = cluster.submitted_spec("ann", &of(&["h100"], 1, 2));
    cluster.submitted_spec("ann", &of(&["h100"], 1, 1));
    cluster.submitted_spec("ann", &of(&["a100"], 1, 1));
    assert_eq!(shown(&cluster), ["Cleaning", "a", "b"]);
    let why = explain(&view(&cluster), both, 0);
    assert_eq!(
        why[0].to_string(),
        "1 GPU on a is still in use by what is no job's: process 7 (python)"
    );
    cluster.news("a", DeviceNews::Clean(vec!["a-0".into()]));
    assert_eq!(shown(&cluster)[0], "a");
}
