//! The shape of the inventory: how many nodes of a pool have how many devices of a model, whatever their state and whoever
//! holds them. Kept by the nodes' hook, so that a submit does not look at every device of the cluster.
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::state::records::{Admin, Node};

type Counts = OrdMap<u32, u32>;

/// Everything that was not retired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Nodes by pool.
    pools: OrdMap<Arc<str>, u32>,
    /// By pool and model: how many nodes have exactly so many.
    devices: OrdMap<(Arc<str>, Arc<str>), Counts>,
    /// By pool, processors and memory: how many nodes have exactly so much.
    sizes: OrdMap<(Arc<str>, u32, u64), u32>,
}

impl Inventory {
    /// A node came.
    pub fn add(&mut self, node: &Node) {
        self.change(node, |count| count.saturating_add(1));
    }

    /// A node went, as it was when it came.
    pub fn remove(&mut self, node: &Node) {
        self.change(node, |count| count.saturating_sub(1));
    }

    /// Whether a change of a node changes nothing here.
    pub fn same(old: &Node, new: &Node) -> bool {
        let retired = |node: &Node| node.admin == Admin::Retired;
        retired(old) == retired(new)
            && old.facts.pool == new.facts.pool
            && old.facts.devices == new.facts.devices
            && (old.facts.cpus, old.facts.memory_bytes) == (new.facts.cpus, new.facts.memory_bytes)
    }

    /// Nodes of all pools.
    pub fn nodes(&self) -> u32 {
        self.pools.values().copied().fold(0, u32::saturating_add)
    }

    /// Nodes of the largest pool.
    pub fn largest_pool(&self) -> u32 {
        self.pools.values().copied().max().unwrap_or(0)
    }

    /// Nodes of the pool that has most of those with at least so many processors and so much memory.
    pub fn nodes_with(&self, cpus: u32, memory: u64) -> u32 {
        let mut pools: BTreeMap<&str, u32> = BTreeMap::new();
        for ((pool, has_cpus, has_memory), nodes) in &self.sizes {
            if *has_cpus >= cpus && *has_memory >= memory {
                let count = pools.entry(pool).or_default();
                *count = count.saturating_add(*nodes);
            }
        }
        pools.values().copied().max().unwrap_or(0)
    }

    /// The most processors, and the most memory, of one node.
    pub fn largest(&self) -> (u32, u64) {
        let sizes = self.sizes.keys();
        sizes.fold((0, 0), |(cpus, memory), (_, has_cpus, has_memory)| {
            (cpus.max(*has_cpus), memory.max(*has_memory))
        })
    }

    /// The fewest processors of one node.
    pub fn least_cpus(&self) -> Option<u32> {
        self.sizes.keys().map(|(_, cpus, _)| *cpus).min()
    }

    /// Each model of each pool, with how many nodes have exactly how many of it.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &Counts)> {
        self.devices
            .iter()
            .map(|((_, model), counts)| (model.as_ref(), counts))
    }

    fn change(&mut self, node: &Node, count: fn(u32) -> u32) {
        if node.admin == Admin::Retired {
            return;
        }
        let pool: Arc<str> = Arc::from(node.facts.pool.as_str());
        let mut models: BTreeMap<&str, u32> = BTreeMap::new();
        for device in &node.facts.devices {
            *models.entry(&device.model).or_default() += 1;
        }
        for (model, devices) in models {
            let key = (pool.clone(), Arc::from(model));
            let mut counts = self.devices.get(&key).cloned().unwrap_or_default();
            set(&mut counts, devices, count);
            if counts.is_empty() {
                self.devices.remove(&key);
            } else {
                self.devices.insert(key, counts);
            }
        }
        let size = (pool.clone(), node.facts.cpus, node.facts.memory_bytes);
        set(&mut self.sizes, size, count);
        set(&mut self.pools, pool, count);
    }
}

/// Changes one count; a count of 0 is not kept.
fn set<K: Ord + Clone>(counts: &mut OrdMap<K, u32>, key: K, count: fn(u32) -> u32) {
    let new = count(counts.get(&key).copied().unwrap_or(0));
    if new == 0 {
        counts.remove(&key);
    } else {
        counts.insert(key, new);
    }
}
