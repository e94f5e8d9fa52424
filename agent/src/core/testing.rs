//! An agent's mind with a disk that syncs when it is told to, for tests.
//! Does NOT hide anything: actions are seen as they are.

use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{AgentEvent, EndKind, agent_event};

use super::*;

pub(super) const JOB: JobId = JobId::new(1, 7);

pub(super) fn epoch(counter: u64) -> Epoch {
    Epoch::new(1, counter)
}

pub(super) fn start(counter: u64) -> Arc<Start> {
    let member = Member {
        node: "n1".into(),
        rank_address: "127.0.0.11".into(),
        devices: vec![],
    };
    Arc::new(Start {
        members: vec![member],
        ..Start::bare(JOB, epoch(counter))
    })
}

pub(super) fn stop(reason: EndKind, grace_ms: u32) -> Stop {
    Stop {
        reason,
        grace_ms,
        why: "because".into(),
    }
}

pub(super) fn exit(rank: u32, code: i32, signal: i32) -> RankEnd {
    RankEnd {
        rank,
        code,
        signal,
        killed_by_us: false,
        oom: None,
    }
}

/// A core, its clock, and what its disk holds.
pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) now: BoottimeMs,
    pub(super) term: u64,
    disk: Vec<Record>,
    unsynced: Vec<Record>,
    ticket: u64,
    /// What was said to the leader on this connection.
    pub(super) said: Vec<ToLeader>,
    /// Everything else that was to be done.
    pub(super) done: Vec<Action>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::from(Recovered::empty("j1".into()), Vec::new())
    }

    fn from(recovered: Recovered, disk: Vec<Record>) -> Self {
        let (core, actions) = Core::new("n1".into(), recovered, 0);
        let mut bench = Self {
            core,
            now: 0,
            term: 1,
            disk,
            unsynced: vec![],
            ticket: 0,
            said: vec![],
            done: vec![],
        };
        bench.take(actions);
        bench
    }

    /// A connected agent with an empty journal.
    pub(super) fn connected() -> Self {
        let mut bench = Self::new();
        bench.connect(0);
        bench
    }

    pub(super) fn connect(&mut self, event_mark: u64) {
        self.said.clear();
        self.step(Event::Dialled);
        let hello = LeaderHello {
            incarnation: 1,
            heartbeat_ms: 500,
            node_timeout_ms: 3_000,
            event_mark,
        };
        self.leader(LeaderMessage::Hello(hello));
    }

    pub(super) fn leader(&mut self, message: LeaderMessage) {
        self.step(Event::Leader {
            term: self.term,
            message,
        });
    }

    /// Only what was synced is there when the agent comes back; what was written but not synced may be.
    pub(super) fn crash(&mut self, power_cut: bool) {
        let mut disk = std::mem::take(&mut self.disk);
        if !power_cut {
            disk.append(&mut self.unsynced);
        }
        let recovered = Recovered::replay("j1".into(), disk.clone());
        let term = self.term;
        *self = Self::from(recovered, disk);
        self.term = term;
    }

    /// The journal is written anew and read back: nothing may change.
    pub(super) fn compact(&mut self) {
        self.sync();
        self.disk = self.core.records();
        self.crash(true);
    }

    pub(super) fn step(&mut self, event: Event) {
        let actions = self.core.step(self.now, event);
        self.take(actions);
    }

    pub(super) fn sync(&mut self) {
        while self.ticket > 0 && !self.unsynced.is_empty() {
            self.disk.append(&mut self.unsynced);
            self.step(Event::JournalSynced {
                ticket: self.ticket,
            });
        }
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Journal { ticket, records } => {
                    assert_eq!(ticket, self.ticket + 1, "tickets rise by one");
                    self.ticket = ticket;
                    self.unsynced.extend(records);
                }
                Action::JournalLazily { records } => self.unsynced.extend(records),
                Action::Send(message) => self.said.push(message),
                other => self.done.push(other),
            }
        }
    }

    /// A start that is synced and prepared.
    pub(super) fn ready(&mut self, counter: u64) {
        self.leader(LeaderMessage::Start(start(counter)));
        self.sync();
        self.step(Event::Prepared {
            job: JOB,
            epoch: epoch(counter),
            master_port: 4_000,
        });
    }

    /// The same, running.
    pub(super) fn running(&mut self, counter: u64) {
        self.ready(counter);
        let rendezvous = Rendezvous {
            address: "127.0.0.11".into(),
            port: 4_000,
        };
        self.leader(LeaderMessage::Go {
            job: JOB,
            epoch: epoch(counter),
            rendezvous,
        });
        self.step(Event::RanksStarted {
            job: JOB,
            epoch: epoch(counter),
        });
        self.sync();
    }

    pub(super) fn stop(&mut self, counter: u64, reason: EndKind) {
        self.leader(LeaderMessage::Stop {
            job: JOB,
            epoch: epoch(counter),
            stop: stop(reason, 1_000),
        });
    }

    /// Events said on this connection, in order.
    pub(super) fn events(&self) -> Vec<AgentEvent> {
        let batches = self.said.iter().filter_map(|message| match message {
            ToLeader::Events(events) => Some(events.clone()),
            _ => None,
        });
        batches.flatten().collect()
    }

    /// The ends said on this connection: epoch, kind, code.
    pub(super) fn ends(&self) -> Vec<(u64, EndKind, i32)> {
        let ends = self
            .events()
            .into_iter()
            .filter_map(|event| match event.what {
                Some(agent_event::What::AllocationEnded(ended)) => {
                    let end = ended.end.unwrap_or_default();
                    Some((event.epoch?.counter, end.kind(), end.code))
                }
                _ => None,
            });
        ends.collect()
    }

    pub(super) fn did(&self, want: impl Fn(&Action) -> bool) -> usize {
        self.done.iter().filter(|action| want(action)).count()
    }

    pub(super) fn prepared(&self, counter: u64) -> usize {
        self.did(|action| matches!(action, Action::Prepare(start) if start.epoch == epoch(counter)))
    }

    pub(super) fn phases(&self) -> Vec<(u64, Phase)> {
        self.core
            .statuses()
            .iter()
            .map(|status| (status.epoch.counter, status.phase))
            .collect()
    }
}
