//! A simulated node: the agent's core over a journal that loses what was not synced, and the dialling of coordinators.
//! Its keepers are in `keeper`. Does NOT decide anything.

use std::collections::{BTreeMap, BTreeSet};

use mlctl_agent::core as agent;
use mlctl_coordinator::state::records::{Addresses, Device, NodeFacts};
use mlctl_proto::ids::JobId;
use mlctl_proto::persist;

use super::clocks::Rate;
use super::copies::Vault;
use super::keeper::{Directory, Keeper, Laid};
use super::marks::Mark;
use super::stream::{Down, Up};
use super::world::{COORDINATORS, Event, Process, World};
use crate::checkers::{Key, journaled};

const FIRST_ANSWER_MS: u64 = 3_000;

/// What ranks of a fence may take to end after their machine has woken up, milliseconds: the grace.
const WAKES_MS: u64 = 400;

/// A machine with an agent.
pub(super) struct Node {
    pub(super) name: String,
    /// How fast its clock runs.
    rate: Rate,
    /// Counts boots of the machine.
    pub(super) boot: u64,
    /// Counts starts of the agent.
    pub(super) life: u64,
    pub(super) agent: Option<Agent>,
    /// Synced records of the journal.
    durable: Vec<agent::Record>,
    /// Written, each with the ticket that its sync is for.
    written: Vec<(Option<u64>, Vec<agent::Record>)>,
    journal: u64,
    pub(super) keepers: BTreeMap<Key, Keeper>,
    /// What lies on disk of attempts that got as far as a keeper.
    pub(super) laid: BTreeMap<Key, Laid>,
    pub(super) cancelled: BTreeSet<Key>,
    /// The checkpoint directories of each job.
    pub(super) checkpoints: BTreeMap<JobId, Vec<Directory>>,
    /// Parts of checkpoints, its own and copies.
    pub(super) vault: Vault,
    /// The agent sleeps.
    pub(super) paused_until: u64,
    /// The whole machine sleeps, ranks included.
    pub(super) frozen_until: u64,
    /// The machine is off and stays off.
    pub(super) away_until: u64,
    /// The last checkpoint that was told of: which journal, which event.
    announced: (u64, u64),
    /// Devices with something on them, and until when.
    pub(super) stuck: BTreeMap<String, u64>,
}

/// A running agent.
pub(super) struct Agent {
    core: agent::Core,
    pub(super) stream: Option<u64>,
    /// When the leader answered the hello on this stream.
    pub(super) greeted_at: Option<u64>,
    tick_at: Option<u64>,
    /// A look at dirty devices is on its way.
    looking: bool,
}

impl Agent {
    /// Everything that its journal must hold.
    pub(super) fn records(&self) -> Vec<agent::Record> {
        self.core.records()
    }

    /// Dirty devices have to be looked at, and nobody does yet.
    pub(super) fn wants_look(&mut self) -> bool {
        let wants = self.core.dirty().len() > 0 && !self.looking;
        self.looking |= wants;
        wants
    }

    /// The dirty devices, which are looked at now.
    pub(super) fn looks(&mut self) -> Vec<String> {
        self.looking = false;
        self.core.dirty().cloned().collect()
    }
}

impl Node {
    pub(super) fn new(number: usize, rate: Rate) -> Self {
        Self {
            name: format!("n{}", number + 1),
            rate,
            boot: 1,
            life: 0,
            agent: None,
            durable: Vec::new(),
            written: Vec::new(),
            journal: 1,
            keepers: BTreeMap::new(),
            laid: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            checkpoints: BTreeMap::new(),
            vault: Vault::new(),
            paused_until: 0,
            frozen_until: 0,
            away_until: 0,
            announced: (0, 0),
            stuck: BTreeMap::new(),
        }
    }

