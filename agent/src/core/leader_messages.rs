//! What the agent makes of a leader's words. Lower terms are refused, a closed epoch never begins, what was never seen is buried before it is answered.
//! Does NOT know the wire.

use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::AGENT_REDIAL_MS;
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::persist::{AllocationEnded, AttemptEnd, EndKind, agent_event};

use super::attempt::{Attempt, Keeper, detail_text};
use super::record::Record;
use super::types::{
    Action, BoottimeMs, LeaderHello, LeaderMessage, Phase, Rendezvous, Start, Stop, ToLeader,
};
use super::{Core, Link, Mark};

/// A dev cluster's leader is left sooner, but never before this.
const REDIAL_MS_MIN: u64 = 1_000;

impl Core {
    /// A coordinator takes messages: say who we are.
    pub(super) fn on_dialled(&mut self, now: BoottimeMs) {
        self.link = Link {
            number: self.link.number + 1,
            dialled: true,
            heard_at: now,
            ..Link::default()
        };
        let hello = ToLeader::Hello {
            journal_id: self.journal_id.clone(),
            incarnation: self.incarnation,
            term: self.term,
            attempts: self.statuses(),
        };
        self.actions.push(Action::Send(hello));
    }

    pub(super) fn on_leader(&mut self, now: BoottimeMs, term: u64, message: LeaderMessage) {
        if term < self.term {
            self.leave(
                now,
                format!(
                    "its term {term} is below {}: another coordinator leads",
                    self.term
                ),
            );
            return;
        }
        if term > self.term {
            self.term = term;
            self.lazy.push(Record::Term(term));
        }
        match message {
            LeaderMessage::Hello(hello) => self.on_hello(now, hello),
            // Before its hello a leader has nothing to say: it does not know yet what runs here.
            _ if !self.link.up => {}
            LeaderMessage::HeartbeatAnswer { seq } => self.on_heartbeat_answer(now, seq),
            LeaderMessage::Start(start) => self.on_start(now, start),
            LeaderMessage::Stop { job, epoch, stop } => self.on_stop(job, epoch, stop),
            LeaderMessage::Go {
                job,
                epoch,
                rendezvous,
            } => self.on_go(now, (job, epoch), rendezvous),
            LeaderMessage::EventsApplied { up_to } => self.on_events_applied(up_to),
            LeaderMessage::Forget(keys) => self.on_forget(keys),
            LeaderMessage::Announce(keys) => self.actions.push(Action::Announce(keys)),
        }
    }

    fn leave(&mut self, now: BoottimeMs, why: String) {
        self.unlink(now);
        self.actions.push(Action::Redial { why });
    }

    fn on_hello(&mut self, now: BoottimeMs, hello: LeaderHello) {
        if !self.link.dialled {
            return;
        }
        if hello.incarnation < self.incarnation {
            let why = format!(
                "its incarnation {} is below {}",
                hello.incarnation, self.incarnation
            );
            self.leave(now, why);
            return;
        }
        if hello.incarnation > self.incarnation {
            self.incarnation = hello.incarnation;
            self.records.push(Record::Incarnation(hello.incarnation));
        }
        if hello.heartbeat_ms > 0 {
            self.heartbeat_ms = hello.heartbeat_ms;
        }
        // Half of the silence after which the cluster gives this node up: time is left to be heard elsewhere.
        let half = (hello.node_timeout_ms / 2)
            .max(REDIAL_MS_MIN)
            .max(2 * self.heartbeat_ms);
        self.redial_ms = AGENT_REDIAL_MS.min(half);
        self.link.up = true;
        self.link.heard_at = now;
        self.link.next_heartbeat = now;
        self.on_events_applied(hello.event_mark);
        self.outbox.rewind(hello.event_mark);
        self.send_events();
        self.send_readies();
    }

    fn send_readies(&mut self) {
        let ready = self.attempts.values().filter(|a| a.phase() == Phase::Ready);
        let messages: Vec<ToLeader> = ready
            .map(|a| ToLeader::Ready {
                job: a.start.job,
                epoch: a.start.epoch,
                master_port: a.master_port,
            })
            .collect();
        self.actions.extend(messages.into_iter().map(Action::Send));
    }

    fn on_heartbeat_answer(&mut self, now: BoottimeMs, seq: u64) {
        let Some(sent_at) = self.link.sent_at.remove(&seq) else {
            return;
        };
        // Answers to older ones are covered by this one.
        self.link.sent_at.retain(|other, _| *other > seq);
        self.link.heard_at = now;
        self.confirmed_at = Some(self.confirmed_at.map_or(sent_at, |at| at.max(sent_at)));
        self.pass_lease_on(now);
    }

    fn on_start(&mut self, now: BoottimeMs, start: Arc<Start>) {
        let key = (start.job, start.epoch);
        if self.attempts.contains_key(&key) {
            self.repeat_status(now, key);
            return;
        }
        let mark = self.marks.get(&start.job).copied();
        if mark.is_some_and(|mark| mark.epoch >= start.epoch) {
            self.refuse(key, "this node has already closed the attempt");
            return;
        }
        let step_floor = mark
            .map_or(0, |mark| mark.step_floor)
            .max(self.newest_step(start.job));
        self.marks.insert(
            start.job,
            Mark {
                epoch: start.epoch,
                step_floor,
            },
        );
        self.records.push(Record::Begun(start.clone()));
        let ticket = self.coming_ticket();
        let attempt = Attempt {
            told_on: self.link.number,
            ..Attempt::new(start.clone(), ticket)
        };
        self.attempts.insert(key, attempt);
        let older: Vec<Epoch> = self.older_open(key).collect();
        for epoch in older {
            let why = format!("attempt {} of the job begins on this node", start.epoch);
            let grace_ms = mlctl_proto::limits::STOP_GRACE_MS;
            self.stop_attempt(
                (start.job, epoch),
                Stop {
                    reason: EndKind::Superseded,
                    grace_ms,
                    why,
                },
            );
        }
    }

