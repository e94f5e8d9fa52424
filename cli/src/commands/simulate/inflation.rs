//! The inflation experiment: jobs drawn at random, with replacement, from a list arrive one after another and never leave; when the GPUs that they asked for
//! reach all of the cluster's, what part of its GPUs is allocated? (Weng et al., USENIX ATC'23.) Does NOT read traces, and knows nothing of time: every job
//! that fits somewhere is placed at once, nothing moves, and the placement knows only what came before.
use std::sync::Arc;

use mlctl_coordinator::scheduler::place::{Capacity, Choice, Mix, Terms};
use mlctl_coordinator::state::view::amounts::GPU;
use mlctl_coordinator::state::view::ask::Ask;
use mlctl_coordinator::state::view::nodes::NodeView;
use mlctl_coordinator::state::view::policy::SchedSettings;
use mlctl_coordinator::state::view::scene::Scene;

use super::inflation_baselines::{Baseline, Baselines};

/// The seeds whose mean is reported.
pub const SEEDS: std::ops::Range<u64> = 0..10;

/// Who places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placer {
    /// The scheduler's own placement.
    Own,
    /// What it is compared with.
    Baseline(Baseline),
}

/// What one run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inflated {
    /// Jobs that arrived.
    pub arrived: u64,
    /// Jobs that found a place.
    pub placed: u64,
    /// GPU units that these hold.
    pub units: u64,
    /// GPU units that the cluster has.
    pub all: u64,
}

impl Inflated {
    /// Part of the GPUs that is allocated, in percent.
    pub fn allocated_pct(&self) -> f64 {
        self.units as f64 * 100.0 / (self.all.max(1)) as f64
    }
}

/// Runs it once. Every `jobs[i].nodes` has to be 1: gangs are no part of the experiment. The same seed draws the same jobs for every placer.
pub fn inflate(nodes: &[NodeView], jobs: &[Arc<Ask>], placer: Placer, seed: u64) -> Inflated {
    let devices = nodes.iter().flat_map(|node| &node.devices);
    let all = devices
        .map(|device| device.slices.map_or(GPU, |of| u64::from(of) * (GPU / 7)))
        .sum();
    let mut run = Inflated {
        arrived: 0,
        placed: 0,
        units: 0,
        all,
    };
    let mut own = (placer == Placer::Own).then(|| Own::new(nodes));
    let mut other = match placer {
        Placer::Own => None,
        Placer::Baseline(which) => Some(Baselines::new(nodes, jobs, which, seed)),
    };
    let mut draws = Draws::new(seed);
    let mut asked = 0_u64;
    while let Some(at) = draws.below(jobs.len()) {
        let units = jobs[at].units(1);
        asked = asked.saturating_add(units);
        if asked > all || run.arrived >= ARRIVALS_MAX {
            break;
        }
        run.arrived += 1;
        let placed = match (&mut own, &mut other) {
            (Some(own), _) => own.arrive(&jobs[at]),
            (_, Some(other)) => other.arrive(at),
            _ => false,
        };
        if placed {
            run.placed += 1;
            run.units += units;
        }
    }
    run
}

/// A list without any GPU would go on for ever.
const ARRIVALS_MAX: u64 = 10_000_000;

/// The scheduler's placement, fed as a live cluster feeds it.
struct Own {
    capacity: Capacity,
    mix: Mix,
    seen: u64,
    /// It counts losses anew when so many have come: now and then, as passes do.
    learn_at: u64,
}

impl Own {
    fn new(nodes: &[NodeView]) -> Self {
        // The settings for traces: a CPU job may take what it likes.
        let settings = SchedSettings {
            keep_gpu_share: false,
            ..SchedSettings::default()
        };
        let scene = Scene {
            nodes: nodes
                .iter()
                .map(|node| (node.name.clone(), Arc::new(node.clone())))
                .collect(),
            settings: Arc::new(settings),
            ..Scene::default()
        };
        Self {
            capacity: Capacity::new(&scene),
            mix: Mix::default(),
            seen: 0,
            learn_at: 1,
        }
    }

    fn arrive(&mut self, ask: &Ask) -> bool {
        self.mix.see(ask);
        self.seen += 1;
        if self.seen >= self.learn_at {
            self.capacity.know(&self.mix);
            self.learn_at = self.seen + (self.seen / 8).clamp(1, 256);
        }
        let terms = Terms {
            team: "",
            user: "",
            preemptible: false,
            rank_0: &[],
            avoid: &[],
            span: (0, 0),
        };
        let found: Option<Choice> = self.capacity.find(ask, 1, &terms);
        if let Some(choice) = &found {
            self.capacity.take(ask, choice);
        }
        found.is_some()
    }
}

/// Numbers that look random, by SplitMix64: the same for the same seed, on every machine.
#[derive(Debug, Clone)]
pub struct Draws(u64);

impl Draws {
    /// Begins anew.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1))
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// The next one below `end`; `None` if there is none.
    pub fn below(&mut self, end: usize) -> Option<usize> {
        if end == 0 {
            return None;
        }
        let scaled = u128::from(self.draw()) * end as u128;
        usize::try_from(scaled >> 64).ok()
    }
}

#[cfg(test)]
#[path = "inflation_tests.rs"]
mod tests;