    /// What its hello says.
    pub(super) fn facts(&self) -> NodeFacts {
        let device = |index| Device {
            uuid: format!("SIM-{}-{index}", self.name),
            index,
            model: "SIM".into(),
            memory_bytes: 1 << 30,
            pci_bus_id: String::new(),
            simulated: true,
            numa_node: None,
        };
        NodeFacts {
            name: self.name.clone(),
            boot_id: format!("{}-{}", self.name, self.boot),
            pool: "default".into(),
            devices: (0..2).map(device).collect(),
            cpus: 4,
            addresses: Addresses {
                data: self.name.clone(),
                ..Addresses::default()
            },
            ..NodeFacts::default()
        }
    }

    /// What its clock shows at the world's `now`.
    pub(super) fn shows(&self, now: u64) -> u64 {
        self.rate.shows(now)
    }

    /// How long until its clock shows `due`.
    pub(super) fn until(&self, due: u64, now: u64) -> u64 {
        self.rate.until(due, now)
    }

    /// Nothing of it runs at `now`, or it has only just woken up: fences have had no time to act.
    pub(super) fn stands_still(&self, now: u64) -> bool {
        now < self.frozen_until + WAKES_MS
    }

    /// The place of this node in the gang of an attempt that got as far as a keeper, and the gang's nodes.
    pub(super) fn place_in(&self, key: Key) -> Option<(u32, u32)> {
        self.laid.get(&key).map(Laid::place)
    }

    /// Attempts whose ranks run here and that nobody has told to stop.
    pub(super) fn unstopped(&self) -> Vec<Key> {
        let running = self.keepers.iter().filter(|(_, keeper)| keeper.runs_on());
        running.map(|(key, _)| *key).collect()
    }
}

impl World {
    /// Starts an agent from its journal, unless it runs.
    pub(super) fn boot_agent(&mut self, who: usize) {
        let (now, node) = (self.now, &mut self.nodes[who]);
        if node.agent.is_some() || now < node.away_until {
            return;
        }
        let id = |node: &Node| format!("journal-{}-{}", node.name, node.journal);
        let mut recovered = agent::Recovered::replay(id(node), node.durable.clone());
        if recovered.has_gap() {
            node.journal += 1;
            recovered.renumber(id(node));
        }
        let now = node.rate.shows(now);
        let (core, actions) = agent::Core::new(node.name.clone(), recovered, now);
        // The journal is written anew at every start.
        node.durable = core.records();
        node.agent = Some(Agent {
            core,
            stream: None,
            greeted_at: None,
            tick_at: None,
            looking: false,
        });
        let at = Process {
            who,
            life: node.life,
        };
        self.after(10, Event::Dial(at));
        self.first_look(who);
        self.act(who, actions);
    }

    /// The agent's process ends. What it had written and not synced may be on disk, or a part of it.
    pub(super) fn crash_agent(&mut self, who: usize, power: bool) {
        let node = &mut self.nodes[who];
        node.life += 1;
        node.cancelled.clear();
        let written = std::mem::take(&mut node.written);
        let kept = self.dice.place(written.len() + 1);
        let records = written
            .into_iter()
            .take(kept)
            .flat_map(|(_, records)| records);
        self.nodes[who].durable.extend(records);
        let agent = self.nodes[who].agent.take();
        if let Some(stream) = agent.and_then(|agent| agent.stream).filter(|_| !power) {
            self.push_up(stream, Up::End);
        }
    }

    pub(super) fn agent(&mut self, at: Process) -> Option<&mut Agent> {
        let node = &mut self.nodes[at.who];
        node.agent.as_mut().filter(|_| node.life == at.life)
    }

    /// A running agent's process.
    pub(super) fn process(&self, who: usize) -> Process {
        let life = self.nodes[who].life;
        Process { who, life }
    }

    pub(super) fn on_agent_tick(&mut self, at: Process, due: u64) {
        if self
            .agent(at)
            .is_some_and(|agent| agent.tick_at == Some(due))
        {
            self.step(at.who, agent::Event::Tick);
        }
    }

    pub(super) fn on_agent_hears(&mut self, at: Process, event: agent::Event) {
        if self.agent(at).is_some() {
            self.step(at.who, event);
        }
    }

