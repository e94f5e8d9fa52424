//! PURE: attempts as the leader moves them: orders from effects and corrections, the barrier, gangs that take too long.
use mlctl_proto::limits::GANG_READY_MS;

use super::{Note, Term, Why};
use crate::leader::copies::{CopyOrder, restore, restore_ms};
use crate::leader::gang::{Go, Key, Report};
use crate::leader::liveness::Mono;
use crate::leader::orders::{self, Order};
use crate::leader::reconcile::Correction;
use crate::state::commands::SupersedeAttempt;
use crate::state::{Body, Effect, State};

impl Term {
    pub(super) fn effects(
        &mut self,
        now: Mono,
        state: &State,
        effects: Vec<Effect>,
        overflowed: bool,
    ) {
        for effect in effects {
            self.effect(now, state, effect);
        }
        let over = |key: Key| {
            let attempt = state.attempt(key.0, key.1);
            attempt.is_none_or(|attempt| attempt.running_ms > 0 || attempt.closed())
        };
        self.gangs.forget_if(over);
        if overflowed {
            self.note(Note::Overflowed);
            self.close_all();
        }
    }

    fn effect(&mut self, now: Mono, state: &State, effect: Effect) {
        match effect {
            Effect::Start { node, job, epoch } => self.start(now, state, &node, (job, epoch)),
            Effect::Stop {
                node,
                job,
                epoch,
                reason,
            } => {
                self.gangs.forget((job, epoch));
                self.tell(&node, orders::stop(state, job, epoch, reason));
            }
            Effect::EventsApplied {
                node,
                journal_id,
                up_to,
            } => {
                let link = self.links.get(&node);
                if link.is_some_and(|link| link.journal_id == journal_id) {
                    if self.salvage.waits_for(&node) {
                        self.planning.want();
                    }
                    self.tell(&node, Order::Applied { up_to });
                }
            }
            Effect::Forget { node, parts } => {
                let order = CopyOrder::Forget(parts);
                self.tell(&node, Order::Copies(Box::new(order)));
            }
            Effect::Checkpoints { job } => {
                self.copies.touch(job);
                self.end_early(state, job);
            }
            Effect::Replan => self.planning.want(),
            Effect::Queued => self.planning.want_for_one(),
        }
    }

    pub(super) fn correct(
        &mut self,
        now: Mono,
        state: &State,
        node: &str,
        corrections: Vec<Correction>,
    ) {
        for correction in corrections {
            match correction {
                Correction::Start(key) => self.start(now, state, node, key),
                Correction::Stop((job, epoch), reason) => {
                    self.tell(node, orders::stop(state, job, epoch, reason));
                }
                Correction::Orphan(key) => {
                    let node = node.to_owned();
                    if self.named.insert((node.clone(), key)) {
                        self.note(Note::Orphan { node, key });
                    }
                }
            }
        }
    }

    fn start(&mut self, now: Mono, state: &State, node: &str, key: Key) {
        self.watch_gang(now, state, key);
        if self.gangs.expired(key) {
            let order = orders::launch_failed(key, "its gang was not ready in time");
            return self.tell(node, order);
        }
        if let Some(mut order) = orders::start(state, node, key.0, key.1) {
            if let Order::Start(start) = &mut order {
                start.restore = restore(&self.copies, state, key.0, key.1);
            }
            self.tell(node, order);
        }
    }

    /// Watches the barrier of an attempt that has not started everywhere.
    pub(super) fn watch_gang(&mut self, now: Mono, state: &State, key: Key) {
        let Some(attempt) = state.attempt(key.0, key.1) else {
            return;
        };
        if attempt.running_ms == 0 && !attempt.stopping && !attempt.closed() {
            let deadline = now + GANG_READY_MS + restore_ms(state, key);
            self.gangs.watch(key, orders::nodes(attempt), deadline);
        }
    }

    pub(super) fn report(&mut self, state: &State, node: &str, report: &Report) {
        // Of an attempt of which it has no part a node has nothing to say.
        if orders::is_open_on(state, node, report.key) {
            self.early.said(state, report);
        }
        for go in self.gangs.report(node, report) {
            if state.in_doubt(go.key.0).is_some() {
                return self.supersede(go.key);
            }
            self.go(state, go);
        }
    }

    /// Everybody is ready, and an earlier attempt may still run somewhere: it ends first, by a committed word.
    fn supersede(&mut self, key: Key) {
        if self.superseding.insert(key) {
            let (job, epoch) = key;
            let body = Body::SupersedeAttempt(SupersedeAttempt { job, epoch });
            self.propose(body, Why::Supersede(key));
        }
    }

    /// It has taken over, or could not: then its nodes say with their next heartbeats that they still wait.
    pub(super) fn superseded(&mut self, state: &State, key: Key, carried: bool) {
        self.superseding.remove(&key);
        if carried {
            for go in self.gangs.waiting(key) {
                self.go(state, go);
            }
        }
    }

    fn go(&mut self, state: &State, go: Go) {
        let (job, epoch) = go.key;
        let order = Order::Go {
            job,
            epoch,
            master_address: orders::rank_address(state, &go.master),
            master_port: go.master_port,
        };
        self.tell(&go.node, order);
    }

    /// A gang was not ready in time: every node of it ends its part.
    pub(super) fn give_up(&mut self, state: &State, key: Key) {
        let missing = self.gangs.missing(key).join(", ");
        let Some(attempt) = state.attempt(key.0, key.1) else {
            return;
        };
        let why = format!("not ready in time: {missing}");
        for node in orders::nodes(attempt) {
            self.tell(&node, orders::launch_failed(key, &why));
        }
        self.note(Note::NotReady { key, missing });
    }
}
