//! The simulated world: virtual time, a queue of events, a network, and everybody in it. One thread, no clock.
//! Does NOT decide anything of the product: each party's file feeds a core and does what it says.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mlctl_agent::core as agent;
use mlctl_coordinator::state::State;

use super::client::{Answer, Call, Client};
use super::clocks::Rate;
use super::coordinator::Coordinator;
use super::copies::{Arriving, Copying, Restoring, Sealing};
use super::dice::Dice;
use super::disk::SnapshotFile;
use super::fencing::FenceLook;
use super::keeper::RankEnding;
use super::marks::Marks;
use super::node::Node;
use super::plants::Plant;
use super::stream::Stream;
use super::uploads::{Far, Uploading};
use super::witness::Asking;
use crate::checkers::{Checked, Checkers, Key, Violation};

/// Coordinators of every simulated cluster.
pub(super) const COORDINATORS: usize = 3;
/// UTC milliseconds at the beginning.
const EPOCH_MS: i64 = 1_800_000_000_000;
/// Between two looks at what still runs where.
const WATCH_MS: u64 = 500;

/// A process: what was meant for an earlier life of it does not reach the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) who: usize,
    pub(super) life: u64,
}

/// Everything that can be due.
pub(super) enum Event {
    Tick(Process),
    Raft {
        to: usize,
        from: u64,
        message: Bytes,
    },
    LogSynced(Process),
    SnapshotWritten(Process, SnapshotFile),
    SnapshotPulled {
        at: Process,
        file: SnapshotFile,
        message: Bytes,
    },
    Pump {
        stream: u64,
        up: bool,
    },
    AgentTick {
        at: Process,
        due: u64,
    },
    AgentHears(Process, agent::Event),
    Dial(Process),
    HelloLate(Process, u64),
    JournalSynced(Process, u64),
    SpawnKeeper(Process, Arc<agent::Start>),
    Restore(Restoring),
    Sealed(Sealing),
    PartAsked(Sealing),
    Copied(Copying),
    Uploaded(Uploading),
    Unanswered(u64),
    Adopt(Process, Arc<agent::Start>),
    Look(Process),
    RankEnds(RankEnding),
    FenceDue(FenceLook),
    Ask(Asking),
    Seal {
        node: usize,
        boot: u64,
        key: Key,
    },
    ClientTurn(usize),
    Request {
        to: usize,
        call: Box<Call>,
        forwarded: bool,
    },
    Answer {
        client: usize,
        call: u64,
        answer: Answer,
    },
    BootCoordinator(usize),
    BootAgent(usize),
    Repair(usize),
    Compare(Process),
    RoomAgain(usize),
    Fault,
    Quieter,
    Watch,
}

/// What a run did, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes and machines that were ended.
    pub crashes: u64,
    /// Power cuts of the whole cluster.
    pub power_cuts: u64,
    /// Cut links.
    pub cuts: u64,
    /// Processes and machines that were paused.
    pub pauses: u64,
    /// Wall clocks that were set.
    pub clock_jumps: u64,
    /// Disks that were nearly full for a while.
    pub full_disks: u64,
    /// Bits that flipped in a member's memory.
    pub memory_flips: u64,
    /// Bits that rotted on a disk.
    pub bit_flips: u64,
    /// Journals of nodes that were lost.
    pub journals_lost: u64,
    /// Nodes that stayed off when everything else healed.
    pub away: u64,
    /// Leaders that were asked to hand over.
    pub hand_overs: u64,
    /// Stretches of time in which many messages are lost.
    pub losses: u64,
    /// Messages that were lost or came twice.
    pub messages: u64,
    /// Attempts that were committed after the first of a job.
    pub restarts: u64,
}

/// What a run is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// Things break, and much is asked for.
    Storm,
    /// Nothing breaks, and nothing new is asked for.
    Calm,
    /// Nothing breaks, and little is asked for.
    Idle,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) plant: Option<Plant>,
    pub(super) dice: Dice,
    pub(super) now: u64,
    number: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub(super) coordinators: Vec<Coordinator>,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) streams: BTreeMap<u64, Stream>,
    /// Streams that were ever opened.
    pub(super) connections: u64,
    /// Until when nothing gets from one endpoint to another. Coordinators come first, then nodes.
    pub(super) cut_until: Vec<Vec<u64>>,
    /// Of a hundred datagrams, so many are lost.
    pub(super) loss: u64,
    /// Copies that have come and are not noted yet.
    pub(super) arriving: Arriving,
    /// The object store. It fails, and never forgets.
    pub(super) far: Far,
    pub(super) weather: Weather,
    /// When everything last healed.
    pub(super) healed_at: u64,
    pub(super) checkers: Checkers,
    /// The furthest state that any member has applied.
    pub(super) head: State,
    /// A leader was asked to hand over: to whom, and in which term.
    pub(super) handing_over: Option<(usize, u64)>,
    /// The state of which everything was last checked.
    pub(super) checked: State,
    pub(super) violation: Option<Violation>,
    pub(super) counts: Counts,
    pub(super) marks: Marks,
    pub(super) print: blake3::Hasher,
}