    pub(super) fn on_journal_synced(&mut self, at: Process, ticket: u64) {
        if self.agent(at).is_none() {
            return;
        }
        let node = &mut self.nodes[at.who];
        let position = node.written.iter().position(|(of, _)| *of == Some(ticket));
        if let Some(position) = position {
            let records = node
                .written
                .drain(..=position)
                .flat_map(|(_, records)| records);
            let records: Vec<_> = records.collect();
            node.durable.extend(records);
        }
        self.step(at.who, agent::Event::JournalSynced { ticket });
    }

    /// One event for an agent's core, and everything it says.
    pub(super) fn step(&mut self, who: usize, event: agent::Event) {
        let now = self.nodes[who].rate.shows(self.now);
        let Some(agent) = &mut self.nodes[who].agent else {
            return;
        };
        let actions = agent.core.step(now, event);
        self.act(who, actions);
    }

    fn act(&mut self, who: usize, actions: Vec<agent::Action>) {
        for action in actions {
            self.act_once(who, action);
        }
        let at = self.process(who);
        self.look_later(at);
        let Some(agent) = self.agent(at) else {
            return;
        };
        let due = agent.core.next_deadline();
        if agent.tick_at != due {
            agent.tick_at = due;
            if let Some(due) = due {
                let delay = self.nodes[who].rate.until(due, self.now);
                self.after(delay, Event::AgentTick { at, due });
            }
        }
    }

    fn act_once(&mut self, who: usize, action: agent::Action) {
        let at = self.process(who);
        match action {
            agent::Action::Journal { ticket, records } => {
                let buries =
                    |record: &agent::Record| matches!(record, agent::Record::Tombstone { .. });
                if records.iter().any(buries) {
                    self.marks.hit(Mark::TombstoneStop);
                }
                self.nodes[who].written.push((Some(ticket), records));
                let slow = self.storms() && self.dice.chance(5);
                let delay = self.dice.between(1, if slow { 100 } else { 6 });
                self.after(delay, Event::JournalSynced(at, ticket));
            }
            agent::Action::JournalLazily { records } => {
                self.nodes[who].written.push((None, records));
            }
            agent::Action::Send(message) => {
                if let agent::ToLeader::Events(events) = &message {
                    let node = &self.nodes[who];
                    let checked = journaled::sends(&node.name, events, &node.durable);
                    self.check(checked);
                }
                self.observe_announced(who, &message);
                if let Some(stream) = self.agent(at).and_then(|agent| agent.stream) {
                    self.push_up(stream, Up::Say(message));
                }
            }
            agent::Action::Redial { .. } => {
                self.hang_up(who);
                self.after(1, Event::AgentHears(at, agent::Event::LinkDown));
                self.dial_later(who);
            }
            agent::Action::Prepare(start) => {
                let (node, key) = (&self.nodes[who], (start.job, start.epoch));
                let checked = journaled::prepares(&node.name, key, &node.durable);
                self.check(checked);
                self.check_free(who, &start);
                let delay = self.dice.between(3, 80);
                self.put_together(at, start, delay);
            }
            agent::Action::CancelPrepare { job, epoch } => {
                self.nodes[who].cancelled.insert((job, epoch));
            }
            agent::Action::Adopt(start) => {
                let delay = self.dice.between(1, 20);
                self.after(delay, Event::Adopt(at, start));
            }
            agent::Action::KeeperGo { job, epoch, .. } => self.keeper_go(who, (job, epoch)),
            agent::Action::KeeperLease {
                job,
                epoch,
                confirmed_at,
            } => self.keeper_lease(who, (job, epoch), confirmed_at),
            agent::Action::KeeperStop {
                job,
                epoch,
                grace_ms,
            } => {
                self.keeper_stop(who, (job, epoch), grace_ms.into());
            }
            agent::Action::CheckDevices { job, epoch, uuids } => {
                self.check_devices(who, (job, epoch), &uuids)
            }
            agent::Action::ReleaseKeeper { job, epoch } => self.keeper_release(who, (job, epoch)),
            agent::Action::Closed { .. } => {}
            of_parts => self.act_on_parts(at, of_parts),
        }
    }

