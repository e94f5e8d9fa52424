//! PURE: what nodes are told to upload because a person wants a checkpoint in an object store now, and which node each part is asked of first.
//! Does NOT wait for any of it, and nothing of it is remembered: what was uploaded to the store of the job's spec is told by the nodes' events.
use std::collections::{BTreeMap, BTreeSet};

use super::CopyOrder;
use super::uploads::{maker, order};
use crate::state::State;
use crate::state::records::{Checkpoint, Job};
use crate::state::rules::checkpoint_rules;

/// Where a person wants a checkpoint to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Its URL.
    pub url: String,
    /// Not the one that the job's spec names: it does not count that something is there.
    pub elsewhere: bool,
}

/// A part that is to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPart {
    /// Node rank of the node that made it.
    pub index: u32,
    /// Its size.
    pub bytes: u64,
    /// All that hold it.
    pub holders: Vec<String>,
    /// Those of them that are connected, in the order in which they are asked.
    pub nodes: Vec<String>,
    /// The store has it already, by a node's event.
    pub there: bool,
    /// What a node is told.
    pub order: CopyOrder,
}

/// The parts of `checkpoint` with something in them. Each is asked of the holder of which the fewest others are asked, among equals of its maker.
pub fn wanted(
    state: &State,
    job: &Job,
    checkpoint: &Checkpoint,
    connected: &BTreeSet<String>,
    store: &Store,
) -> Vec<WantedPart> {
    let rules = checkpoint_rules(state, job);
    let mut loads: BTreeMap<String, usize> = BTreeMap::new();
    let mut wanted = Vec::new();
    for part in checkpoint.filled() {
        let Some(key) = checkpoint.key(job.id, part) else {
            continue;
        };
        let Some(order) = order(state, &key, (&store.url, store.elsewhere), &rules) else {
            continue;
        };
        let made = maker(state, checkpoint, job, part);
        let mut nodes: Vec<String> = part.holders.clone();
        nodes.retain(|node| connected.contains(node));
        nodes.sort_by_key(|node| {
            let load = loads.get(node).copied().unwrap_or(0);
            (load, made != Some(node.as_str()), node.clone())
        });
        if let Some(first) = nodes.first() {
            let load = loads.entry(first.clone()).or_default();
            *load = load.saturating_add(1);
        }
        wanted.push(WantedPart {
            index: part.index,
            bytes: part.bytes,
            holders: part.holders.clone(),
            nodes,
            there: part.uploaded && !store.elsewhere,
            order,
        });
    }
    wanted
}
