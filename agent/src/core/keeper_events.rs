//! What the agent makes of its own disk, its preparations and its keepers: ready, started, exited, gone.
//! Ranks start only on Go; a failing rank ends its gang here at once; the end is said only when nothing is left.

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::STOP_GRACE_MS;
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::persist::{
    AgentEvent, AllocationEnded, AttemptEnd, EndKind, RanksStarted, agent_event,
};

use super::Core;
use super::attempt::{Attempt, Keeper, detail_text};
use super::record::Record;
use super::types::{Action, BoottimeMs, KeeperStatus, Phase, RankEnd, Rendezvous, ToLeader};
use crate::tasks::TaskEnds;

type Key = (JobId, Epoch);

impl Core {
    /// At start: find the keepers of everything that the journal calls open; let go of those whose end is written.
    pub(super) fn adopt_all(&mut self) {
        let mut actions = Vec::new();
        for ((job, epoch), attempt) in &mut self.attempts {
            if attempt.ended.is_some() {
                attempt.released = true;
                actions.push(Action::ReleaseKeeper {
                    job: *job,
                    epoch: *epoch,
                });
            } else {
                attempt.keeper = Keeper::Sought;
                actions.push(Action::Adopt(attempt.start.clone()));
            }
        }
        self.actions.extend(actions);
    }

    pub(super) fn on_synced(&mut self, ticket: u64) {
        self.synced = self.synced.max(ticket);
        self.release_ended();
        self.prepare_begun();
        if self.link.up {
            self.send_events();
        }
    }

    /// Keepers whose attempt's end is on disk may go.
    fn release_ended(&mut self) {
        for ((job, epoch), attempt) in &mut self.attempts {
            if attempt.ended.is_some_and(|ticket| ticket <= self.synced) && !attempt.released {
                attempt.released = true;
                self.actions.push(Action::ReleaseKeeper {
                    job: *job,
                    epoch: *epoch,
                });
            }
        }
    }

    /// Attempts whose beginning is on disk and that nothing older blocks are prepared now.
    pub(super) fn prepare_begun(&mut self) {
        let waiting = self.attempts.iter().filter(|(_, attempt)| {
            attempt.keeper == Keeper::None
                && attempt.ended.is_none()
                && attempt.begun_ticket <= self.synced
        });
        let keys: Vec<Key> = waiting.map(|(key, _)| *key).collect();
        for key in keys {
            let older = self.older_open(key).next().is_some();
            let taken = |one: &Attempt| self.is_taken(&one.start);
            let blocked = older || self.attempts.get(&key).is_some_and(taken);
            let Some(attempt) = self.attempts.get_mut(&key) else {
                continue;
            };
            if !blocked {
                attempt.keeper = Keeper::Preparing;
                self.actions.push(Action::Prepare(attempt.start.clone()));
            }
        }
    }

    pub(super) fn on_prepared(
        &mut self,
        now: BoottimeMs,
        job: JobId,
        epoch: Epoch,
        master_port: u16,
    ) {
        let key = (job, epoch);
        let told_on = self.attempts.get(&key).map_or(0, |attempt| attempt.told_on);
        let hears = self.hears(now, told_on);
        let Some(attempt) = self.attempts.get_mut(&key) else {
            return;
        };
        if attempt.keeper != Keeper::Preparing {
            return;
        }
        attempt.keeper = Keeper::Connected;
        attempt.master_port = master_port;
        if attempt.start.fence.is_some() {
            // It waits for a lease: now, not with the next heartbeat.
            self.link.next_heartbeat = 0;
        }
        if let Some(stop) = &attempt.stop {
            self.actions.push(Action::KeeperStop {
                job,
                epoch,
                grace_ms: stop.grace_ms,
            });
        } else if attempt.start.alone && hears {
            // Nothing can have taken this attempt's place meanwhile.
            let own = attempt.start.members.first();
            let address = own.map_or_else(String::new, |own| own.rank_address.clone());
            let rendezvous = Rendezvous {
                address,
                port: master_port,
            };
            self.on_go(now, key, rendezvous);
        } else if self.link.up {
            self.actions.push(Action::Send(ToLeader::Ready {
                job,
                epoch,
                master_port,
            }));
        }
    }