impl World {
    pub(super) fn new(seed: u64, plant: Option<Plant>) -> Self {
        let mut dice = Dice::new(seed);
        let nodes = dice.between(3, 4) as usize;
        let ends = COORDINATORS + nodes;
        let mut world = Self {
            seed,
            plant,
            now: 0,
            number: 0,
            queue: BTreeMap::new(),
            coordinators: (0..COORDINATORS)
                .map(|_| {
                    let skew_ms = dice.between(0, 4_000) as i64 - 2_000;
                    Coordinator::new(skew_ms, Rate(dice.between(980, 1_020)))
                })
                .collect(),
            nodes: (0..nodes)
                .map(|number| Node::new(number, Rate(dice.between(900, 1_100))))
                .collect(),
            clients: (0..3).map(Client::new).collect(),
            streams: BTreeMap::new(),
            connections: 0,
            cut_until: vec![vec![0; ends]; ends],
            loss: 1,
            arriving: Arriving::default(),
            far: Far::new(),
            weather: Weather::Calm,
            healed_at: 0,
            checkers: Checkers::default(),
            head: State::new(),
            handing_over: None,
            checked: State::new(),
            violation: None,
            counts: Counts::default(),
            marks: Marks::default(),
            print: blake3::Hasher::new(),
            dice,
        };
        (0..COORDINATORS).for_each(|who| world.after(0, Event::BootCoordinator(who)));
        (0..nodes).for_each(|who| world.after(0, Event::BootAgent(who)));
        (0..3).for_each(|who| world.after(1_000, Event::ClientTurn(who)));
        world.after(WATCH_MS, Event::Watch);
        world
    }

