//! The whole cluster in one thread on virtual time: three coordinators, a few agents with their ranks, users, and faults from a seed.
//!
//! The cores are the product's: consensus (`Core::turn`), the state machine, the scheduler, what only a leader does, the agent's
//! core. Disks, wires, keepers and ranks are simulated. A run depends on its seed alone and replays bit for bit.
//! Does NOT test drivers, threads or real disks: `process` does.

pub mod cli;
mod client;
mod clocks;
mod coordinator;
mod copies;
mod course;
mod devices;
mod dice;
mod disk;
mod faults;
mod fencing;
mod keeper;
mod leading;
mod machine;
mod many;
mod marks;
pub mod mutants;
mod node;
mod observe;
mod plants;
mod records;
mod stream;
pub mod totals;
mod uploads;
mod vitals;
mod witness;
mod words;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use marks::{Mark, Marks};
pub use plants::Plant;
pub use world::Counts;
use world::World;

use crate::checkers::Violation;

/// What became of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Hours that it was to last, 0: one storm and its calm.
    pub hours: u64,
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
    /// Rare paths that were taken.
    pub marks: Marks,
    /// The first property that did not hold.
    pub violation: Option<Violation>,
}

impl Report {
    /// The one command that replays it.
    pub fn replay(&self) -> String {
        let hours = match self.hours {
            0 => String::new(),
            hours => format!(" --hours {hours}"),
        };
        let seed = self.seed;
        format!("cargo run -p mlctl-tests --release -- sim --seed {seed}{hours}")
    }
}

/// Runs one seed to its end or to the first violation: one storm and its calm. `plant`: with this bug around the cores.
pub fn run(seed: u64, plant: Option<Plant>) -> Report {
    run_hours(seed, 0, plant)
}

/// Runs one seed for `hours` of virtual time, or to the first violation.
pub fn run_hours(seed: u64, hours: u64, plant: Option<Plant>) -> Report {
    let mut world = World::new(seed, plant);
    // A core that panics has found a contradiction by itself. What it left behind is only counted.
    let ended = catch_unwind(AssertUnwindSafe(|| world.play(hours)));
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
        hours,
        fingerprint: world.print.finalize().to_hex().to_string(),
        simulated_ms: world.now,
        acknowledged: world.checkers.acknowledged.count() as u64,
        ended: world.checkers.terminal.ended(),
        elections: world.checkers.consensus.elections() as u64,
        entries: world.head.applied_index(),
        counts: world.counts,
        marks: world.marks,
        violation: world.violation,
    }
}
