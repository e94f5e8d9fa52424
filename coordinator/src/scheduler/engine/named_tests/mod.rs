//! Published incidents and worked examples, each by its name: one file for each part of the policy.
mod promises;
mod reasons;
mod shapes;
mod taking_back;
mod turns;

use std::sync::Arc;

use super::fixtures::{ask, node, team, waiting};
use super::propose;
use super::world::World;
use crate::scheduler::plan::Taken;
use crate::state::view::jobs::{Class, Running, Waiting};
use crate::state::view::nodes::NodeView;
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Limit, TeamView};

const ALL: Limit = Limit::Unlimited;
const NONE: Limit = Limit::Units(0);
const HOUR: i64 = 3_600_000;

fn nodes(count: usize) -> Vec<NodeView> {
    (0..count)
        .map(|at| node(&format!("n{at}"), "base", "h100", 8))
        .collect()
}

/// `org` with `a` (so many GPUs) and `b` (so many).
fn two_teams(a: u64, b: u64) -> Vec<TeamView> {
    vec![
        team("org", &[("h100", a + b, NONE)]),
        team("org/a", &[("h100", a, ALL)]),
        team("org/b", &[("h100", b, ALL)]),
    ]
}

fn job(number: u64, team: &str, class: Class, nodes: u32, gpus: u32) -> Waiting {
    Waiting {
        team: team.into(),
        class,
        ask: Arc::new(ask(nodes, gpus)),
        limit_ms: Some(10 * 3_600_000),
        ..waiting(number)
    }
}

/// An attempt runs, and `n0` has nothing left beside it.
fn fills_n0(scene: &mut Scene, run: Running) {
    let mut busy = node("n0", "base", "h100", 8);
    busy.devices.iter_mut().for_each(|one| one.free = 0);
    busy.free = Default::default();
    scene.nodes.insert("n0".into(), Arc::new(busy));
    scene.running.insert((run.id, run.epoch), Arc::new(run));
}

fn starts(scene: &Scene, now: i64) -> Vec<u64> {
    propose(scene, now)
        .starts
        .iter()
        .map(|start| start.job.counter)
        .collect()
}

fn run_to(world: &mut World, until: i64) {
    while world.now < until {
        world.settle();
        world.advance(until);
    }
    world.settle();
}

fn world_plan(world: &World) -> Vec<(u64, Taken)> {
    let plan = propose(&world.scene, world.now);
    let victims = plan.preemptions.iter().flat_map(|one| one.victims.iter());
    victims
        .map(|victim| (victim.job.counter, victim.why))
        .collect()
}
