//! The whole cluster in one thread on virtual time: three coordinators, a few agents with their ranks, users, and faults from a seed.
//!
//! The cores are the product's: consensus (`Core::turn`), the state machine, the scheduler, what only a leader does, the agent's
//! core. Disks, wires, keepers and ranks are simulated. A run depends on its seed alone and replays bit for bit.
//! Does NOT test drivers, threads or real disks: `process` does.

pub mod cli;
mod client;
mod coordinator;
mod dice;
mod disk;
mod faults;
mod keeper;
mod leading;
mod machine;
pub mod mutants;
mod node;
mod plants;
mod stream;
mod words;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use mlctl_coordinator::state::invariants;

pub use plants::Plant;
pub use world::Counts;
use world::{COORDINATORS, World};

use crate::checkers::{Violation, unacknowledged, unfinished};

/// How long things break, milliseconds of virtual time.
const CHAOS_MS: u64 = 100_000;
/// How long everything may take to end once all is healed: a gang that does not get ready takes two minutes.
const CALM_MS: u64 = 500_000;
/// Between two looks during the calm.
const LOOK_MS: u64 = 2_000;

/// What became of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// A hash over everything that happened.
    pub fingerprint: String,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Jobs that users were told of.
    pub acknowledged: u64,
    /// Jobs that reached their end.
    pub ended: u64,
    /// Elections that were won.
    pub elections: u64,
    /// Entries committed.
    pub entries: u64,
    /// Faults, by kind.
    pub counts: Counts,
    /// The first property that did not hold.
    pub violation: Option<Violation>,
}

impl Report {
    /// The one command that replays it.
    pub fn replay(&self) -> String {
        format!(
            "cargo run -p mlctl-tests --release -- sim --seed {}",
            self.seed
        )
    }
}

/// Runs one seed to its end or to the first violation. `plant`: with this bug around the cores.
pub fn run(seed: u64, plant: Option<Plant>) -> Report {
    let mut world = World::new(seed, plant);
    // A core that panics has found a contradiction by itself. What it left behind is only counted.
    let ended = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let what = format!("a core panicked: {}", text.unwrap_or("no text"));
        world.violate(Violation {
            property: "no panic",
            what,
        });
    }
    Report {
        seed,
        fingerprint: world.print.finalize().to_hex().to_string(),
        simulated_ms: world.now,
        acknowledged: world.checkers.acknowledged.jobs().len() as u64,
        ended: world.checkers.terminal.ended(),
        elections: world.checkers.consensus.elections() as u64,
        entries: world.head.applied_index(),
        counts: world.counts,
        violation: world.violation,
    }
}

fn play(world: &mut World) {
    world.run_until(CHAOS_MS);
    world.heal();
    let end = world.now + CALM_MS;
    while world.violation.is_none() && world.now < end && !settled(world) {
        world.run_until(world.now + LOOK_MS);
    }
    if world.violation.is_none() && !settled(world) {
        let open = unfinished(&world.head, &world.checkers.acknowledged.jobs());
        let (seconds, events) = (CALM_MS / 1_000, unacknowledged_events(world));
        let what = format!(
            "{seconds} s after everything healed these are not over: {open:?}, and {events} events are not acknowledged"
        );
        world.violate(Violation {
            property: "L",
            what,
        });
    }
    // The last power cut: what is on the disks is all there is.
    for who in 0..COORDINATORS {
        world.crash_coordinator(who, true);
        world.boot_coordinator(who);
    }
    world.run_until(world.now + 3 * LOOK_MS);
    for who in 0..COORDINATORS {
        let Some(member) = &world.coordinators[who].live else {
            continue;
        };
        let state = member.state.clone();
        let caught_up = state.applied_index() >= world.head.applied_index();
        let checked = world.checkers.acknowledged.check(&state);
        world.check(checked);
        let mut broken = invariants::check(&state).into_iter().map(|one| one.rule);
        let what = broken
            .next()
            .or((!caught_up).then_some("a member does not catch up"));
        if let Some(what) = what.filter(|_| world.violation.is_none()) {
            let what = format!("coordinator {}: {what}", who + 1);
            world.violate(Violation {
                property: "state",
                what,
            });
        }
    }
}

/// Nobody waits for an answer, every acknowledged job is over, and so is every event.
fn settled(world: &World) -> bool {
    let waiting = world.clients.iter().any(client::Client::waits);
    let open = unfinished(&world.head, &world.checkers.acknowledged.jobs());
    !waiting && open.is_empty() && unacknowledged_events(world) == 0
}

fn unacknowledged_events(world: &World) -> usize {
    let agents = world.nodes.iter().filter_map(|node| node.agent.as_ref());
    agents.map(|agent| unacknowledged(&agent.records())).sum()
}
