//! The leader's loop: one task that owns all soft state of a term and is woken by effects, agents and deadlines.
//!
//! It never waits for an agent or for consensus: orders go into bounded queues, proposals and plans run as tasks of
//! their own whose ends come back as inputs. With the loop all of them are dropped.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlctl_proto::limits::GANG_READY_MS;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::gang::{Gangs, Go, Key, Report};
use super::leases::{Leases, Waiting};
use super::liveness::{Judge, Mono, Verdict};
use super::reconcile::{Correction, on_hello, stale};
use super::{Connected, Input, Order, orders};
use crate::leader::planning::{self, Planned, Planning};
use crate::shared::{CallError, Shared};
use crate::state::commands::{DeclareNodeLost, LossProof, RegisterNode, SetNodeLiveness};
use crate::state::records::{EndKind, Liveness, NodeFacts};
use crate::state::{Body, Effect, State};

/// A command that could not be proposed is proposed again after this, milliseconds.
const AGAIN_MS: u64 = 300;
/// Rounds of leases begin at most this far apart, milliseconds; sooner where heartbeats are.
const LEASE_GAP_MS: u64 = 500;
/// Inputs handled before orders and plans are looked after.
const BATCH: usize = 256;

/// A node whose stream is open.
struct Link {
    id: u64,
    facts: NodeFacts,
    journal_id: String,
    out: mpsc::Sender<Order>,
    /// Keeps the stream; dropped to end it.
    _hold: oneshot::Sender<()>,
}

/// The end of a task.
enum Done {
    Round(bool),
    Planned(Planned),
    Axis { node: String, carried: bool },
}

/// A term's loop.
pub(super) struct Lead {
    shared: Arc<Shared>,
    began: Instant,
    links: BTreeMap<String, Link>,
    judge: Judge,
    leases: Leases,
    gangs: Gangs,
    planning: Planning,
    /// Nodes whose liveness is being proposed.
    moving: BTreeSet<String>,
    /// Orphans that were named.
    named: BTreeSet<(String, Key)>,
    tasks: JoinSet<Done>,
}

impl Lead {
    /// A loop for `term`; `None` while the cluster has no settings.
    pub(super) fn new(shared: Arc<Shared>, term: u64) -> Option<Self> {
        let timers = shared.state().settings()?.timers;
        tracing::debug!(term, ?timers, "the leader's loop begins");
        Some(Self {
            shared,
            began: Instant::now(),
            links: BTreeMap::new(),
            judge: Judge::new(timers, 0),
            leases: Leases::new(LEASE_GAP_MS.min(u64::from(timers.heartbeat_ms) / 5)),
            gangs: Gangs::default(),
            planning: Planning::wanted(),
            moving: BTreeSet::new(),
            named: BTreeSet::new(),
            tasks: JoinSet::new(),
        })
    }

    /// Runs until nobody can report any more.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let shared = Arc::clone(&self.shared);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.on_time();
            let wake = self.next_wake();
            tokio::select! {
                count = inputs.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for input in batch.drain(..) {
                        self.on_input(input);
                    }
                }
                () = shared.published.effects_ready() => self.on_effects(),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.on_done(done),
                    Err(error) => tracing::error!(%error, "a task of the leader ended badly"),
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn now(&self) -> Mono {
        Mono::try_from(self.began.elapsed().as_millis()).unwrap_or(Mono::MAX)
    }

    fn next_wake(&self) -> Instant {
        let mut next = self.judge.next();
        let others = [self.gangs.next(), self.leases.due(), self.planning.next()];
        for at in others.into_iter().flatten() {
            next = next.min(at);
        }
        self.began + Duration::from_millis(next)
    }

