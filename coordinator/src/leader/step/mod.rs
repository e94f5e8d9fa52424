//! PURE: the leader's step. All soft state of one term; what happens goes in, what is to be done comes out as data.
//!
//! `step(now, state, event) -> outputs`. The driver (`lead`) and the simulator do nothing but feed it and carry its outputs
//! out, so both run the same leader. It knows no channel, task or clock, and writes no log: what people should read is a
//! [`Note`]. Outputs may be carried out late or lost with the process: every one is derived again from what agents say.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
mod archiving;
mod attempts;
mod early;
mod late;
mod nodes;
mod planning;
mod renewing;
mod salvage;
mod silent;
#[cfg(test)]
mod silent_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::copies::{Copies, DataPeer, Told, Word};
use super::gang::{Gangs, Key, Report};
use super::leases::{Leases, Waiting};
use super::liveness::{Judge, Mono};
use super::orders::{self, Order, Relay, Testimony};
use super::witness::{Targets, Witnesses};
use crate::state::records::NodeFacts;
use crate::state::{Body, Effect, State};
use archiving::Archiving;
use early::Early;
use late::Late;
use mlctl_proto::ids::JobId;
use planning::Planning;
pub use planning::plan_again_in;
use renewing::Renewing;
use salvage::Salvage;

/// A command that could not be proposed is proposed again after this, milliseconds.
const AGAIN_MS: u64 = 300;
/// Rounds of leases begin at most this far apart, milliseconds; sooner where heartbeats are.
const LEASE_GAP_MS: u64 = 500;

/// A node whose stream is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Which of its streams this is; a later one replaces it.
    pub id: u64,
    /// What it is.
    pub facts: NodeFacts,
    /// Its events are numbered within this journal.
    pub journal_id: String,
    /// Where it takes and gives parts of checkpoints, 0: nowhere.
    pub data_port: u16,
}

/// What happens to a leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A deadline may have passed.
    Time,
    /// A node said hello and is registered.
    Connected {
        /// Its stream.
        link: Box<Link>,
        /// All that it runs.
        reports: Vec<Report>,
    },
    /// A stream ended.
    Gone {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
    },
    /// A node lives, and this is all that it runs.
    Heartbeat {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// The heartbeat's number.
        seq: u64,
        /// Running, and ended but not acknowledged.
        reports: Vec<Report>,
    },
    /// A node has a word for another one of an attempt.
    Relay {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// For whom, and what.
        relay: Relay,
    },
    /// A node tells who answers witnesses there.
    Targets {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// All of them.
        targets: Targets,
    },
    /// A node was asked for a silent one.
    Probed {
        /// The node that was asked.
        node: String,
        /// Which of its streams.
        link: u64,
        /// What it says.
        answer: Testimony,
    },
    /// A node speaks of parts of checkpoints.
    Copies {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// What it says.
        word: Word,
    },
    /// A node is ready for its part of a gang.
    Ready {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// Which attempt, with the port.
        report: Report,
    },
    /// What applying commands asks for. The state given in has all of them.
    Effects {
        /// In the order of the log.
        effects: Vec<Effect>,
        /// Some before these were dropped.
        overflowed: bool,
    },
    /// The round of reads ended.
    RoundEnded {
        /// This member still led when it began.
        confirmed: bool,
    },
    /// The plan was made and proposed.
    PlanEnded {
        /// Its answer may differ after this long, milliseconds, by time alone: [`plan_again_in`].
        again_in: Option<u64>,
        /// The deadline of some job is over.
        late: bool,
    },
    /// What became of a proposal.
    Proposed {
        /// What it was for.
        why: Why,
        /// It is in the state.
        carried: bool,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Tell a node. If that is not possible: [`Event::Gone`].
    Tell {
        /// The node.
        node: String,
        /// Its stream.
        link: u64,
        /// What.
        order: Order,
    },
    /// End this stream; it is not the node's any more.
    Close {
        /// Which.
        link: u64,
    },
    /// Replicate this, then [`Event::Proposed`].
    Propose {
        /// The command.
        body: Box<Body>,
        /// What for.
        why: Why,
    },
    /// Run a round of reads, then [`Event::RoundEnded`].
    Read,
    /// Plan on the newest state and propose the result, then [`Event::PlanEnded`].
    Plan {
        /// Nodes that this leader has heard of: no plan may need another.
        heard: BTreeSet<String>,
        /// Jobs that do not start yet: word of a checkpoint of their last attempt is on its way.
        salvaging: BTreeSet<JobId>,
    },
    /// Something that people should read.
    Note(Note),
}