    /// A checkpoint that is told of again was not acknowledged.
    fn observe_announced(&mut self, who: usize, message: &agent::ToLeader) {
        let agent::ToLeader::Events(events) = message else {
            return;
        };
        let sealed = |event: &&persist::AgentEvent| {
            matches!(
                event.what,
                Some(persist::agent_event::What::CheckpointSealed(_))
            )
        };
        let node = &mut self.nodes[who];
        for event in events.iter().filter(sealed) {
            let told = (node.journal, event.seq);
            if told <= node.announced {
                self.marks.hit(Mark::PartReannounced);
            }
            node.announced = node.announced.max(told);
        }
    }

    /// The disk of a node is gone with all that was on it; another takes its place.
    pub(super) fn lose_journal(&mut self, who: usize) {
        let node = &mut self.nodes[who];
        node.durable.clear();
        node.journal += 1;
        node.laid.clear();
        node.checkpoints.clear();
        node.vault.clear();
    }

    fn hang_up(&mut self, who: usize) {
        let at = self.process(who);
        let Some(agent) = self.agent(at) else {
            return;
        };
        agent.greeted_at = None;
        if let Some(stream) = agent.stream.take() {
            self.push_up(stream, Up::End);
        }
    }

    fn dial_later(&mut self, who: usize) {
        let delay = self
            .dice
            .between(40, if self.storms() { 1_500 } else { 200 });
        let at = self.process(who);
        self.after(delay, Event::Dial(at));
    }

    pub(super) fn dial(&mut self, at: Process) {
        if self.agent(at).is_none_or(|agent| agent.stream.is_some()) {
            return;
        }
        let (who, end) = (at.who, COORDINATORS + at.who);
        let to = self.dice.place(COORDINATORS);
        if self.is_cut(end, to) || self.is_cut(to, end) || self.coordinators[to].live.is_none() {
            return self.dial_later(who);
        }
        let stream = self.connect(who, to);
        if let Some(agent) = self.agent(at) {
            agent.stream = Some(stream);
        }
        self.after(FIRST_ANSWER_MS, Event::HelloLate(at, stream));
        self.step(who, agent::Event::Dialled);
    }

    pub(super) fn on_hello_late(&mut self, at: Process, stream: u64) {
        let late = |agent: &mut Agent| agent.stream == Some(stream) && agent.greeted_at.is_none();
        if self.agent(at).is_some_and(late) {
            self.hang_up(at.who);
            self.step(at.who, agent::Event::LinkDown);
            self.dial_later(at.who);
        }
    }

    pub(super) fn agent_is_told(&mut self, at: Process, stream: u64, told: Down) {
        let now = self.now;
        let Some(agent) = self.agent(at).filter(|agent| agent.stream == Some(stream)) else {
            return;
        };
        match told {
            Down::Say(term, message) => {
                if matches!(message, agent::LeaderMessage::Hello(_)) {
                    agent.greeted_at = Some(now);
                }
                let answered = match &message {
                    agent::LeaderMessage::HeartbeatAnswer { seq } => Some(*seq),
                    _ => None,
                };
                let before = agent.core.confirmed_at();
                self.step(at.who, agent::Event::Leader { term, message });
                let counted = self.agent(at).map(|agent| agent.core.confirmed_at());
                if let Some(seq) = answered.filter(|_| counted != Some(before)) {
                    let checked = self.checkers.leases.counted(stream, seq, term);
                    self.check(checked);
                }
            }
            Down::Probe(order) => self.on_probe_order(at, stream, order),
            Down::Copies(order) => self.on_copy_order(at, order),
            Down::NotLeader | Down::End => {
                (agent.stream, agent.greeted_at) = (None, None);
                self.step(at.who, agent::Event::LinkDown);
                self.dial_later(at.who);
            }
        }
    }
}
