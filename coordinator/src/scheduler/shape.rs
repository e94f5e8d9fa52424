//! How many nodes have how much, by domain: enough to say whether a request fits, and why not, without looking at each node.
use std::collections::BTreeMap;

use crate::state::rules::{Request, fits_kind};

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

    /// The place of this domain in the request's list of types: the first that the model's name holds.
    pub fn preference(&self, request: &Request) -> usize {
        let model = self.model.to_lowercase();
        request
            .kinds
            .iter()
            .position(|kind| model.contains(kind.as_str()))
            .unwrap_or(0)
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
    /// One more node with `count` in `domain`.
    pub fn add(&mut self, domain: Domain<'a>, count: u32) {
        self.add_many(domain, count, 1);
    }

    /// So many more nodes with `count` in `domain`.
    pub fn add_many(&mut self, domain: Domain<'a>, count: u32, nodes: u32) {
        *self.0.entry(domain).or_default().entry(count).or_default() += nodes;
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