/// What a proposal is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The liveness of this node.
    Axis(String),
    /// That this attempt takes over from the one in doubt; it is told to go after that.
    Supersede(Key),
    /// Jobs that are over leave the tables.
    Archive,
    /// Jobs whose deadline is over end.
    Late,
    /// What attempts have committed at budgets is renewed.
    Renew,
}

/// For the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A node's stream began.
    Connected {
        /// The node.
        node: String,
        /// How many attempts it reported.
        attempts: usize,
    },
    /// A node's stream ended.
    Disconnected {
        /// The node.
        node: String,
    },
    /// A node runs what the cluster never knew.
    Orphan {
        /// The node.
        node: String,
        /// What.
        key: Key,
    },
    /// A node is silent.
    Silent {
        /// The node.
        node: String,
        /// Lost, not only Unreachable.
        lost: bool,
    },
    /// Others are asked for a silent node.
    Asked {
        /// The silent one.
        node: String,
        /// Who, for people.
        witnesses: String,
    },
    /// A silent node is heard by another one.
    Seen {
        /// The silent one.
        node: String,
        /// Who hears it.
        witness: String,
    },
    /// A gang was not ready in time and is ended.
    NotReady {
        /// The attempt.
        key: Key,
        /// The nodes that were not, for people.
        missing: String,
    },
    /// A job that could start waits for word of a checkpoint.
    Salvaging {
        /// Its last attempt.
        key: Key,
        /// From whom, for people.
        nodes: String,
    },
    /// It waits no longer.
    Salvaged {
        /// Its last attempt.
        key: Key,
        /// It came, or will not come; not: the time is over.
        in_time: bool,
    },
    /// More effects than fit: all agents connect anew.
    Overflowed,
}

/// One leader during one term.
#[derive(Debug)]
pub struct Term {
    links: BTreeMap<String, Link>,
    judge: Judge,
    leases: Leases,
    gangs: Gangs,
    planning: Planning,
    archiving: Archiving,
    late: Late,
    renewing: Renewing,
    /// Nodes whose liveness is being proposed.
    moving: BTreeSet<String>,
    /// Successors that are about to take over.
    superseding: BTreeSet<Key>,
    salvage: Salvage,
    early: Early,
    copies: Copies,
    witnesses: Witnesses,
    /// How long a node that a witness heard is not asked for again.
    node_timeout_ms: u64,
    /// Orphans that were named.
    named: BTreeSet<(String, Key)>,
    out: Vec<Output>,
}

impl Term {
    /// A term that begins `now`; `None` while the cluster has no settings.
    pub fn new(now: Mono, state: &State) -> Option<Self> {
        let timers = state.settings()?.timers;
        Some(Self {
            links: BTreeMap::new(),
            judge: Judge::new(timers, now),
            leases: Leases::new(LEASE_GAP_MS.min(u64::from(timers.heartbeat_ms) / 2)),
            gangs: Gangs::default(),
            planning: Planning::wanted(),
            archiving: Archiving::default(),
            late: Late::default(),
            renewing: Renewing::default(),
            moving: BTreeSet::new(),
            superseding: BTreeSet::new(),
            salvage: Salvage::new(timers),
            early: Early::default(),
            copies: Copies::new(state),
            witnesses: Witnesses::default(),
            node_timeout_ms: u64::from(timers.node_timeout_ms),
            named: BTreeSet::new(),
            out: Vec::new(),
        })
    }

    /// Where those of `nodes` that are connected give parts of checkpoints.
    pub fn data_peers(&self, nodes: &[String]) -> Vec<DataPeer> {
        let peers = nodes.iter().filter_map(|node| self.copies.peer(node));
        peers.collect()
    }

    /// The stream of a node that is connected.
    pub fn link(&self, node: &str) -> Option<u64> {
        self.links.get(node).map(|link| link.id)
    }

    /// When [`Event::Time`] is due at the latest.
    pub fn next_wake(&self) -> Mono {
        let others = [
            self.gangs.next(),
            self.leases.due(),
            self.planning.next(),
            self.salvage.next(),
            self.copies.next(),
            self.witnesses.next(),
            self.late.next(),
        ];
        let others = others.into_iter().flatten();
        others.fold(self.judge.next(), Mono::min)
    }

