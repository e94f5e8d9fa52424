//! The leader's loop of a simulated coordinator: the same pure parts as the product's (liveness, leases, gangs, reconcile,
//! scheduler), driven by hand. Does NOT send or propose anything: what is to be done is left in `todo`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mlctl_agent::core as agent;
use mlctl_coordinator::leader::gang::{Gangs, Go, Key, Report};
use mlctl_coordinator::leader::leases::{Leases, Waiting};
use mlctl_coordinator::leader::liveness::{Judge, Verdict};
use mlctl_coordinator::leader::reconcile::{Correction, on_hello, stale};
use mlctl_coordinator::scheduler;
use mlctl_coordinator::state::commands::{
    DeclareNodeLost, LossProof, RegisterNode, SetNodeLiveness, StartAttempts,
};
use mlctl_coordinator::state::records::{EndKind, Liveness, NodeFacts};
use mlctl_coordinator::state::view::ClusterView;
use mlctl_coordinator::state::{Body, Effect, State};
use mlctl_proto::limits::{GANG_READY_MS, STOP_GRACE_MS};

use super::words;

const AGAIN_MS: u64 = 300;
const PLAN_AGAIN_MS: u64 = 500;

/// Something for the world to do on behalf of the loop.
pub(super) enum Todo {
    /// Tell the agent behind this stream.
    Tell(u64, agent::LeaderMessage),
    /// Replicate this.
    Propose(Box<Body>, Why),
    /// Run a round of reads.
    Read,
}

/// What a proposal of the loop is for.
#[derive(Clone, Debug)]
pub(super) enum Why {
    Bootstrap,
    Plan,
    Axis(String),
}

/// A node whose stream is open.
pub(super) struct LinkOf {
    pub(super) stream: u64,
    pub(super) facts: NodeFacts,
    pub(super) journal_id: String,
}

/// All soft state of one term.
pub(super) struct Lead {
    pub(super) term: u64,
    began: u64,
    links: BTreeMap<String, LinkOf>,
    judge: Judge,
    leases: Leases,
    gangs: Gangs,
    wanted: bool,
    planning: bool,
    plan_at: Option<u64>,
    moving: BTreeSet<String>,
    pub(super) todo: VecDeque<Todo>,
}

impl Lead {
    /// A loop that begins `now`; `None` while the cluster has no settings.
    pub(super) fn new(term: u64, state: &State, now: u64) -> Option<Self> {
        let timers = state.settings()?.timers;
        Some(Self {
            term,
            began: now,
            links: BTreeMap::new(),
            judge: Judge::new(timers, 0),
            leases: Leases::new(u64::from(timers.heartbeat_ms) / 5),
            gangs: Gangs::default(),
            wanted: true,
            planning: false,
            plan_at: None,
            moving: BTreeSet::new(),
            todo: VecDeque::new(),
        })
    }

    pub(super) fn is_current(&self, node: &str, stream: u64) -> bool {
        self.links
            .get(node)
            .is_some_and(|link| link.stream == stream)
    }

    /// Whatever is due.
    pub(super) fn on_time(&mut self, state: &State, now: u64, wall_ms: i64) {
        let now = now - self.began;
        if self.judge.next() <= now {
            self.judge_silence(state, now);
        }
        for key in self.gangs.expire(now) {
            let members = members_of(state, key);
            for node in members {
                self.stop(&node, key, EndKind::LaunchFailed);
            }
        }
        if self.leases.begin(now) {
            self.todo.push_back(Todo::Read);
        }
        if !self.planning && (self.wanted || self.plan_at.is_some_and(|at| at <= now)) {
            (self.wanted, self.plan_at) = (false, None);
            let heard: BTreeSet<String> = self.links.keys().cloned().collect();
            let plan = scheduler::plan(&ClusterView::new(state.clone(), heard), wall_ms);
            if plan.starts.is_empty() {
                self.plan_at = plan.next.map(|_| now + PLAN_AGAIN_MS);
            } else {
                self.planning = true;
                let starts = StartAttempts {
                    starts: plan.starts,
                };
                let body = Body::StartAttempts(starts);
                self.todo
                    .push_back(Todo::Propose(Box::new(body), Why::Plan));
            }
        }
    }

    /// A plan was carried out, or not.
    pub(super) fn planned(&mut self, carried: bool, now: u64) {
        self.planning = false;
        if !carried {
            self.plan_at = Some(now - self.began + PLAN_AGAIN_MS);
        }
    }

    pub(super) fn axis_moved(&mut self, node: &str, carried: bool, now: u64) {
        self.moving.remove(node);
        if !carried {
            self.judge.again_at(now - self.began + AGAIN_MS);
        }
    }

    pub(super) fn connected(
        &mut self,
        state: &State,
        node: &str,
        link: LinkOf,
        reports: &[Report],
        now: u64,
    ) {
        self.judge.heard(node, now - self.began);
        self.gangs.unheard(node);
        self.links.insert(node.to_owned(), link);
        self.correct(state, node, on_hello(state, node, reports), now);
        for key in state.open_allocations_on(node) {
            self.watch_gang(state, key, now);
        }
        for report in reports {
            self.report(node, report);
        }
        self.wanted = true;
    }

    pub(super) fn heartbeat(
        &mut self,
        state: &State,
        node: &str,
        stream: u64,
        seq: u64,
        reports: &[Report],
        now: u64,
    ) {
        self.judge.heard(node, now - self.began);
        self.raise(state, node);
        self.correct(state, node, stale(state, node, reports), now);
        for report in reports {
            self.report(node, report);
        }
        let (node, link) = (node.to_owned(), stream);
        self.leases.arrived(Waiting { node, link, seq });
    }

