//! PURE: silent nodes. Other nodes are asked whether they hear them, and what they say together is acted upon.
//! Does NOT judge silence: `liveness` does; nor what the answers mean: `witness` does.
use mlctl_proto::spec::OnDisconnect;

use super::{Note, Term};
use crate::leader::liveness::Mono;
use crate::leader::orders::{Order, ProbeOrder, Testimony};
use crate::leader::witness::{Finding, Targets};
use crate::state::commands::{DeclareNodeLost, LossProof};
use crate::state::records::{Liveness, Node};
use crate::state::{Body, State};

/// Without a gang's peer so many nodes of the network have to say the same.
const WITNESSES: usize = 2;

/// What a node's liveness is to the judge of silence. One that is Lost by witnesses and still keeps what is fenced has to be lost once more,
/// by `lost_after`.
pub(super) fn awaited(state: &State, node: &str, liveness: Liveness) -> Liveness {
    let fenced = || {
        let mut open = state.open_allocations_on(node).into_iter();
        open.any(|(job, epoch)| {
            let job = state.job(job);
            let wants = job.is_some_and(|job| job.on_disconnect == OnDisconnect::Fence);
            let attempt = job.and_then(|job| state.attempt(job.id, epoch));
            wants && attempt.is_some_and(|attempt| !attempt.in_doubt)
        })
    };
    if liveness == Liveness::Lost && fenced() {
        Liveness::Unreachable
    } else {
        liveness
    }
}

impl Term {
    pub(super) fn targets(&mut self, node: &str, link: u64, targets: Targets) {
        if self.is_current(node, link) {
            self.witnesses.learn(node, targets);
        }
    }

    /// A node's liveness was recorded.
    pub(super) fn fell_silent(&mut self, now: Mono, state: &State, node: &str) {
        if unreachable(state, node).is_some() {
            self.witnesses.fell_silent(node, now);
        }
    }

    /// Has others asked for whoever is silent and was not asked for lately.
    pub(super) fn ask_for_silent(&mut self, now: Mono, state: &State) {
        for node in self.witnesses.due(now) {
            let Some(silent) = unreachable(state, &node) else {
                self.witnesses.forget(&node);
                continue;
            };
            let chosen = self.choose(now, state, silent);
            let Some((id, targets)) = self.witnesses.ask(&node, &chosen, now) else {
                continue;
            };
            let witnesses = chosen.join(", ");
            for witness in chosen {
                let order = ProbeOrder {
                    id,
                    node: node.clone(),
                    address: silent.facts.addresses.data.clone(),
                    targets: targets.clone(),
                };
                self.tell(&witness, Order::Probe(Box::new(order)));
            }
            self.note(Note::Asked { node, witnesses });
        }
    }

    /// A peer of its gang, for that is who misses it; else two nodes of its network. None if there are too few.
    fn choose(&self, now: Mono, state: &State, silent: &Node) -> Vec<String> {
        let name = &silent.facts.name;
        let able = |other: &Node| {
            let other = &other.facts.name;
            other != name && self.links.contains_key(other) && self.judge.is_fresh(other, now)
        };
        let open = state.open_allocations_on(name).into_iter();
        let gangs = open.filter_map(|(job, epoch)| state.attempt(job, epoch));
        let peers = gangs.flat_map(|attempt| &attempt.allocations);
        let mut peers = peers.filter_map(|one| state.node(&one.node));
        if let Some(peer) = peers.find(|one| able(one)) {
            return vec![peer.facts.name.clone()];
        }
        let near = state
            .nodes()
            .filter(|one| able(one) && network(one) == network(silent));
        let near: Vec<String> = near
            .take(WITNESSES)
            .map(|one| one.facts.name.clone())
            .collect();
        if near.len() < WITNESSES {
            return Vec::new();
        }
        near
    }

    /// A witness answers.
    pub(super) fn testified(
        &mut self,
        now: Mono,
        state: &State,
        (witness, link): (&str, u64),
        answer: &Testimony,
    ) {
        if !self.is_current(witness, link) {
            return;
        }
        let node = answer.node.as_str();
        let times = (now, self.node_timeout_ms);
        let finding = self
            .witnesses
            .answered(node, witness, answer.id, answer.seen, times);
        match (finding, unreachable(state, node)) {
            (Finding::Seen, _) => self.note(Note::Seen {
                node: node.to_owned(),
                witness: witness.to_owned(),
            }),
            (Finding::Lost, Some(silent)) => {
                let boot_id = silent.facts.boot_id.clone();
                let body = Body::DeclareNodeLost(DeclareNodeLost {
                    node: node.to_owned(),
                    boot_id,
                    proof: LossProof::Witness,
                });
                self.note(Note::Silent {
                    node: node.to_owned(),
                    lost: true,
                });
                self.move_axis(node, body);
            }
            _ => {}
        }
    }
}

fn unreachable<'a>(state: &'a State, node: &str) -> Option<&'a Node> {
    let node = state.node(node).map(AsRef::as_ref);
    node.filter(|node| node.liveness == Liveness::Unreachable)
}

/// Nodes of one network reach each other; by default that is the pool.
fn network(node: &Node) -> &str {
    let named = node.facts.addresses.network.as_str();
    if named.is_empty() {
        &node.facts.pool
    } else {
        named
    }
}