    /// Takes one event in, then does whatever is due.
    pub fn step(&mut self, now: Mono, state: &State, event: Event) -> Vec<Output> {
        match event {
            Event::Time => {}
            Event::Connected { link, reports } => self.connected(now, state, *link, &reports),
            Event::Gone { node, link } => self.gone(&node, link),
            Event::Heartbeat {
                node,
                link,
                seq,
                reports,
            } => self.heartbeat(now, state, Waiting { node, link, seq }, &reports),
            Event::Copies { node, link, word } => {
                if self.is_current(&node, link) {
                    if matches!(word, Word::Gone { .. }) {
                        // A job may have waited for it.
                        self.planning.want();
                    }
                    let told = self.copies.said(now, state, &node, word);
                    self.tell_all(told);
                }
            }
            Event::Ready { node, link, report } => self.ready(now, state, &node, link, &report),
            Event::Relay { node, link, relay } => self.relay(state, &node, link, relay),
            Event::Targets {
                node,
                link,
                targets,
            } => self.targets(&node, link, targets),
            Event::Probed { node, link, answer } => {
                self.testified(now, state, (&node, link), &answer);
            }
            Event::Effects {
                effects,
                overflowed,
            } => self.effects(now, state, effects, overflowed),
            Event::RoundEnded { confirmed } => self.round_ended(state, confirmed),
            Event::PlanEnded { again_in, late } => {
                self.planning.ended(again_in, now);
                if late {
                    self.late.want();
                }
            }
            Event::Proposed { why, carried } => self.proposed(now, state, why, carried),
        }
        self.on_time(now, state);
        std::mem::take(&mut self.out)
    }

    /// Whatever is due: verdicts, gangs that took too long, a round of leases, a plan.
    fn on_time(&mut self, now: Mono, state: &State) {
        if self.judge.next() <= now {
            self.judge_silence(now, state);
        }
        self.ask_for_silent(now, state);
        for key in self.gangs.expire(now) {
            self.give_up(state, key);
        }
        if self.leases.begin(now) {
            self.out.push(Output::Read);
        }
        if self.salvage.next().is_some_and(|at| at <= now) {
            self.planning.want();
        }
        let told = self.copies.look(now, state);
        self.tell_all(told);
        if self.planning.begin(now) {
            let heard = self.links.keys().cloned().collect();
            let incomplete = self.copies.incomplete(state);
            let (salvaging, notes) = self.salvage.held(now, state, &incomplete);
            self.out.push(Output::Plan { heard, salvaging });
            self.out.extend(notes.into_iter().map(Output::Note));
        }
        if let Some(archive) = self.archiving.begin(now, state) {
            self.propose(Body::ArchiveJobs(archive), Why::Archive);
        }
        if let Some(late) = self.late.begin(now) {
            self.propose(Body::DropLate(late), Why::Late);
        }
        if let Some(renew) = self.renewing.begin(now, state) {
            self.propose(Body::RenewCharges(renew), Why::Renew);
        }
    }

    fn is_current(&self, node: &str, link: u64) -> bool {
        self.links
            .get(node)
            .is_some_and(|current| current.id == link)
    }

    /// Tells a node, if it is connected; else it is told when it connects.
    fn tell(&mut self, node: &str, order: Order) {
        if let Some(link) = self.links.get(node) {
            self.out.push(Output::Tell {
                node: node.to_owned(),
                link: link.id,
                order,
            });
        }
    }

    fn tell_all(&mut self, told: Vec<Told>) {
        for (node, order) in told {
            self.tell(&node, Order::Copies(Box::new(order)));
        }
    }

    /// Passes a word on between two nodes of an open attempt; nobody else has a word there. What cannot be delivered is dropped: it is said
    /// again until it is answered.
    fn relay(&mut self, state: &State, node: &str, link: u64, relay: Relay) {
        let attempt = state.attempt(relay.job, relay.epoch);
        let Some(attempt) = attempt.filter(|attempt| attempt.end.is_none()) else {
            return;
        };
        let nodes = orders::nodes(attempt);
        let member = |name: &str| nodes.iter().any(|node| node == name);
        if self.is_current(node, link) && member(node) && member(&relay.node) {
            let to = relay.node.clone();
            let node = node.to_owned();
            self.tell(&to, Order::Relay(Relay { node, ..relay }));
        }
    }

    fn note(&mut self, note: Note) {
        self.out.push(Output::Note(note));
    }

    fn propose(&mut self, body: Body, why: Why) {
        let body = Box::new(body);
        self.out.push(Output::Propose { body, why });
    }
}
