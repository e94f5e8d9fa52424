//! Jobs that are passed over whatever is free, and when that ends.
use std::collections::BTreeSet;

use mlctl_proto::ids::JobId;
use mlctl_proto::spec::{JobSpec, Ranges, parse_toml};

use super::{NoTurn, Plan, Reason, explain, plan};
use crate::state::records::{EndKind, JobState};
use crate::state::testing::{Cluster, array_spec, ended, tasks_ended};
use crate::state::view::ClusterView;

/// 2030-01-01T00:00:00Z
const START_MS: i64 = 1_893_456_000_000;
const HOUR_MS: i64 = 3_600_000;

fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 4);
    cluster.now_ms = START_MS;
    cluster
}

fn spec(lines: &str) -> JobSpec {
    parse_toml(&format!("command = ['a']\n{lines}")).expect("good")
}

fn view(cluster: &Cluster) -> ClusterView {
    let heard: BTreeSet<String> = ["a".to_owned()].into();
    ClusterView::new(cluster.state.clone(), heard)
}

fn planned(cluster: &Cluster, now_ms: i64) -> Plan {
    plan(&view(cluster), now_ms)
}

fn started(plan: &Plan) -> Vec<JobId> {
    plan.starts.iter().map(|start| start.job).collect()
}

#[test]
fn a_start_time_is_waited_for_and_planned_for() {
    let mut cluster = cluster();
    let later = cluster.submitted_spec("ann", &spec("begin = '2030-01-01T01:00:00Z'"));
    let now = cluster.submitted_spec("ann", &spec("begin = '2029-01-01T00:00:00Z'"));
    let plan = planned(&cluster, START_MS + 10);
    assert_eq!(started(&plan), [now]);
    assert_eq!(plan.next, Some(START_MS + HOUR_MS));
    let reason = plan.explanations.get(&later).map(Reason::word);
    assert_eq!(reason, Some("StartTime"));
    assert_eq!(explain(&view(&cluster), later, START_MS + 10).len(), 1);
    let due = planned(&cluster, START_MS + HOUR_MS);
    assert_eq!(started(&due), [later, now]);
}

#[test]
fn who_waits_for_another_job_is_passed_over_until_that_is_over() {
    let mut cluster = cluster();
    let first = cluster.submitted_spec("ann", &spec("gpus = 1"));
    let waits = cluster.submitted_spec("ann", &spec(&format!("gpus = 1\nafter = ['any:{first}']")));
    let behind = cluster.submitted_spec("ann", &spec("gpus = 1"));
    let plan = planned(&cluster, START_MS + 10);
    assert_eq!(started(&plan), [first, behind], "its equal is not held up");
    let want = plan.explanations.get(&waits).map(ToString::to_string);
    assert_eq!(want.as_deref(), Some("it waits for job 1 to end"));
    let epoch = cluster.started(first, &["a"]);
    cluster.running(first, epoch);
    cluster.ended("a", first, epoch, EndKind::Exited);
    let plan = planned(&cluster, START_MS + 20);
    assert_eq!(started(&plan), [waits, behind]);
}

#[test]
fn what_a_person_holds_says_who() {
    let mut cluster = cluster();
    let held = cluster.submitted_spec("ann", &spec("hold = true"));
    assert!(planned(&cluster, START_MS + 10).starts.is_empty());
    let reasons = explain(&view(&cluster), held, START_MS + 10);
    assert!(
        matches!(reasons.as_slice(), [Reason::NoTurn(NoTurn::Held { admin: false, name, .. })] if name == "ann"),
        "{reasons:?}"
    );
}

#[test]
fn a_deadline_is_planned_for_and_then_told() {
    let mut cluster = cluster();
    cluster.submitted_spec(
        "ann",
        &spec("gpus = 4\nhold = true\nstart_by = '2030-01-01T01:00:00Z'"),
    );
    let plan = planned(&cluster, START_MS + 10);
    assert_eq!((plan.late, plan.next), (false, Some(START_MS + HOUR_MS)));
    let plan = planned(&cluster, START_MS + HOUR_MS);
    assert_eq!((plan.late, plan.next), (true, None));
}

#[test]
fn paired_tasks_start_when_their_partners_exited_0() {
    let mut cluster = cluster();
    let first = cluster.submitted_spec("ann", &array_spec("0-3", 1));
    let paired = spec(&format!("gpus = 1\narray = 4\nafter = ['corr:{first}']"));
    let second = cluster.submitted_spec("ann", &paired);
    let wave = cluster.wave(first, "a", 1, Ranges::span(0, 3));
    let epoch = wave.epoch;
    cluster.propose(vec![wave]);
    let plan = planned(&cluster, START_MS + 10);
    assert_eq!(started(&plan), []);
    let reason = plan.explanations.get(&second).map(Reason::word);
    assert_eq!(reason, Some("Dependency"));
    cluster.event("a", first, epoch, tasks_ended(0, Ranges::span(1, 2)));
    let plan = planned(&cluster, START_MS + 20);
    let tasks = plan.starts.first().and_then(|start| start.wave.clone());
    assert_eq!(tasks.map(|wave| wave.tasks), Some(Ranges::span(1, 2)));
    cluster.event("a", first, epoch, ended(EndKind::KeeperLost, 0));
    assert_ne!(cluster.job(second).state, JobState::Cancelled);
}

/// The engine gives a node what it has room for; few tasks are spread. What a node does not get is not forgotten: a plan for it comes at once.
#[test]
fn tasks_that_a_node_leaves_to_others_are_planned_at_once() {
    let mut cluster = cluster();
    cluster.gpu_node("b", 4);
    let job = cluster.submitted_spec("ann", &spec("gpus = 1\narray = 2"));
    let heard: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
    let seen = |cluster: &Cluster| ClusterView::new(cluster.state.clone(), heard.clone());
    let mut nodes = BTreeSet::new();
    let mut next = Some(START_MS);
    while let Some(now_ms) = next.filter(|_| nodes.len() < 2) {
        let found = plan(&seen(&cluster), now_ms);
        assert_eq!(started(&found), [job], "after {nodes:?}");
        let placements = found.starts.iter().flat_map(|start| &start.placements);
        nodes.extend(placements.map(|one| one.node.clone()));
        cluster.propose(found.starts);
        next = found.next.filter(|at| *at == now_ms);
    }
    assert_eq!(nodes.len(), 2, "the second plan was not made");
}
