//! A simulated coordinator: the consensus core over a simulated disk, the replicated state, and the leader's loop when it leads.
//! Does what the product's driver and apply thread do, in the same order. Does NOT decide anything itself.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use mlctl_coordinator::consensus::turn::{
    Core, CoreConfig, Envelope, Input, Persist, Role, SnapshotMeta, SnapshotOffer, Step, promise,
};
use mlctl_coordinator::leader::{Pace, step};
use mlctl_coordinator::state::commands::{Command, IdempotencyKey};
use mlctl_coordinator::state::records::{Actor, Reply};
use mlctl_coordinator::state::view::jobs::Reservation;
use mlctl_coordinator::state::{Body, State, codec};
use mlctl_coordinator::vitals::admission::admitted;
use mlctl_proto::errors::{Code, Refusal};

use super::clocks::Rate;
use super::disk::{Disk, Fate, SnapshotFile};
use super::leading::{Lead, Why};
use super::marks::Mark;
use super::stream::{Down, Session};
use super::vitals::{COMPARE_MS, Vitals};
use super::world::{COORDINATORS, Event, Process, World};
use crate::checkers::Violation;

const TICK_MS: u64 = 100;
/// Of a hundred large snapshots that are read, so many are read from their bytes.
const THOROUGH_PERCENT: u64 = 20;
/// So long after its pause a process has just woken up.
const JUST_AWAKE_MS: u64 = 1_000;
const REPAIR_AGAIN_MS: u64 = 5_000;
const ELECTION_TICKS: usize = 8;
/// Without a word from a leader a member asks to be elected within this.
pub(super) const ELECTION_MS_MAX: u64 = TICK_MS * 2 * ELECTION_TICKS as u64;
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
    pub(super) rate: Rate,
    /// Its disk is nearly full.
    pub(super) low: bool,
    /// It wrote down that its state is wrong: it may not start.
    pub(super) noted: bool,
}

/// Who waits for what a proposal becomes.
#[derive(Clone, Debug)]
pub(super) enum Waiter {
    Client { client: usize, call: u64 },
    Hello { stream: u64 },
    Events { stream: u64 },
    Lead(Why),
    Nobody,
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
    /// What its last plan promised.
    pub(super) promised: Vec<Reservation>,
    pub(super) pace: Pace,
    waiters: BTreeMap<u64, Waiter>,
    pub(super) next_id: u64,
    /// A round of reads that was answered with this index.
    pub(super) confirmed_at: Option<u64>,
    pub(super) vitals: Vitals,
    /// A round of reads is under way, and a tick has passed since it began.
    pub(super) reading: bool,
    read_again: bool,
    pub(super) snapshot_at: u64,
    pub(super) sessions: BTreeMap<u64, Session>,
    /// The end of the log as far as it was written.
    written: u64,
}

impl Coordinator {
    pub(super) fn new(skew_ms: i64, rate: Rate) -> Self {
        Self {
            disk: Disk::default(),
            life: 0,
            live: None,
            paused_until: 0,
            skew_ms,
            rate,
            low: false,
            noted: false,
        }
    }
}

