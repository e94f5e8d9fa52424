//! What the scheduler is shown of a state, and that the engine's starts are those that apply takes.
use std::collections::BTreeSet;

use super::*;
use crate::state::testing::Cluster;

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

#[test]
fn what_an_admin_decides_reaches_the_scheduler() {
    use crate::state::Body;
    use crate::state::commands::{
        Decide, DecisionEdit, SetMaintenance, SetOwner, SetPause, SetPool, SetSched,
    };
    use crate::state::records::{Automatic, SchedKey, Target};
    use crate::state::testing::person;
    use crate::state::view::nodes::{Guests, Owner};
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let mut other = crate::state::testing::node("b", 1, "SIM");
    other.facts.pool = "spot".into();
    cluster.register(&other);
    let job = cluster.submitted("ann", 1, 1);
    let reason = || "disks".to_owned();
    let pause = |what, pool: &str, for_ms| {
        let (pool, reason) = (pool.to_owned(), reason());
        DecisionEdit::Pause(SetPause {
            what,
            pool,
            for_ms,
            reason,
        })
    };
    let window = |from_ms, for_ms| {
        let (target, reason) = (Target::Node("a".into()), reason());
        DecisionEdit::Maintenance(SetMaintenance {
            target,
            from_ms,
            for_ms,
            reason,
        })
    };
    let mut decide = |edits: Vec<DecisionEdit>| {
        let applied = cluster.run(person("root", true), Body::Decide(Decide { edits }));
        assert!(applied.refusal().is_none(), "{:?}", applied.reply);
        (scene(&view(&cluster), cluster.now_ms), cluster.now_ms)
    };
    let (seen, _) = decide(vec![
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
    ]);
    assert_eq!(
        seen.settings.policy,
        crate::state::view::policy::Policy::Las
    );
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
    let (seen, now_ms) = decide(vec![
        window(0, 5_000),
        window(cluster_time(4_000), 5_000),
        window(cluster_time(90_000_000), 5_000),
        pause(Automatic::Starts, "spot", 7_000),
    ]);
    let (a, b) = (&seen.nodes["a"], &seen.nodes["b"]);
    assert_eq!(a.windows.len(), 3);
    assert_eq!(
        a.open,
        Open::From(cluster_time(4_000) + 5_000),
        "two that meet are one"
    );
    assert_eq!(b.open, Open::From(now_ms + 7_000));
    let (seen, _) = decide(vec![pause(Automatic::Starts, "", 0)]);
    assert!(seen.starts_paused);
    assert_eq!(seen.nodes["b"].open, Open::No);
}

fn cluster_time(after_ms: i64) -> i64 {
    1_000 + after_ms
}