    /// A start that came twice: say again where the attempt stands.
    fn repeat_status(&mut self, now: BoottimeMs, key: (JobId, Epoch)) {
        let Some(attempt) = self.attempts.get(&key) else {
            return;
        };
        if attempt.phase() == Phase::Ready {
            let message = ToLeader::Ready {
                job: key.0,
                epoch: key.1,
                master_port: attempt.master_port,
            };
            self.actions.push(Action::Send(message));
        }
        if attempt.begun_ticket <= self.synced {
            self.send_heartbeat(now);
        }
    }

    /// Older attempts of the same job of which something may be left here.
    pub(super) fn older_open(&self, key: (JobId, Epoch)) -> impl Iterator<Item = Epoch> {
        let from = (key.0, Epoch::new(0, 0));
        let older = self.attempts.range(from..key);
        older
            .filter(|(_, attempt)| attempt.ended.is_none())
            .map(|((_, epoch), _)| *epoch)
    }

    /// The highest step that older attempts of the job sealed here, as long as they are not acknowledged.
    pub(super) fn older_step(&self, key: (JobId, Epoch)) -> u64 {
        let from = (key.0, Epoch::new(0, 0));
        let older = self.attempts.range(from..key);
        older
            .map(|(_, attempt)| attempt.step_max)
            .max()
            .unwrap_or(0)
    }

    fn newest_step(&self, job: JobId) -> u64 {
        let of_job = self.attempts.iter().filter(|((other, _), _)| *other == job);
        of_job
            .map(|(_, attempt)| attempt.step_max)
            .max()
            .unwrap_or(0)
    }

    fn on_stop(&mut self, job: JobId, epoch: Epoch, stop: Stop) {
        let key = (job, epoch);
        if self.attempts.contains_key(&key) {
            self.stop_attempt(key, stop);
            return;
        }
        let mark = self.marks.get(&job).copied();
        if mark.is_some_and(|mark| mark.epoch >= epoch) {
            self.refuse(key, "this node has nothing of the attempt");
            return;
        }
        // Never seen: bury it first, so that a start that is still on its way finds it closed.
        let step_floor = mark
            .map_or(0, |mark| mark.step_floor)
            .max(self.newest_step(job));
        if !planted(Mutant::TombstoneSkipped) {
            self.marks.insert(job, Mark { epoch, step_floor });
            self.records.push(Record::Tombstone { job, epoch });
        }
        self.refuse(key, "stopped before it began on this node");
    }

    /// Answers for an attempt of which nothing is here. Once, until the answer is acknowledged.
    fn refuse(&mut self, key: (JobId, Epoch), why: &str) {
        if self.refused.insert(key) {
            let end = AttemptEnd {
                kind: EndKind::NeverStarted.into(),
                code: 0,
                detail: detail_text(why),
                node: self.node.clone(),
                rank: None,
            };
            self.emit(
                key,
                agent_event::What::AllocationEnded(AllocationEnded { end: Some(end) }),
            );
        }
    }

    /// Begins to end an attempt; a second order can only shorten the grace.
    pub(super) fn stop_attempt(&mut self, key: (JobId, Epoch), stop: Stop) {
        let Some(attempt) = self.attempts.get_mut(&key) else {
            return;
        };
        if attempt.ended.is_some() {
            return;
        }
        let (job, epoch) = key;
        let shorter = attempt
            .stop
            .as_ref()
            .is_none_or(|earlier| stop.grace_ms < earlier.grace_ms);
        let grace_ms = stop.grace_ms;
        match &mut attempt.stop {
            Some(earlier) => earlier.grace_ms = earlier.grace_ms.min(stop.grace_ms),
            none => *none = Some(stop),
        }
        match attempt.keeper {
            Keeper::Connected if shorter => self.actions.push(Action::KeeperStop {
                job,
                epoch,
                grace_ms,
            }),
            Keeper::Preparing => self.actions.push(Action::CancelPrepare { job, epoch }),
            // Nothing was asked for: once the beginning is on disk, so may be the end.
            Keeper::None => self.end_attempt(key),
            Keeper::Connected | Keeper::Sought | Keeper::Done => {}
        }
    }

    pub(super) fn on_go(&mut self, now: BoottimeMs, key: (JobId, Epoch), rendezvous: Rendezvous) {
        let Some(attempt) = self.attempts.get_mut(&key) else {
            return;
        };
        if attempt.phase() != Phase::Ready || attempt.go.is_some() {
            return;
        }
        attempt.go = Some(rendezvous);
        self.lease_of(key);
        self.go_on(key, now);
    }

    pub(super) fn on_events_applied(&mut self, up_to: u64) {
        let forgotten = self.outbox.acknowledge(up_to);
        if forgotten.is_empty() {
            return;
        }
        self.lazy.push(Record::Acknowledged(up_to));
        for event in forgotten {
            let (Ok(job), Ok(epoch)) = (JobId::try_from(event.job), Epoch::try_from(event.epoch))
            else {
                continue;
            };
            if !matches!(event.what, Some(agent_event::What::AllocationEnded(_))) {
                continue;
            }
            self.refused.remove(&(job, epoch));
            if let Some(attempt) = self.attempts.remove(&(job, epoch)) {
                if let Some(mark) = self.marks.get_mut(&job) {
                    mark.step_floor = mark.step_floor.max(attempt.step_max);
                }
                self.actions.push(Action::Closed { job, epoch });
            }
        }
    }
}