impl Member {
    /// The term it is in.
    pub(super) fn term(&self) -> u64 {
        self.core.status().term
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
        if self.coordinators[who].live.is_some() || self.coordinators[who].noted {
            return;
        }
        let id = MEMBERS[who];
        let (term, vote, last) = self.coordinators[who].disk.stored();
        let checked = self.checkers.consensus.starts(id, term, vote, last);
        self.check(checked);
        let thoroughly = self.dice.chance(THOROUGH_PERCENT);
        let disk = &mut self.coordinators[who].disk;
        let (damaged, found) = (disk.is_damaged(), disk.recover(thoroughly));
        let found = match found {
            Ok(found) => found,
            Err(_) if damaged => {
                self.marks.hit(Mark::DamageRefused);
                let delay = self.dice.between(5_000, 40_000);
                return self.after(delay, Event::Repair(who));
            }
            Err(why) => {
                return self.broken(who, &format!("does not start after a mere crash: {why}"));
            }
        };
        if found.torn {
            self.marks.hit(Mark::TornTail);
        }
        let (recovered, state, applied) = (found.recovered, found.state, found.at);
        self.checkers.applied.started(id, applied.0);
        if found.flipped.is_none() {
            let checked = self.checkers.digests.saw(id, applied.0, state.digest());
            self.check(checked);
        }
        let config = CoreConfig {
            election_tick: ELECTION_TICKS,
            heartbeat_tick: 2,
            read_ticks: 20,
            snapshot_retry_ticks: 20,
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
            promised: Vec::new(),
            pace: Pace::default(),
            waiters: BTreeMap::new(),
            next_id: 1,
            confirmed_at: None,
            vitals: Vitals::new(found.flipped),
            reading: false,
            read_again: false,
            snapshot_at: applied.0,
            sessions: BTreeMap::new(),
            written: last,
        });
        self.after(TICK_MS, Event::Tick(Process { who, life }));
        self.after(COMPARE_MS, Event::Compare(Process { who, life }));
    }

    /// People put back what rotted, and start the process.
    pub(super) fn on_repair(&mut self, who: usize) {
        self.coordinators[who].disk.repair();
        if self.coordinators[who].noted && !self.reseed(who) {
            return self.after(REPAIR_AGAIN_MS, Event::Repair(who));
        }
        self.boot_coordinator(who);
    }

    /// The process ends; `power`: so does the machine, and nobody is told that its connections are gone.
    pub(super) fn crash_coordinator(&mut self, who: usize, power: bool) {
        let coordinator = &mut self.coordinators[who];
        coordinator.life += 1;
        coordinator.paused_until = 0;
        let member = coordinator.live.take();
        let under_way = member.as_ref().and_then(|member| {
            member.steps.iter().find_map(|step| match step {
                Step::Persist(persist) => Some(persist.clone()),
                _ => None,
            })
        });
        let fate = match self.dice.roll(3) {
            0 => Fate::Lost,
            1 => Fate::Stored,
            _ => Fate::Torn(self.dice.between(1, 999)),
        };
        self.coordinators[who].disk.crash(under_way, fate);
        let Some(member) = member else {
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
        let rate = self.coordinators[at.who].rate;
        if let Some(member) = self.member(at) {
            member.inbox.push(Input::Tick);
            member.read_again |= member.reading;
            self.after(rate.until(TICK_MS, 0), Event::Tick(at));
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
            member.inbox.push(Input::SnapshotTaken(file.meta.clone()));
            self.coordinators[at.who].disk.store_snapshot(file);
            self.turn(at.who);
        }
    }

    pub(super) fn on_snapshot_pulled(&mut self, at: Process, file: SnapshotFile, message: Bytes) {
        if let Some(member) = self.member(at) {
            member.inbox.push(Input::SnapshotReceived { message });
            let installs =
                |step: &Step| matches!(step, Step::Persist(persist) if persist.install.is_some());
            if member.steps.front().is_some_and(installs) {
                self.marks.hit(Mark::SecondSnapshot);
            }
            self.coordinators[at.who].disk.receive(file);
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
            if let Some(Step::Persist(persist)) = member.steps.front() {
                let installs = persist.install.is_some();
                let slow = self.storms() && self.dice.chance(5);
                let most = match (installs && self.storms(), slow) {
                    (true, _) => 4_000,
                    (_, true) => 120,
                    _ => 6,
                };
                let delay = self.dice.between(1, most);
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
            let twice = self.storms() && self.dice.chance(1);
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
                    member.reading = false;
                    if std::mem::take(&mut member.read_again) {
                        self.marks.hit(Mark::ReadReissued);
                    }
                }
            }
            Step::Refuse { proposals, reads } => {
                if !reads.is_empty() {
                    self.reads_refused(who);
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

    fn reads_refused(&mut self, who: usize) {
        let slept = self.coordinators[who].paused_until;
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        (member.reading, member.read_again) = (false, false);
        let deposed = member.core.status().role != Role::Leader;
        if deposed && slept > 0 && self.now < slept + JUST_AWAKE_MS {
            self.marks.hit(Mark::LeaseRefused);
        }
    }

    fn restore(&mut self, who: usize, meta: &SnapshotMeta) {
        self.marks.hit(Mark::SnapshotInstall);
        let thoroughly = self.dice.chance(THOROUGH_PERCENT);
        match self.coordinators[who].disk.restore(meta, thoroughly) {
            Ok(state) => {
                let id = MEMBERS[who];
                if let Some(member) = &mut self.coordinators[who].live {
                    member.vitals = Vitals::default();
                }
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
        if leads.is_some() && member.vitals.flipped.is_some() {
            // What it did now would be judged as the leader's word. It is not let: the machine dies first.
            self.crash_coordinator(who, true);
            return self.after(REPAIR_AGAIN_MS, Event::BootCoordinator(who));
        }
        member.leads = leads;
        if let (Some((to, term)), Some(new)) = (self.handing_over, leads) {
            if to == who && new == term + 1 {
                self.marks.hit(Mark::HandOver);
            }
            self.handing_over = None;
        }
        (member.lead, member.bootstrapping, member.confirmed_at) = (None, false, None);
        for stream in std::mem::take(&mut member.sessions).into_keys() {
            self.push_down(stream, Down::NotLeader);
        }
    }

    /// Asks a leader to hand over to another member.
    pub(super) fn hand_over(&mut self, who: usize, to: usize) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        self.handing_over = member.leads.map(|term| (to, term));
        member.inbox.push(Input::TransferLeader(MEMBERS[to]));
        self.turn(who);
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
            time_ms: self.stamp_ms(who),
            key,
            body,
        };
        if let Err(refusal) = admitted(&command.body, &self.stance(who)) {
            return self.not_admitted(who, refusal, waiter);
        }
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

    /// A command may not be proposed now.
    fn not_admitted(&mut self, who: usize, refusal: Refusal, waiter: Waiter) {
        if refusal.code == Code::DiskFull {
            self.marks.hit(Mark::DiskFull);
        }
        // Who is no person asks again by itself.
        let outcome = match &waiter {
            Waiter::Client { .. } => Some((0, Reply::Rejected(refusal))),
            _ => None,
        };
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let id = member.next_id;
        member.next_id += 1;
        member.waiters.insert(id, waiter);
        self.settle(who, id, outcome);
    }

    /// Tells whoever waits what became of a proposal.
    pub(super) fn settle(&mut self, who: usize, id: u64, outcome: Outcome) {
        let Some(member) = &mut self.coordinators[who].live else {
            return;
        };
        let carried = matches!(&outcome, Some((_, reply)) if !matches!(reply, Reply::Rejected(_)));
        match member.waiters.remove(&id) {
            None | Some(Waiter::Nobody) => {}
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
