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
