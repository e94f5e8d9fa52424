//! A simulated coordinator: the consensus core over a simulated disk, the replicated state, and the leader's loop when it leads.
//! Does what the product's driver and apply thread do, in the same order. Does NOT decide anything itself.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use mlctl_coordinator::consensus::turn::{
    Core, CoreConfig, Envelope, Input, Persist, Role, SnapshotMeta, SnapshotOffer, Step, promise,
};
use mlctl_coordinator::leader::step;
use mlctl_coordinator::state::commands::{Command, IdempotencyKey};
use mlctl_coordinator::state::records::{Actor, Reply};
use mlctl_coordinator::state::{Body, State, codec};

use super::disk::{Disk, SnapshotFile};
use super::leading::{Lead, Why};
use super::stream::{Down, Session};
use super::world::{COORDINATORS, Event, Process, World};
use crate::checkers::Violation;

const TICK_MS: u64 = 50;
/// Raft's ids of the coordinators.
pub(super) const MEMBERS: [u64; COORDINATORS] = [1, 2, 3];

/// A coordinator's machine, running or not.
pub(super) struct Coordinator {
    pub(super) disk: Disk,
    pub(super) life: u64,
    pub(super) live: Option<Member>,
    pub(super) paused_until: u64,
    /// How far its wall clock is off.
    pub(super) skew_ms: i64,
}

/// Who waits for what a proposal becomes.
#[derive(Clone, Debug)]
pub(super) enum Waiter {
    Client { client: usize, call: u64 },
    Hello { stream: u64 },
    Events { stream: u64 },
    Lead(Why),
}

/// What became of a proposal: index and reply, or nobody knows.
pub(super) type Outcome = Option<(u64, Reply)>;

/// A running coordinator.
pub(super) struct Member {
    core: Core,
    pub(super) state: State,
    pub(super) last: (u64, u64),
    pub(super) inbox: Vec<Input>,
    /// What the last turn left to do. A write at the front is under way: nothing behind it has happened yet.
    steps: VecDeque<Step>,
    more: bool,
    pub(super) leads: Option<u64>,
    pub(super) lead: Option<Lead>,
    pub(super) bootstrapping: bool,
    waiters: BTreeMap<u64, Waiter>,
    pub(super) next_id: u64,
    /// A round of reads that was answered with this index.
    pub(super) confirmed_at: Option<u64>,
    pub(super) snapshot_at: u64,
    pub(super) sessions: BTreeMap<u64, Session>,
    /// The end of the log as far as it was written.
    written: u64,
}

impl Coordinator {
    pub(super) fn new(skew_ms: i64) -> Self {
        Self {
            disk: Disk::default(),
            life: 0,
            live: None,
            paused_until: 0,
            skew_ms,
        }
    }
}

pub(super) fn system(name: &str) -> Actor {
    Actor {
        user_id: name.into(),
        name: name.into(),
        admin: false,
        system: true,
    }
}

impl World {
    /// Starts a coordinator from its disk, unless it runs.
    pub(super) fn boot_coordinator(&mut self, who: usize) {
        if self.coordinators[who].live.is_some() {
            return;
        }
        let id = MEMBERS[who];
        let (term, vote, last) = self.coordinators[who].disk.stored();
        let checked = self.checkers.consensus.starts(id, term, vote, last);
        self.check(checked);
        let (recovered, state, applied) = match self.coordinators[who].disk.recover() {
            Ok(found) => found,
            Err(why) => {
                return self.broken(who, &format!("does not start after a mere crash: {why}"));
            }
        };
        self.checkers.applied.started(id, applied.0);
        let checked = self.checkers.digests.saw(id, applied.0, state.digest());
        self.check(checked);
        let config = CoreConfig {
            election_tick: 8,
            heartbeat_tick: 2,
            read_ticks: 40,
            snapshot_retry_ticks: 40,
            applied: applied.0,
            ..CoreConfig::new(id, MEMBERS.to_vec(), self.seed)
        };
        let core = match Core::new(config, recovered) {
            Ok(core) => core,
            Err(error) => return self.broken(who, &error.to_string()),
        };
        let life = self.coordinators[who].life;
        self.coordinators[who].live = Some(Member {
            core,
            state,
            last: applied,
            inbox: Vec::new(),
            steps: VecDeque::new(),
            more: false,
            leads: None,
            lead: None,
            bootstrapping: false,
            waiters: BTreeMap::new(),
            next_id: 1,
            confirmed_at: None,
            snapshot_at: applied.0,
            sessions: BTreeMap::new(),
            written: last,
        });
        self.after(TICK_MS, Event::Tick(Process { who, life }));
    }