    pub(super) fn on_prepare_failed(&mut self, job: JobId, epoch: Epoch, why: &str) {
        let key = (job, epoch);
        let Some(attempt) = self.attempts.get_mut(&key) else {
            return;
        };
        if attempt.keeper != Keeper::Preparing {
            return;
        }
        if attempt.stop.is_none() {
            attempt.launch_failed = Some(why.to_owned());
        }
        self.end_attempt(key);
    }

    pub(super) fn on_keeper_connected(&mut self, now: BoottimeMs, key: Key, status: &KeeperStatus) {
        let (job, epoch) = key;
        let Some(attempt) = self.attempts.get_mut(&key) else {
            return;
        };
        if attempt.ended.is_some() || !matches!(attempt.keeper, Keeper::Sought | Keeper::Connected)
        {
            return;
        }
        attempt.keeper = Keeper::Connected;
        attempt.master_port = status.master_port;
        let ready = !status.started && attempt.phase() == Phase::Ready;
        let (told, master_port) = (attempt.go.is_some(), attempt.master_port);
        let stop = attempt.stop.as_ref().map(|stop| stop.grace_ms);
        self.lease_of(key);
        if ready && told {
            // It may have got lost with the connection; a keeper takes it once.
            self.go_on(key, now);
        } else if ready && self.link.up {
            let message = ToLeader::Ready {
                job,
                epoch,
                master_port,
            };
            self.actions.push(Action::Send(message));
        }
        if let Some(grace_ms) = stop {
            self.actions.push(Action::KeeperStop {
                job,
                epoch,
                grace_ms,
            });
        }
        if let Some(why) = &status.fenced {
            self.on_fenced(job, epoch, why);
        }
        if let Some(why) = &status.timed_out {
            self.on_timed_out(job, epoch, why);
        }
        if let Some(why) = &status.launch_failed {
            self.on_launch_failed(job, epoch, why);
        } else if status.started {
            self.on_ranks_started(job, epoch);
        }
        self.on_tasks_ended(job, epoch, &status.tasks);
        for exit in &status.exits {
            self.on_rank_exited(job, epoch, *exit);
        }
        if status.all_ended {
            self.on_all_ranks_ended(job, epoch);
        }
    }

    /// After a restart: the preparation had not come to a keeper, so it is done again.
    pub(super) fn on_keeper_never_started(&mut self, job: JobId, epoch: Epoch) {
        let key = (job, epoch);
        let Some(attempt) = self
            .attempts
            .get_mut(&key)
            .filter(|a| a.keeper == Keeper::Sought)
        else {
            return;
        };
        attempt.keeper = Keeper::None;
        if attempt.stop.is_some() {
            self.end_attempt(key);
        } else if attempt.start.members.is_empty() {
            // Only the ids are known: there is nothing to begin again with.
            attempt.launch_failed =
                Some("the agent restarted and could not read what it had begun".to_owned());
            self.end_attempt(key);
        } else {
            self.prepare_begun();
        }
    }

    pub(super) fn on_keeper_lost(&mut self, job: JobId, epoch: Epoch, why: &str) {
        let key = (job, epoch);
        let speaks = |a: &&Attempt| {
            a.ended.is_none() && matches!(a.keeper, Keeper::Sought | Keeper::Connected)
        };
        if self.attempts.get(&key).filter(speaks).is_none() {
            return;
        }
        let end = AttemptEnd {
            kind: EndKind::KeeperLost.into(),
            code: 0,
            detail: detail_text(why),
            node: self.node.clone(),
            rank: None,
        };
        self.settle(key, end);
    }

    pub(super) fn on_ranks_started(&mut self, job: JobId, epoch: Epoch) {
        let key = (job, epoch);
        let Some(attempt) = self.connected(key) else {
            return;
        };
        if !attempt.started {
            attempt.started = true;
            self.emit(key, agent_event::What::RanksStarted(RanksStarted {}));
        }
    }

    pub(super) fn on_launch_failed(&mut self, job: JobId, epoch: Epoch, why: &str) {
        let Some(attempt) = self.connected((job, epoch)) else {
            return;
        };
        if attempt.stop.is_none()
            && attempt.first_failure.is_none()
            && attempt.launch_failed.is_none()
        {
            attempt.launch_failed = Some(why.to_owned());
        }
    }

