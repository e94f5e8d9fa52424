//! PURE: nodes come, are heard of, fall silent and go. Judges nobody itself: `liveness` and the command's apply do.
use mlctl_proto::mutants::{Mutant, planted};

use super::silent::awaited;
use super::{AGAIN_MS, Link, Note, Output, Term, Why};
use crate::leader::gang::Report;
use crate::leader::leases::Waiting;
use crate::leader::liveness::{Mono, Verdict};
use crate::leader::orders::Order;
use crate::leader::reconcile::{on_hello, stale};
use crate::state::commands::{DeclareNodeLost, LossProof, RegisterNode, SetNodeLiveness};
use crate::state::records::Liveness;
use crate::state::{Body, State};

impl Term {
    pub(super) fn connected(&mut self, now: Mono, state: &State, link: Link, reports: &[Report]) {
        let node = link.facts.name.clone();
        self.note(Note::Connected {
            node: node.clone(),
            attempts: reports.len(),
        });
        self.judge.heard(&node, now);
        self.witnesses.heard(&node);
        self.gangs.unheard(&node);
        self.salvage.said(&node, reports);
        let host = link.facts.addresses.data.clone();
        self.copies.connected(state, &node, &host, link.data_port);
        if let Some(old) = self.links.insert(node.clone(), link) {
            self.out.push(Output::Close { link: old.id });
        }
        self.correct(now, state, &node, on_hello(state, &node, reports));
        for key in state.open_allocations_on(&node) {
            self.watch_gang(now, state, key);
        }
        for report in reports {
            self.report(state, &node, report);
        }
        self.planning.want();
    }

    pub(super) fn gone(&mut self, node: &str, link: u64) {
        if self.is_current(node, link) {
            self.links.remove(node);
            self.copies.gone(node);
            self.gangs.unheard(node);
            self.unsalvage(node);
            self.note(Note::Disconnected { node: node.into() });
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        now: Mono,
        state: &State,
        beat: Waiting,
        reports: &[Report],
    ) {
        if !self.is_current(&beat.node, beat.link) {
            return;
        }
        self.judge.heard(&beat.node, now);
        self.witnesses.heard(&beat.node);
        self.salvage.said(&beat.node, reports);
        self.raise(state, &beat.node);
        self.correct(now, state, &beat.node, stale(state, &beat.node, reports));
        for report in reports {
            self.report(state, &beat.node, report);
        }
        if planted(Mutant::LeaseWithoutRound) {
            return self.tell(&beat.node, Order::Lease { seq: beat.seq });
        }
        self.leases.arrived(beat);
    }

    pub(super) fn ready(
        &mut self,
        now: Mono,
        state: &State,
        node: &str,
        link: u64,
        report: &Report,
    ) {
        if self.is_current(node, link) {
            self.judge.heard(node, now);
            self.report(state, node, report);
        }
    }

    /// A node that is Lost, or about to be, gets no lease: what it ran may be closed, and it has not been told yet.
    pub(super) fn round_ended(&mut self, state: &State, confirmed: bool) {
        for waiting in self.leases.ended(confirmed) {
            let known = state.node(&waiting.node);
            let stays = !self.moving.contains(&waiting.node)
                && known.is_some_and(|known| known.liveness != Liveness::Lost);
            if stays && self.is_current(&waiting.node, waiting.link) {
                self.tell(&waiting.node, Order::Lease { seq: waiting.seq });
            }
        }
    }

    pub(super) fn proposed(&mut self, now: Mono, state: &State, why: Why, carried: bool) {
        match why {
            Why::Archive => self.archiving.ended(now, carried, AGAIN_MS),
            Why::Late => self.late.ended(now, carried, AGAIN_MS),
            Why::Renew => self.renewing.ended(now, carried, AGAIN_MS),
            Why::Axis(node) => {
                self.moving.remove(&node);
                if carried {
                    self.copies.touch_all(state);
                    self.fell_silent(now, state, &node);
                } else {
                    self.judge.again_at(now + AGAIN_MS);
                }
            }
            Why::Supersede(key) => self.superseded(state, key, carried),
        }
    }

    /// All streams end: what was dropped is derived again when the agents say hello.
    pub(super) fn close_all(&mut self) {
        for link in std::mem::take(&mut self.links).into_values() {
            self.salvage.said(&link.facts.name, &[]);
            self.copies.gone(&link.facts.name);
            self.out.push(Output::Close { link: link.id });
        }
        self.planning.want();
    }

    /// Nothing is on its way from a node whose stream is gone: who waited for it waits no longer.
    fn unsalvage(&mut self, node: &str) {
        if self.salvage.said(node, &[]) {
            self.planning.want();
        }
    }

    /// A node that was thought silent is heard.
    fn raise(&mut self, state: &State, node: &str) {
        let (Some(known), Some(link)) = (state.node(node), self.links.get(node)) else {
            return;
        };
        let body = match known.liveness {
            Liveness::Ready => return,
            Liveness::Unreachable => Body::SetNodeLiveness(SetNodeLiveness {
                node: node.to_owned(),
                boot_id: link.facts.boot_id.clone(),
                liveness: Liveness::Ready,
            }),
            Liveness::Joining | Liveness::Lost => Body::RegisterNode(RegisterNode {
                facts: link.facts.clone(),
                journal_id: link.journal_id.clone(),
            }),
        };
        self.move_axis(node, body);
    }

    pub(super) fn judge_silence(&mut self, now: Mono, state: &State) {
        let nodes = state.nodes().map(|node| {
            let name = node.facts.name.as_str();
            (name, awaited(state, name, node.liveness))
        });
        for verdict in self.judge.judge(nodes, now) {
            let (node, lost) = match verdict {
                Verdict::Unreachable(node) => (node, false),
                Verdict::Lost(node) => (node, true),
            };
            let Some(known) = state.node(&node) else {
                continue;
            };
            let boot_id = known.facts.boot_id.clone();
            self.note(Note::Silent {
                node: node.clone(),
                lost,
            });
            let body = if lost {
                Body::DeclareNodeLost(DeclareNodeLost {
                    node: node.clone(),
                    boot_id,
                    proof: LossProof::LostAfter,
                })
            } else {
                Body::SetNodeLiveness(SetNodeLiveness {
                    node: node.clone(),
                    boot_id,
                    liveness: Liveness::Unreachable,
                })
            };
            self.move_axis(&node, body);
        }
    }

    pub(super) fn move_axis(&mut self, node: &str, body: Body) {
        if self.moving.insert(node.to_owned()) {
            self.propose(body, Why::Axis(node.to_owned()));
        }
    }
}