    /// The process ends; `power`: so does the machine, and nobody is told that its connections are gone.
    pub(super) fn crash_coordinator(&mut self, who: usize, power: bool) {
        let coordinator = &mut self.coordinators[who];
        coordinator.life += 1;
        coordinator.paused_until = 0;
        coordinator.disk.crash();
        let Some(member) = coordinator.live.take() else {
            return;
        };
        for stream in member.sessions.into_keys().filter(|_| !power) {
            self.push_down(stream, Down::End);
        }
    }

    pub(super) fn broken(&mut self, who: usize, what: &str) {
        let id = MEMBERS[who];
        self.violate(Violation {
            property: "I7",
            what: format!("member {id}: {what}"),
        });
    }

    pub(super) fn member(&mut self, at: Process) -> Option<&mut Member> {
        let coordinator = &mut self.coordinators[at.who];
        coordinator
            .live
            .as_mut()
            .filter(|_| coordinator.life == at.life)
    }

    pub(super) fn on_tick(&mut self, at: Process) {
        if let Some(member) = self.member(at) {
            member.inbox.push(Input::Tick);
            self.after(TICK_MS, Event::Tick(at));
            self.turn(at.who);
        }
    }

    pub(super) fn on_raft(&mut self, to: usize, from: u64, message: Bytes) {
        if let Some(member) = &mut self.coordinators[to].live {
            member.inbox.push(Input::Step { from, message });
            self.turn(to);
        }
    }

    pub(super) fn on_snapshot_written(&mut self, at: Process, file: SnapshotFile) {
        if let Some(member) = self.member(at) {
            member.inbox.push(Input::SnapshotTaken(file.0.clone()));
            self.coordinators[at.who].disk.store_snapshot(file);
            self.turn(at.who);
        }
    }

    pub(super) fn on_snapshot_pulled(&mut self, at: Process, file: SnapshotFile, message: Bytes) {
        if let Some(member) = self.member(at) {
            member.inbox.push(Input::SnapshotReceived { message });
            self.coordinators[at.who].disk.store_snapshot(file);
            self.turn(at.who);
        }
    }

    /// Runs turns until there is nothing to do or a write is under way.
    pub(super) fn turn(&mut self, who: usize) {
        loop {
            self.lead_on(who);
            let Some(member) = &mut self.coordinators[who].live else {
                return;
            };
            if !member.steps.is_empty() || (member.inbox.is_empty() && !member.more) {
                return;
            }
            let inputs = std::mem::take(&mut member.inbox);
            let out = match member.core.turn(inputs) {
                Ok(out) => out,
                Err(error) => return self.broken(who, &error.to_string()),
            };
            member.more = out.more;
            let status = out.status.clone();
            member.steps = out.steps().into();
            if status.role == Role::Leader {
                self.checkers.judged.leads(status.term, self.now);
            }
            let checked = self.checkers.consensus.stands(MEMBERS[who], &status);
            self.check(checked);
            self.walk(who);
        }
    }

    /// Carries out what a turn left, up to a write: that takes a while.
    fn walk(&mut self, who: usize) {
        let life = self.coordinators[who].life;
        while let Some(member) = &mut self.coordinators[who].live {
            if matches!(member.steps.front(), Some(Step::Persist(_))) {
                let slow = !self.calm && self.dice.chance(5);
                let delay = self.dice.between(1, if slow { 120 } else { 6 });
                return self.after(delay, Event::LogSynced(Process { who, life }));
            }
            let Some(step) = member.steps.pop_front() else {
                return;
            };
            self.take_step(who, step);
        }
    }

    pub(super) fn on_log_synced(&mut self, at: Process) {
        let who = at.who;
        let Some(member) = self.member(at) else {
            return;
        };
        if let Some(Step::Persist(persist)) = member.steps.pop_front() {
            let Persist {
                number, hard_state, ..
            } = &persist;
            let installed = persist.install.as_ref().map(|meta| meta.index);
            let last = persist.entries.last().map(|entry| entry.index);
            member.written = last.or(installed).unwrap_or(member.written);
            member.inbox.push(Input::Persisted { number: *number });
            let written = member.written;
            let (id, term, vote) = (MEMBERS[who], hard_state.term, hard_state.vote);
            let checked = self.checkers.consensus.promises(id, term, vote, written);
            self.check(checked);
            self.coordinators[who].disk.write(persist);
        }
        self.walk(who);
        self.turn(who);
    }

    fn send(&mut self, who: usize, envelopes: Vec<Envelope>) {
        for Envelope { to, message } in envelopes {
            self.print.update(&message);
            if let Some(promise) = promise(&message) {
                let stored = self.coordinators[who].disk.stored();
                let checked = self.checkers.consensus.says(MEMBERS[who], promise, stored);
                self.check(checked);
            }
            let to = to as usize - 1;
            let twice = !self.calm && self.dice.chance(1);
            for _ in 0..=usize::from(twice) {
                let delay = self.datagram();
                let Some(delay) = delay.filter(|_| !self.is_cut(who, to)) else {
                    continue;
                };
                let (from, message) = (MEMBERS[who], message.clone());
                self.after(delay, Event::Raft { to, from, message });
            }
            self.counts.messages += u64::from(twice);
        }
    }

