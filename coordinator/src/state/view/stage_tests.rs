//! What the scheduler is shown of a state, and that the engine's starts are those that apply takes.
use std::collections::BTreeSet;

use super::*;
use crate::state::Body;
use crate::state::commands::{
    Decide, DecisionEdit, SetMaintenance, SetOwner, SetPause, SetPool, SetSched,
};
use crate::state::records::{SchedKey, Target};
use crate::state::testing::{Cluster, node, person};
use crate::state::view::nodes::Guests;
use crate::state::view::policy::Policy;

fn view(cluster: &Cluster) -> ClusterView {
    let heard: BTreeSet<String> = (cluster.state.nodes())
        .map(|node| node.facts.name.clone())
        .collect();
    ClusterView::new(cluster.state.clone(), heard)
}

#[test]
fn what_runs_holds_its_devices_and_what_waits_is_asked_for() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 4);
    cluster.gpu_node("b", 2);
    let runs = cluster.submitted("ann", 1, 2);
    cluster.started(runs, &["a"]);
    let waits = cluster.submitted("bo", 2, 2);
    let scene = scene(&view(&cluster), 5);
    let free = |name: &str| -> u32 {
        let node = scene.nodes.get(name).expect("there");
        node.devices.iter().map(|device| device.free / 7_000).sum()
    };
    assert_eq!((free("a"), free("b")), (2, 2));
    let (_, running) = scene.running.iter().next().expect("one runs");
    assert_eq!((running.id, running.seats[0].devices.len()), (runs, 2));
    let (_, waiting) = scene.waiting.iter().next().expect("one waits");
    assert_eq!(waiting.id, waits);
    assert_eq!(waiting.ask.nodes.least(), 2);
    assert_eq!((scene.running.len(), scene.waiting.len()), (1, 1));
}

#[test]
fn a_node_that_was_not_heard_takes_nothing() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let unheard = ClusterView::new(cluster.state.clone(), BTreeSet::new());
    let open = |view: &ClusterView| scene(view, 5).nodes.get("a").expect("there").open;
    assert_eq!(open(&unheard), Open::No);
    assert_eq!(open(&view(&cluster)), Open::Now);
}

/// A node in the pool `default`, one in `spot`, and a job that waits.
fn two_pools() -> (Cluster, JobId) {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let mut other = node("b", 1, "SIM");
    other.facts.pool = "spot".into();
    cluster.register(&other);
    let job = cluster.submitted("ann", 1, 1);
    (cluster, job)
}

/// What the scheduler sees after a decision, and when that is.
fn decide(cluster: &mut Cluster, edits: Vec<DecisionEdit>) -> (Scene, UtcMs) {
    let applied = cluster.run(person("root", true), Body::Decide(Decide { edits }));
    assert!(applied.refusal().is_none(), "{:?}", applied.reply);
    (scene(&view(cluster), cluster.now_ms), cluster.now_ms)
}

fn pause(what: Automatic, pool: &str, for_ms: u64) -> DecisionEdit {
    DecisionEdit::Pause(SetPause {
        what,
        pool: pool.to_owned(),
        for_ms,
        reason: "disks".to_owned(),
    })
}

#[test]
fn settings_owners_and_pools_reach_the_scheduler() {
    let (mut cluster, job) = two_pools();
    let edits = vec![
        DecisionEdit::Setting(SetSched {
            key: SchedKey::Policy,
            class: None,
            values: vec![1],
        }),
        DecisionEdit::License("ansys".into(), Some(2)),
        pause(Automatic::Preemption, "", 0),
        DecisionEdit::Owner(SetOwner {
            node: "a".into(),
            team: "default".into(),
            guests: Guests::None,
            guest_grace_ms: 0,
        }),
        DecisionEdit::Pool(SetPool {
            pool: "spot".into(),
            max_time_ms: Some(3_600_000),
            sharing: Some(Sharing::Any),
            ..SetPool::default()
        }),
    ];
    let (seen, _) = decide(&mut cluster, edits);
    assert_eq!(seen.settings.policy, Policy::Las);
    assert_eq!(seen.licenses.get("ansys"), Some(&(2, 0)));
    assert!(seen.preemption_paused && !seen.starts_paused);
    let (a, b) = (&seen.nodes["a"], &seen.nodes["b"]);
    let owner = Owner {
        team: "default".into(),
        guests: Guests::None,
    };
    assert_eq!((a.owner.as_ref(), b.owner.as_ref()), (Some(&owner), None));
    assert_eq!((a.sharing, b.sharing), (Sharing::User, Sharing::Any));
    let (_, waiting) = seen.waiting.iter().next().expect("one waits");
    assert_eq!(waiting.id, job);
    assert_eq!(
        waiting.ask.pools,
        ["default"],
        "spot wants to know how long it runs"
    );
}

#[test]
fn maintenance_and_pauses_reach_the_scheduler() {
    let (mut cluster, _) = two_pools();
    let window = |from_ms, for_ms| {
        DecisionEdit::Maintenance(SetMaintenance {
            target: Target::Node("a".into()),
            from_ms,
            for_ms,
            reason: "disks".to_owned(),
        })
    };
    let edits = vec![
        window(0, 5_000),
        window(cluster_time(4_000), 5_000),
        window(cluster_time(90_000_000), 5_000),
        pause(Automatic::Starts, "spot", 7_000),
    ];
    let (seen, now_ms) = decide(&mut cluster, edits);
    let (a, b) = (&seen.nodes["a"], &seen.nodes["b"]);
    assert_eq!(a.windows.len(), 3);
    assert_eq!(
        a.open,
        Open::From(cluster_time(4_000) + 5_000),
        "two that meet are one"
    );
    assert_eq!(b.open, Open::From(now_ms + 7_000));
    let (seen, _) = decide(&mut cluster, vec![pause(Automatic::Starts, "", 0)]);
    assert!(seen.starts_paused);
    assert_eq!(seen.nodes["b"].open, Open::No);
}

fn cluster_time(after_ms: i64) -> i64 {
    1_000 + after_ms
}
