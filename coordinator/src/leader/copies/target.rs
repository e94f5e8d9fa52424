//! PURE: the node that gets the next copy of a part, and the one that sends it: in another failure domain first, then where the fewest copies are
//! under way, then where there is most room. The same question has the same answer.
use std::collections::{BTreeMap, BTreeSet};

use super::{AT_ONCE, Copies, Peer};
use crate::leader::liveness::Mono;
use crate::state::State;
use crate::state::records::{Admin, Liveness, Node, Part, PartKey};

/// The label that names a failure domain. Nodes without it are each their own.
const DOMAIN: &str = "rack";
/// A node keeps so much free beside the copy, bytes.
const SPARE: u64 = 256 << 20;

/// Who copies to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) from: String,
    pub(super) to: String,
}

impl Copies {
    /// The next copy of `part`; `None` while nobody can send or take one.
    pub(super) fn choose(
        &self,
        now: Mono,
        state: &State,
        key: &PartKey,
        part: &Part,
    ) -> Option<Choice> {
        let (from, network) = self.source(state, part)?;
        let domains: BTreeSet<&str> = part
            .holders
            .iter()
            .filter_map(|holder| domain(state.node(holder)?))
            .collect();
        let coming_to = self.coming();
        let holds = part.holders.iter().map(String::as_str);
        let taken: BTreeSet<&str> = holds.chain(self.targets(key)).collect();
        let rests = |name: &str| {
            let until = self.failed.get(&(key.clone(), name.to_owned()));
            until.is_some_and(|until| *until > now)
        };
        let candidates = self.peers.iter().filter_map(|(name, peer)| {
            let node = state.node(name)?;
            let fits = free(peer) >= part.bytes.saturating_add(SPARE);
            let takes = takes(node) && network_of(node) == network && fits;
            let coming = coming_to.get(name.as_str()).copied().unwrap_or(0);
            let name_taken = taken.contains(name.as_str());
            if !takes || name_taken || rests(name) || coming >= AT_ONCE {
                return None;
            }
            let near = domain(node).is_some_and(|domain| domains.contains(domain));
            Some((near, coming, u64::MAX - free(peer), name))
        });
        let (.., to) = candidates.min()?;
        let to = to.clone();
        Some(Choice { from, to })
    }

    /// How many copies are on their way to each node.
    fn coming(&self) -> BTreeMap<&str, usize> {
        let mut coming = BTreeMap::new();
        for ((_, to), one) in &self.moves {
            if !one.sent {
                let count: &mut usize = coming.entry(to.as_str()).or_default();
                *count = count.saturating_add(1);
            }
        }
        coming
    }

    /// The connected holder that sends least, with its network.
    fn source<'a>(&self, state: &'a State, part: &Part) -> Option<(String, &'a str)> {
        let sends = |name: &str| {
            let moves = self.moves.values();
            moves.filter(|one| one.from == name && !one.sent).count()
        };
        let connected = part.holders.iter().filter_map(|name| {
            let node = state.node(name)?;
            self.peers.get(name)?;
            Some((sends(name), name, node))
        });
        let least = connected.filter(|(sends, ..)| *sends < AT_ONCE);
        let (_, name, node) = least.min_by_key(|(sends, name, _)| (*sends, *name))?;
        Some((name.clone(), network_of(node)))
    }
}

/// Unknown until its first heartbeat says more.
fn free(peer: &Peer) -> u64 {
    peer.room.as_ref().map_or(u64::MAX / 2, |room| room.free)
}

fn takes(node: &Node) -> bool {
    node.liveness == Liveness::Ready && node.admin == Admin::Open
}

fn network_of(node: &Node) -> &str {
    let network = &node.facts.addresses.network;
    if network.is_empty() {
        &node.facts.pool
    } else {
        network
    }
}

fn domain(node: &Node) -> Option<&str> {
    node.facts.labels.get(DOMAIN).map(String::as_str)
}