    /// Whatever is due: verdicts, gangs that took too long, a round of leases, a plan.
    fn on_time(&mut self) {
        let now = self.now();
        if self.judge.next() <= now {
            self.judge_silence(now);
        }
        for key in self.gangs.expire(now) {
            self.give_up(key);
        }
        if self.leases.begin(now) {
            let shared = Arc::clone(&self.shared);
            self.tasks
                .spawn(async move { Done::Round(shared.read().await.is_ok()) });
        }
        if self.planning.begin(now) {
            let heard = self.links.keys().cloned().collect();
            let shared = Arc::clone(&self.shared);
            self.tasks
                .spawn(async move { Done::Planned(planning::plan(shared, heard).await) });
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Connected(connected) => self.on_connected(*connected),
            Input::Gone { node, link } => {
                if self.is_current(&node, link) {
                    self.unlink(&node);
                }
            }
            Input::Heartbeat {
                node,
                link,
                seq,
                reports,
            } => {
                if self.is_current(&node, link) {
                    self.on_heartbeat(node, link, seq, &reports);
                }
            }
            Input::Ready { node, link, report } => {
                if self.is_current(&node, link) {
                    self.judge.heard(&node, self.now());
                    self.on_report(&node, &report);
                }
            }
        }
    }

    fn is_current(&self, node: &str, link: u64) -> bool {
        self.links
            .get(node)
            .is_some_and(|current| current.id == link)
    }

    fn on_connected(&mut self, connected: Connected) {
        let node = connected.facts.name.clone();
        tracing::info!(%node, attempts = connected.reports.len(), "node connected");
        self.judge.heard(&node, self.now());
        self.gangs.unheard(&node);
        let link = Link {
            id: connected.link,
            facts: connected.facts,
            journal_id: connected.journal_id,
            out: connected.out,
            _hold: connected.hold,
        };
        self.links.insert(node.clone(), link);
        let state = self.shared.state();
        self.correct(&state, &node, on_hello(&state, &node, &connected.reports));
        for key in state.open_allocations_on(&node) {
            self.watch_gang(&state, key);
        }
        for report in &connected.reports {
            self.on_report(&node, report);
        }
        self.planning.want();
    }

    fn on_heartbeat(&mut self, node: String, link: u64, seq: u64, reports: &[Report]) {
        self.judge.heard(&node, self.now());
        let state = self.shared.state();
        self.raise(&state, &node);
        self.correct(&state, &node, stale(&state, &node, reports));
        for report in reports {
            self.on_report(&node, report);
        }
        self.leases.arrived(Waiting { node, link, seq });
    }