    fn take_step(&mut self, who: usize, step: Step) {
        match step {
            Step::Send(envelopes) => self.send(who, envelopes),
            // The disk reports it: `walk` stops before it.
            Step::Persist(_) => {}
            Step::Restore(meta) => self.restore(who, &meta),
            Step::Leads(leads) => self.set_leads(who, leads),
            Step::Apply(entries) => {
                for entry in entries {
                    self.apply(who, entry);
                }
            }
            Step::Serve(reads) => {
                if let Some(member) = &mut self.coordinators[who].live {
                    member.confirmed_at = reads.last().map(|(_, index)| *index);
                }
            }
            Step::Refuse { proposals, reads } => {
                if !reads.is_empty() {
                    self.led(who, step::Event::RoundEnded { confirmed: false });
                }
                for (id, _) in proposals {
                    self.settle(who, id, None);
                }
            }
            Step::Pull(offer) => self.pull(who, offer),
            Step::Cut(floor) => self.coordinators[who].disk.cut(floor),
        }
    }

    fn restore(&mut self, who: usize, meta: &SnapshotMeta) {
        self.counts.installs += 1;
        match self.coordinators[who].disk.restore(meta) {
            Ok(state) => {
                let id = MEMBERS[who];
                let checked = self.checkers.applied.restored(id, meta.index);
                self.check(checked);
                let checked = self.checkers.digests.saw(id, meta.index, state.digest());
                self.check(checked);
                if let Some(member) = &mut self.coordinators[who].live {
                    member.state = state;
                    member.last = (meta.index, meta.term);
                    member.snapshot_at = meta.index;
                    member.inbox.push(Input::Applied { index: meta.index });
                }
            }
            Err(why) => self.broken(who, &why),
        }
    }

    fn pull(&mut self, who: usize, offer: SnapshotOffer) {
        let from = offer.from as usize - 1;
        let reachable = !self.is_cut(from, who) && !self.is_cut(who, from);
        let source = &self.coordinators[from];
        let file = source.disk.snapshot(&offer.meta).cloned();
        let Some(file) = file.filter(|_| reachable && source.live.is_some()) else {
            return;
        };
        let (life, message) = (self.coordinators[who].life, offer.message);
        let delay = self.dice.between(10, 200);
        let at = Process { who, life };
        self.after(delay, Event::SnapshotPulled { at, file, message });
    }

    fn set_leads(&mut self, who: usize, leads: Option<u64>) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        if member.leads == leads {
            return;
        }
        member.leads = leads;
        (member.lead, member.bootstrapping, member.confirmed_at) = (None, false, None);
        for stream in std::mem::take(&mut member.sessions).into_keys() {
            self.push_down(stream, Down::NotLeader);
        }
    }

    /// Proposes a command. Who waits is told what became of it.
    pub(super) fn propose(
        &mut self,
        who: usize,
        actor: Actor,
        key: Option<IdempotencyKey>,
        body: Body,
        waiter: Waiter,
    ) {
        let command = Command {
            actor,
            source: "simulated".into(),
            time_ms: self.wall_ms(who),
            key,
            body,
        };
        let bytes = codec::encode_command(&command);
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let (Ok(bytes), id) = (bytes, member.next_id) else {
            return self.broken(who, "a command is too long");
        };
        member.next_id += 1;
        let commands = vec![Bytes::from(bytes)];
        member.inbox.push(Input::Propose { id, commands });
        member.waiters.insert(id, waiter);
    }

    /// Tells whoever waits what became of a proposal.
    pub(super) fn settle(&mut self, who: usize, id: u64, outcome: Outcome) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let carried = matches!(&outcome, Some((_, reply)) if !matches!(reply, Reply::Rejected(_)));
        match member.waiters.remove(&id) {
            None => {}
            Some(Waiter::Client { client, call }) => self.answer(client, call, outcome),
            Some(Waiter::Hello { stream }) => self.registered(who, stream, carried),
            Some(Waiter::Events { stream }) => self.replicated(who, stream, carried),
            Some(Waiter::Lead(why)) => self.lead_settled(who, why, &outcome),
        }
    }

    /// The leader that a coordinator knows; itself if it leads.
    pub(super) fn leader_known_to(&self, who: usize) -> Option<usize> {
        let member = self.coordinators[who].live.as_ref()?;
        member.core.status().leader.map(|id| id as usize - 1)
    }
}
