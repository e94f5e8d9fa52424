//! PURE: the parts that a node has against those that the state believes it has. The difference is told to the node, which knows best.
use std::collections::BTreeSet;

use super::{CopyOrder, Told};
use crate::state::State;
use crate::state::records::PartKey;

/// Parts that one node may list.
pub(super) const PARTS_MAX: usize = 1 << 20;

/// What a node is to forget, and of what it is to say whether it has it. Of a list that is `cut` nothing is missing.
pub(super) fn compare(state: &State, node: &str, parts: Vec<PartKey>, cut: bool) -> Vec<Told> {
    let has: BTreeSet<PartKey> = parts.into_iter().collect();
    let mut believed: BTreeSet<PartKey> = BTreeSet::new();
    let mut known: BTreeSet<PartKey> = BTreeSet::new();
    let of_jobs = state.jobs().flat_map(|job| {
        let keys = job.checkpoints.iter();
        keys.flat_map(|one| one.keys(job.id))
    });
    for (key, holders) in of_jobs {
        if holders.iter().any(|holder| holder == node) {
            believed.insert(key);
        } else if has.contains(&key) {
            known.insert(key);
        }
    }
    let lacks = believed.difference(&has).filter(|_| !cut).cloned();
    let unsaid: Vec<PartKey> = known.iter().cloned().chain(lacks).collect();
    let forget = |key: &&PartKey| {
        // What is in history stays where it is.
        let over = state.is_archived(key.job);
        !over && !believed.contains(key) && !known.contains(key)
    };
    let forget: Vec<PartKey> = has.iter().filter(forget).cloned().collect();
    let mut told = Vec::new();
    if !unsaid.is_empty() {
        told.push((node.to_owned(), CopyOrder::Announce(unsaid)));
    }
    if !forget.is_empty() {
        told.push((node.to_owned(), CopyOrder::Forget(forget)));
    }
    told
}
