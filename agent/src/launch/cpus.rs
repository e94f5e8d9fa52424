//! Which processors are near the devices of each process of a node. One that is not named here is bound to nothing.
//!
//! Pure. Processes with devices of one NUMA node *share* its processors: they are not divided, because what feeds a device (loaders, compilers)
//! comes in waves, and how much all of a job may use together its bound says (`cpus`). Does NOT bind anything: that is the keeper's.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

use mlctl_proto::spec::{CpuBind, JobSpec, Ranges};

/// What a node knows of its processors. Empty: nothing, and nothing is bound.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// Processors of each NUMA node, those alone that jobs may use.
    pub nodes: BTreeMap<u32, Ranges>,
    /// The NUMA node of each device, by UUID, where it is known.
    pub devices: BTreeMap<String, u32>,
}

impl Topology {
    /// All processors that jobs may use.
    fn all(&self) -> Ranges {
        let nodes = self.nodes.values();
        nodes.fold(Ranges::new(), |all, node| all.union(node))
    }

    /// The processors near all of these devices together. None where one is unknown, and where that would be all there are.
    fn near(&self, devices: &[String]) -> Ranges {
        let mut near = Ranges::new();
        for device in devices {
            let node = self.devices.get(device);
            let Some(cpus) = node.and_then(|node| self.nodes.get(node)) else {
                return Ranges::new();
            };
            near = near.union(cpus);
        }
        match near == self.all() {
            true => Ranges::new(),
            false => near,
        }
    }
}

/// The processors for each process of a node, in order; empty: it runs on all. `devices`: those of each process, `ranks`: how many ranks
/// run below each.
///
/// Who asks for more processors than are near gets what was asked for: processes of one set that together want more than it has are not bound.
pub(super) fn sets(
    topology: &Topology,
    spec: &JobSpec,
    devices: &[&[String]],
    ranks: u32,
) -> Vec<Ranges> {
    if spec.cpu_bind == CpuBind::None || topology.nodes.is_empty() {
        return vec![Ranges::new(); devices.len()];
    }
    let mut sets: Vec<Ranges> = devices.iter().map(|own| topology.near(own)).collect();
    let Some(each) = spec.cpus else {
        return sets;
    };
    let each = u64::from(each) * u64::from(ranks);
    let mut wanted: BTreeMap<Ranges, u64> = BTreeMap::new();
    for set in &sets {
        let together = wanted.entry(set.clone()).or_default();
        *together = together.saturating_add(each);
    }
    for set in &mut sets {
        if wanted.get(set).is_some_and(|want| *want > set.count()) {
            *set = Ranges::new();
        }
    }
    sets
}

#[cfg(test)]
#[path = "cpus_tests.rs"]
mod tests;