    pub(super) fn ready(&mut self, node: &str, report: &Report, now: u64) {
        self.judge.heard(node, now - self.began);
        self.report(node, report);
    }

    pub(super) fn gone(&mut self, node: &str) {
        self.links.remove(node);
        self.gangs.unheard(node);
    }

    pub(super) fn round_ended(&mut self, confirmed: bool) {
        for waiting in self.leases.ended(confirmed) {
            if self.is_current(&waiting.node, waiting.link) {
                let answer = agent::LeaderMessage::HeartbeatAnswer { seq: waiting.seq };
                self.todo.push_back(Todo::Tell(waiting.link, answer));
            }
        }
    }

    /// What applying a command asks for.
    pub(super) fn effects(&mut self, state: &State, effects: Vec<Effect>, now: u64) {
        for effect in effects {
            match effect {
                Effect::Start { node, job, epoch } => self.start(state, &node, (job, epoch), now),
                Effect::Stop {
                    node,
                    job,
                    epoch,
                    reason,
                } => {
                    self.gangs.forget((job, epoch));
                    self.stop(&node, (job, epoch), reason);
                }
                Effect::EventsApplied {
                    node,
                    journal_id,
                    up_to,
                } => {
                    let link = self
                        .links
                        .get(&node)
                        .filter(|link| link.journal_id == journal_id);
                    if let Some(stream) = link.map(|link| link.stream) {
                        let applied = agent::LeaderMessage::EventsApplied { up_to };
                        self.todo.push_back(Todo::Tell(stream, applied));
                    }
                }
                Effect::Replan => self.wanted = true,
            }
        }
        let over = |key: Key| {
            let attempt = state.attempt(key.0, key.1);
            attempt.is_none_or(|attempt| attempt.running_ms > 0 || attempt.closed())
        };
        self.gangs.forget_if(over);
    }

    fn judge_silence(&mut self, state: &State, now: u64) {
        let nodes = state
            .nodes()
            .map(|node| (node.facts.name.as_str(), node.liveness));
        for verdict in self.judge.judge(nodes, now) {
            let (node, lost) = match verdict {
                Verdict::Unreachable(node) => (node, false),
                Verdict::Lost(node) => (node, true),
            };
            let Some(boot_id) = state.node(&node).map(|known| known.facts.boot_id.clone()) else {
                continue;
            };
            let body = if lost {
                let proof = LossProof::LostAfter;
                Body::DeclareNodeLost(DeclareNodeLost {
                    node: node.clone(),
                    boot_id,
                    proof,
                })
            } else {
                let liveness = Liveness::Unreachable;
                Body::SetNodeLiveness(SetNodeLiveness {
                    node: node.clone(),
                    boot_id,
                    liveness,
                })
            };
            self.move_axis(&node, body);
        }
    }

    fn move_axis(&mut self, node: &str, body: Body) {
        if self.moving.insert(node.to_owned()) {
            self.todo
                .push_back(Todo::Propose(Box::new(body), Why::Axis(node.to_owned())));
        }
    }

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

    fn correct(&mut self, state: &State, node: &str, corrections: Vec<Correction>, now: u64) {
        for correction in corrections {
            match correction {
                Correction::Start(key) => self.start(state, node, key, now),
                Correction::Stop(key, reason) => self.stop(node, key, reason),
                Correction::Orphan(_) => {}
            }
        }
    }

    fn start(&mut self, state: &State, node: &str, key: Key, now: u64) {
        self.watch_gang(state, key, now);
        if self.gangs.expired(key) {
            return self.stop(node, key, EndKind::LaunchFailed);
        }
        if let Some(start) = words::start(state, node, key) {
            self.tell(node, agent::LeaderMessage::Start(Arc::new(start)));
        }
    }

    fn stop(&mut self, node: &str, (job, epoch): Key, reason: EndKind) {
        let stop = agent::Stop {
            reason: words::end_kind(reason),
            grace_ms: STOP_GRACE_MS,
            why: reason.word().to_owned(),
        };
        self.tell(node, agent::LeaderMessage::Stop { job, epoch, stop });
    }

    fn watch_gang(&mut self, state: &State, key: Key, now: u64) {
        let attempt = state.attempt(key.0, key.1);
        if attempt.is_some_and(|one| one.running_ms == 0 && !one.stopping && !one.closed()) {
            let deadline = now - self.began + GANG_READY_MS;
            self.gangs.watch(key, members_of(state, key), deadline);
        }
    }

    fn report(&mut self, node: &str, report: &Report) {
        for Go {
            node,
            key,
            master,
            master_port,
        } in self.gangs.report(node, report)
        {
            let (job, epoch) = key;
            let rendezvous = agent::Rendezvous {
                address: master,
                port: master_port,
            };
            self.tell(
                &node,
                agent::LeaderMessage::Go {
                    job,
                    epoch,
                    rendezvous,
                },
            );
        }
    }

    fn tell(&mut self, node: &str, message: agent::LeaderMessage) {
        if let Some(link) = self.links.get(node) {
            self.todo.push_back(Todo::Tell(link.stream, message));
        }
    }
}

fn members_of(state: &State, key: Key) -> Vec<String> {
    let attempt = state.attempt(key.0, key.1);
    let allocations = attempt.map_or(&[][..], |attempt| &attempt.allocations);
    allocations.iter().map(|one| one.node.clone()).collect()
}