    /// A failing rank is reported at once and takes the local rest with it; the coordinator tells the other nodes.
    pub(super) fn on_rank_exited(&mut self, job: JobId, epoch: Epoch, mut exit: RankEnd) {
        let key = (job, epoch);
        let Some(attempt) = self.connected(key) else {
            return;
        };
        if attempt.exits.contains_key(&exit.rank) {
            return;
        }
        // What ends after our order to stop was ended by it, whatever the keeper saw first.
        exit.killed_by_us |= attempt.stop.is_some();
        attempt.exits.insert(exit.rank, exit);
        let fails = exit.is_failure() && attempt.first_failure.is_none();
        if fails {
            attempt.first_failure = Some(exit);
        }
        self.emit(key, agent_event::What::RankExited(exit.into()));
        if fails {
            self.actions.push(Action::KeeperStop {
                job,
                epoch,
                grace_ms: STOP_GRACE_MS,
            });
        }
    }

    /// Tasks are reported once each, whoever says again that they ended.
    pub(super) fn on_tasks_ended(&mut self, job: JobId, epoch: Epoch, ends: &TaskEnds) {
        let key = (job, epoch);
        let Some(attempt) = self.connected(key) else {
            return;
        };
        let news = ends.without(&attempt.tasks);
        if news.is_empty() {
            return;
        }
        attempt.tasks = attempt.tasks.union(&news.tasks());
        self.emit(key, agent_event::What::TasksEnded(news.to_event()));
    }

    pub(super) fn on_all_ranks_ended(&mut self, job: JobId, epoch: Epoch) {
        let key = (job, epoch);
        if let Some(attempt) = self.attempts.get(&key).filter(|a| a.speaks()) {
            let end = attempt.end(&self.node);
            self.settle(key, end);
        }
    }

    /// The attempt, if its keeper may speak about it.
    pub(super) fn connected(&mut self, key: Key) -> Option<&mut Attempt> {
        self.attempts.get_mut(&key).filter(|a| a.speaks())
    }

    /// Nothing of the attempt is left: write down how it ended.
    pub(super) fn end_attempt(&mut self, key: Key) {
        if let Some(attempt) = self.attempts.get(&key) {
            let end = attempt.end(&self.node);
            self.close(key, end);
        }
    }

    pub(super) fn close(&mut self, key: Key, end: AttemptEnd) {
        let ticket = self.coming_ticket();
        if let Some(attempt) = self.attempts.get_mut(&key) {
            attempt.ended = Some(ticket);
            attempt.keeper = Keeper::Done;
            self.emit(
                key,
                agent_event::What::AllocationEnded(AllocationEnded { end: Some(end) }),
            );
        }
        // A newer attempt of the job may have waited for this.
        self.prepare_begun();
    }

    /// Numbers an event and journals it; it leaves when that is synced.
    pub(super) fn emit(&mut self, key: Key, what: agent_event::What) {
        self.number(AgentEvent {
            seq: 0,
            job: Some(key.0.into()),
            epoch: Some(key.1.into()),
            what: Some(what),
        });
    }

    /// The same for what is of no attempt.
    pub(super) fn emit_of_node(&mut self, what: agent_event::What) {
        self.number(AgentEvent {
            what: Some(what),
            ..AgentEvent::default()
        });
    }

    fn number(&mut self, event: AgentEvent) {
        let numbered = self.outbox.push(event, self.coming_ticket());
        self.records.push(Record::Event(numbered));
    }

    /// Sends what is durable and has not left on this connection.
    pub(super) fn send_events(&mut self) {
        let batches = self.outbox.take_sendable(self.synced);
        let last = batches.last().and_then(|events| events.last());
        let last = last.map(|event| event.seq);
        self.actions.extend(
            batches
                .into_iter()
                .map(|events| Action::Send(ToLeader::Events(events))),
        );
        if let Some(last) = last.filter(|_| planted(Mutant::EventForgottenWhenSent)) {
            self.on_events_applied(last);
        }
    }
}