    /// Puts an event into the queue, `delay` milliseconds from now. Events of one moment keep their order.
    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.number += 1;
        self.queue.insert((self.now + delay, self.number), event);
    }

    /// Handles events until `end`, or a violation, or nothing is due.
    pub(super) fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            let Some(entry) = self
                .queue
                .first_entry()
                .filter(|entry| entry.key().0 <= end)
            else {
                break;
            };
            let ((at, number), event) = entry.remove_entry();
            self.now = at;
            let asleep_until = self.asleep_until(&event);
            if asleep_until > self.now {
                self.after(asleep_until - self.now, event);
                continue;
            }
            self.print.update(&at.to_le_bytes());
            self.print.update(&number.to_le_bytes());
            self.handle(event);
        }
        if self.violation.is_none() {
            self.now = self.now.max(end);
        }
    }

    /// A paused process is handed what came meanwhile when it wakes up.
    fn asleep_until(&self, event: &Event) -> u64 {
        let agent = |who: usize| {
            self.nodes[who]
                .paused_until
                .max(self.nodes[who].frozen_until)
        };
        match event {
            Event::Tick(at)
            | Event::LogSynced(at)
            | Event::Compare(at)
            | Event::SnapshotWritten(at, _)
            | Event::SnapshotPulled { at, .. } => self.coordinators[at.who].paused_until,
            Event::Raft { to, .. } | Event::Request { to, .. } => {
                self.coordinators[*to].paused_until
            }
            Event::Pump { stream, up } => self.streams.get(stream).map_or(0, |stream| {
                if *up {
                    self.coordinators[stream.coordinator].paused_until
                } else {
                    agent(stream.node)
                }
            }),
            Event::AgentTick { at, .. }
            | Event::AgentHears(at, _)
            | Event::Dial(at)
            | Event::HelloLate(at, _)
            | Event::JournalSynced(at, _)
            | Event::SpawnKeeper(at, _)
            | Event::Look(at)
            | Event::Adopt(at, _) => agent(at.who),
            Event::Ask(asking) => agent(asking.at.who),
            Event::Restore(restoring) => agent(restoring.at.who),
            Event::Sealed(sealing) | Event::PartAsked(sealing) => agent(sealing.at.who),
            Event::Copied(copying) => agent(copying.from.who).max(agent(copying.to.who)),
            Event::Uploaded(uploading) => agent(uploading.at.who),
            Event::RankEnds(ending) => self.nodes[ending.node].frozen_until,
            Event::FenceDue(look) => self.nodes[look.node].frozen_until,
            Event::Seal { node, .. } => self.nodes[*node].frozen_until,
            _ => 0,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick(at) => self.on_tick(at),
            Event::Raft { to, from, message } => self.on_raft(to, from, message),
            Event::LogSynced(at) => self.on_log_synced(at),
            Event::SnapshotWritten(at, file) => self.on_snapshot_written(at, file),
            Event::SnapshotPulled { at, file, message } => {
                self.on_snapshot_pulled(at, file, message)
            }
            Event::Pump { stream, up } => self.pump(stream, up),
            Event::AgentTick { at, due } => self.on_agent_tick(at, due),
            Event::AgentHears(at, event) => self.on_agent_hears(at, event),
            Event::Dial(at) => self.dial(at),
            Event::HelloLate(at, stream) => self.on_hello_late(at, stream),
            Event::JournalSynced(at, ticket) => self.on_journal_synced(at, ticket),
            Event::SpawnKeeper(at, start) => self.on_spawn_keeper(at, &start),
            Event::Adopt(at, start) => self.on_adopt(at, &start),
            Event::Restore(restoring) => self.on_restore(restoring),
            Event::Sealed(sealing) => self.on_sealed(sealing),
            Event::PartAsked(asked) => self.on_part_asked(asked),
            Event::Copied(copying) => self.on_copied(copying),
            Event::Uploaded(uploading) => self.on_uploaded(uploading),
            Event::Unanswered(id) => self.on_unanswered(id),
            Event::Look(at) => self.on_look(at),
            Event::RankEnds(ending) => self.on_rank_ends(ending),
            Event::FenceDue(look) => self.on_fence_due(look),
            Event::Ask(asking) => self.on_ask(asking),
            Event::Seal { node, boot, key } => self.on_seal(node, boot, key),
            Event::ClientTurn(who) => self.on_client_turn(who),
            Event::Request {
                to,
                call,
                forwarded,
            } => self.on_request(to, call, forwarded),
            Event::Answer {
                client,
                call,
                answer,
            } => self.on_answer(client, call, answer),
            Event::BootCoordinator(who) => self.boot_coordinator(who),
            Event::BootAgent(who) => self.boot_agent(who),
            Event::Repair(who) => self.on_repair(who),
            Event::Compare(at) => self.on_compare(at),
            Event::RoomAgain(who) => self.coordinators[who].low = false,
            Event::Fault => self.on_fault(),
            Event::Quieter => self.loss = u64::from(self.storms()),
            Event::Watch => self.watch(),
        }
    }

    /// Keeps the first violation.
    pub(super) fn check(&mut self, checked: Checked) {
        if let Err(violation) = checked {
            self.violate(violation);
        }
    }

    pub(super) fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// A coordinator's wall clock, UTC milliseconds.
    pub(super) fn wall_ms(&self, who: usize) -> i64 {
        EPOCH_MS + self.now as i64 + self.coordinators[who].skew_ms
    }

    /// What a coordinator stamps its commands with.
    pub(super) fn stamp_ms(&mut self, who: usize) -> i64 {
        let (wall, now) = (self.wall_ms(who), self.mono_ms(who));
        match &mut self.coordinators[who].live {
            Some(member) => member.pace.stamp(wall, member.state.now_ms(), now),
            None => wall,
        }
    }

    /// Things break.
    /// A coordinator's monotonic clock.
    pub(super) fn mono_ms(&self, who: usize) -> u64 {
        self.coordinators[who].rate.shows(self.now)
    }

    pub(super) fn storms(&self) -> bool {
        self.weather == Weather::Storm
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut_until[from][to] > self.now
    }

    /// How long a datagram takes; `None`: it is lost.
    pub(super) fn datagram(&mut self) -> Option<u64> {
        if self.dice.chance(self.loss) {
            self.counts.messages += 1;
            return None;
        }
        let slow = self.loss > 0 && self.dice.chance(3);
        Some(self.dice.between(1, if slow { 150 } else { 6 }))
    }

    /// Looks at every attempt that runs somewhere and was not told to stop.
    fn watch(&mut self) {
        for who in 0..self.nodes.len() {
            let quiet_since = self.quiet_since(who);
            let name = self.nodes[who].name.clone();
            for key in self.nodes[who].unstopped() {
                let (head, now) = (&self.head, self.now);
                let checked = self
                    .checkers
                    .closed_epochs
                    .runs(head, &name, key, quiet_since, now);
                self.check(checked);
            }
        }
        self.after(WATCH_MS, Event::Watch);
    }

    /// Since when a node and its leader speak undisturbed.
    fn quiet_since(&self, who: usize) -> Option<u64> {
        let node = &self.nodes[who];
        let agent = node.agent.as_ref()?;
        let (stream, greeted_at) = (agent.stream?, agent.greeted_at?);
        let stream = self.streams.get(&stream)?;
        let end = COORDINATORS + who;
        let cut =
            self.cut_until[stream.coordinator][end].max(self.cut_until[end][stream.coordinator]);
        let asleep = node.paused_until.max(node.frozen_until);
        let leader = &self.coordinators[stream.coordinator];
        let leads = leader.live.as_ref().is_some_and(|live| live.lead.is_some());
        leads.then_some(greeted_at.max(cut).max(asleep).max(leader.paused_until))
    }
}