    /// A node that was thought silent is heard.
    fn raise(&mut self, state: &State, node: &str) {
        let Some(known) = state.node(node) else {
            return;
        };
        let Some(link) = self.links.get(node) else {
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

    fn correct(&mut self, state: &State, node: &str, corrections: Vec<Correction>) {
        for correction in corrections {
            match correction {
                Correction::Start(key) => self.start(state, node, key),
                Correction::Stop((job, epoch), reason) => {
                    self.send(node, orders::stop(state, job, epoch, reason))
                }
                Correction::Orphan(key) => {
                    if self.named.insert((node.to_owned(), key)) {
                        let (job, epoch) = key;
                        tracing::warn!(%node, %job, %epoch, "orphan: the node runs an attempt that this cluster never knew; it is left alone");
                    }
                }
            }
        }
    }

    fn start(&mut self, state: &State, node: &str, key: Key) {
        self.watch_gang(state, key);
        if self.gangs.expired(key) {
            return self.send(node, launch_failed(key, "its gang was not ready in time"));
        }
        if let Some(order) = orders::start(state, node, key.0, key.1) {
            self.send(node, order);
        }
    }

    /// Watches the barrier of an attempt that has not started everywhere.
    fn watch_gang(&mut self, state: &State, key: Key) {
        let Some(attempt) = state.attempt(key.0, key.1) else {
            return;
        };
        if attempt.running_ms == 0 && !attempt.stopping && !attempt.closed() {
            let deadline = self.now() + GANG_READY_MS;
            self.gangs.watch(key, orders::nodes(attempt), deadline);
        }
    }

    fn on_report(&mut self, node: &str, report: &Report) {
        for go in self.gangs.report(node, report) {
            self.go(go);
        }
    }

    fn go(&mut self, go: Go) {
        let (job, epoch) = go.key;
        let order = Order::Go {
            job,
            epoch,
            master_address: orders::rank_address(&self.shared.state(), &go.master),
            master_port: go.master_port,
        };
        self.send(&go.node, order);
    }

    /// A gang was not ready in time: every node of it ends its part.
    fn give_up(&mut self, key: Key) {
        let missing = self.gangs.missing(key).join(", ");
        let (job, epoch) = key;
        tracing::warn!(%job, %epoch, %missing, "the gang was not ready in time and is ended");
        let state = self.shared.state();
        let Some(attempt) = state.attempt(job, epoch) else {
            return;
        };
        let why = format!("not ready within {} s: {missing}", GANG_READY_MS / 1_000);
        for node in orders::nodes(attempt) {
            self.send(&node, launch_failed(key, &why));
        }
    }

    fn on_effects(&mut self) {
        let (effects, overflowed) = self.shared.published.take_effects();
        let state = self.shared.state();
        for effect in effects {
            match effect {
                Effect::Start { node, job, epoch } => self.start(&state, &node, (job, epoch)),
                Effect::Stop {
                    node,
                    job,
                    epoch,
                    reason,
                } => {
                    self.gangs.forget((job, epoch));
                    self.send(&node, orders::stop(&state, job, epoch, reason));
                }
                Effect::EventsApplied {
                    node,
                    journal_id,
                    up_to,
                } => {
                    if self
                        .links
                        .get(&node)
                        .is_some_and(|link| link.journal_id == journal_id)
                    {
                        self.send(&node, Order::Applied { up_to });
                    }
                }
                Effect::Replan => self.planning.want(),
            }
        }
        let started = |key: Key| {
            state
                .attempt(key.0, key.1)
                .is_none_or(|a| a.running_ms > 0 || a.closed())
        };
        self.gangs.forget_if(started);
        if overflowed {
            // What was dropped is derived again when the agents say hello.
            tracing::warn!("more effects than the leader can hold; all agents connect anew");
            self.links.clear();
            self.planning.want();
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Round(confirmed) => {
                for waiting in self.leases.ended(confirmed) {
                    if self.is_current(&waiting.node, waiting.link) {
                        self.send(&waiting.node, Order::Lease { seq: waiting.seq });
                    }
                }
            }
            Done::Planned(planned) => {
                let now = self.now();
                self.planning.ended(planned, now);
            }
            Done::Axis { node, carried } => {
                self.moving.remove(&node);
                if !carried {
                    self.judge.again_at(self.now() + AGAIN_MS);
                }
            }
        }
    }

    fn judge_silence(&mut self, now: Mono) {
        let state = self.shared.state();
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
            tracing::warn!(%node, verdict = if lost { "Lost" } else { "Unreachable" }, "the node is silent");
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

    fn move_axis(&mut self, node: &str, body: Body) {
        if !self.moving.insert(node.to_owned()) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let node = node.to_owned();
        self.tasks.spawn(async move {
            let outcome = shared.propose(shared.system(), "leader", None, body).await;
            if let Err(CallError::Refused(refusal)) = &outcome {
                tracing::warn!(%node, %refusal, "the node's liveness was not recorded");
            }
            Done::Axis {
                node,
                carried: outcome.is_ok(),
            }
        });
    }

    fn unlink(&mut self, node: &str) {
        self.links.remove(node);
        self.gangs.unheard(node);
        tracing::info!(%node, "node disconnected");
    }

    fn send(&mut self, node: &str, order: Order) {
        let Some(link) = self.links.get(node) else {
            // It is told when it connects.
            return;
        };
        if link.out.try_send(order).is_err() {
            tracing::warn!(%node, "the node does not read what it is told; its stream is ended");
            self.unlink(node);
        }
    }
}

fn launch_failed((job, epoch): Key, why: &str) -> Order {
    Order::Stop {
        job,
        epoch,
        reason: EndKind::LaunchFailed,
        why: why.to_owned(),
    }
}
