//! How many nodes have how much, by domain: enough to say whether a request fits, and why not, without looking at each node.
use std::collections::BTreeMap;

use crate::state::rules::{CPU_RANKS_PER_CPU, Request, fits_kind};
use crate::state::view::{ClusterView, Node};

/// Nodes that may form a gang: one pool, and one model of device; no model: ranks without GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Domain<'a> {
    pub pool: &'a str,
    pub model: &'a str,
}

impl Domain<'_> {
    /// Whether a gang of this request may run here.
    pub fn suits(&self, request: &Request) -> bool {
        if request.gpus == 0 {
            self.model.is_empty()
        } else {
            !self.model.is_empty() && fits_kind(request, self.model)
        }
    }
}

/// What one node must have: GPUs, or room for ranks.
pub(super) fn need(request: &Request) -> u32 {
    if request.gpus == 0 {
        request.ranks
    } else {
        request.gpus
    }
}

/// Per domain: how many nodes have exactly so much.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shape<'a>(BTreeMap<Domain<'a>, BTreeMap<u32, u32>>);

impl<'a> Shape<'a> {
    /// What is free on nodes that take work.
    pub fn free(view: &'a ClusterView) -> Self {
        let mut shape = Self::default();
        for node in view.state.nodes().filter(|node| view.usable(node)) {
            for (domain, count) in free_on(view, node) {
                shape.add(domain, count);
            }
        }
        shape
    }

    /// One more node with `count` in `domain`.
    pub fn add(&mut self, domain: Domain<'a>, count: u32) {
        *self.0.entry(domain).or_default().entry(count).or_default() += 1;
    }

    /// The most nodes of one suitable domain that have enough each.
    pub fn nodes_with_room(&self, request: &Request) -> u32 {
        let room = |counts: &BTreeMap<u32, u32>| {
            counts.range(need(request)..).map(|(_, nodes)| *nodes).sum()
        };
        self.suitable(request).map(room).max().unwrap_or(0)
    }

    /// Whether a gang of this request fits.
    pub fn fits(&self, request: &Request) -> bool {
        self.nodes_with_room(request) >= request.nodes
    }

    /// Everything in suitable domains, added up.
    pub fn total(&self, request: &Request) -> u64 {
        let sum = |counts: &BTreeMap<u32, u32>| {
            counts
                .iter()
                .map(|(count, nodes)| u64::from(*count) * u64::from(*nodes))
                .sum::<u64>()
        };
        self.suitable(request).map(sum).sum()
    }

    /// Whether any domain suits.
    pub fn has_suitable(&self, request: &Request) -> bool {
        self.suitable(request).next().is_some()
    }

    /// The models there are.
    pub fn models(&self) -> Vec<String> {
        let mut models: Vec<&str> = self
            .0
            .keys()
            .map(|domain| domain.model)
            .filter(|model| !model.is_empty())
            .collect();
        models.sort_unstable();
        models.dedup();
        models.into_iter().map(str::to_owned).collect()
    }

    /// No node at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn suitable(&self, request: &Request) -> impl Iterator<Item = &BTreeMap<u32, u32>> {
        self.0
            .iter()
            .filter(|(domain, _)| domain.suits(request))
            .map(|(_, counts)| counts)
    }
}

/// Devices by model, and room for ranks without devices: an empty node takes any number.
fn free_on<'a>(view: &ClusterView, node: &'a Node) -> BTreeMap<Domain<'a>, u32> {
    let pool = node.facts.pool.as_str();
    let name = node.facts.name.as_str();
    let used = view.state.cpu_ranks_on(name);
    let most = node.facts.cpus.max(1).saturating_mul(CPU_RANKS_PER_CPU);
    let room = if used == 0 {
        u32::MAX
    } else {
        most.saturating_sub(used)
    };
    let mut found = BTreeMap::from([(Domain { pool, model: "" }, room)]);
    for device in &node.facts.devices {
        let model = device.model.as_str();
        let count = found.entry(Domain { pool, model }).or_default();
        let held = view.state.device_holder(name, &device.uuid).is_some();
        let free = !held && node.dirt_on(&device.uuid).is_none();
        *count = count.saturating_add(u32::from(free));
    }
    found
}
