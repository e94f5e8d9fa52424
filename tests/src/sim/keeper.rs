//! Simulated keepers and ranks: they outlive the agent, end by themselves or when told, and tell the checkers what really happened.
//! Does NOT decide anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_agent::core as agent;
use mlctl_agent::keeper::fence::Fence;
use mlctl_agent::launch::FencePlan;
use mlctl_coordinator::state::rules::Request;
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::Ranges;

use super::node::Node;
use super::world::{Event, Process, World};
use crate::checkers::{Key, RankFate};

/// The end of a rank that is on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct RankEnding {
    pub(super) node: usize,
    boot: u64,
    key: Key,
    fate: RankFate,
}

/// What a keeper leaves on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Laid {
    exits: Vec<agent::RankEnd>,
    tasks: agent::TaskEnds,
    all_ended: bool,
    /// The node's rank in the gang, and the gang's nodes.
    place: (u32, u32),
}

/// A keeper with its ranks.
#[derive(Debug)]
pub(super) struct Keeper {
    ranks: Vec<u32>,
    /// By UUID.
    pub(super) devices: Vec<String>,
    first_node: bool,
    started: bool,
    stopping: bool,
    alive: BTreeMap<u32, ()>,
    exits: Vec<agent::RankEnd>,
    all_ended: bool,
    launch_failed: Option<String>,
    /// Of an array: the tasks that wait, and those that ended. `ranks` are then those that start at once.
    waiting: Option<Ranges>,
    tasks: agent::TaskEnds,
    pub(super) fence: Option<Fence>,
    pub(super) fenced: Option<String>,
}

/// A directory that a trainer completed.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) name: String,
    pub(super) step: u64,
    pub(super) epoch: Epoch,
}

/// Of half of the jobs every node saves a part, of the others the first alone.
pub(super) fn sharded(job: JobId) -> bool {
    job.counter.is_multiple_of(2)
}

/// And a third of them writes over the same name again and again.
fn rewrites(job: JobId) -> bool {
    job.counter.is_multiple_of(3)
}

/// What had that name is gone.
fn put(list: &mut Vec<Directory>, made: &Directory) {
    list.retain(|one| one.name != made.name);
    list.push(made.clone());
}

impl Laid {
    /// The node's rank in the gang, and the gang's nodes.
    pub(super) fn place(&self) -> (u32, u32) {
        self.place
    }
}

impl RankEnding {
    pub(super) fn new(node: usize, boot: u64, key: Key, fate: RankFate) -> Self {
        Self {
            node,
            boot,
            key,
            fate,
        }
    }
}

impl Keeper {
    fn new(start: &agent::Start) -> Self {
        let each = Request::from_json(&start.spec).map_or(1, |request| request.ranks);
        let first = start.node_rank * each;
        let mut waiting = start.wave.as_ref().map(|wave| wave.tasks.clone());
        let ranks = match (&mut waiting, &start.wave) {
            (Some(waiting), Some(wave)) => {
                waiting.take_lowest(u64::from(wave.slots)).iter().collect()
            }
            _ => (first..first + each).collect(),
        };
        let own = start.members.get(start.node_rank as usize);
        Self {
            ranks,
            devices: own.map_or(Vec::new(), |member| member.devices.clone()),
            waiting,
            tasks: agent::TaskEnds::default(),
            first_node: start.node_rank == 0,
            started: false,
            stopping: false,
            alive: BTreeMap::new(),
            exits: Vec::new(),
            all_ended: false,
            launch_failed: None,
            fence: start.fence.map(|fence| {
                Fence::new(FencePlan {
                    after_ms: fence.after_ms,
                    grace_ms: fence.grace_ms,
                })
            }),
            fenced: None,
        }
    }

    /// Ranks live.
    pub(super) fn runs(&self) -> bool {
        !self.alive.is_empty()
    }

    /// The ranks that live.
    pub(super) fn alive(&self) -> Vec<u32> {
        self.alive.keys().copied().collect()
    }

    /// Ranks run and nobody has told them to end.
    pub(super) fn runs_on(&self) -> bool {
        !self.alive.is_empty() && !self.stopping
    }

    fn port(&self) -> u16 {
        if self.first_node { 4_000 } else { 0 }
    }

    fn status(&self) -> agent::KeeperStatus {
        agent::KeeperStatus {
            started: self.started,
            exits: self.exits.clone(),
            all_ended: self.all_ended,
            master_port: self.port(),
            launch_failed: self.launch_failed.clone(),
            fenced: self.fenced.clone(),
            timed_out: None,
            tasks: self.tasks.clone(),
        }
    }
}

impl World {
    /// A word of a keeper, if an agent is there to hear it.
    pub(super) fn tell_agent(&mut self, who: usize, event: agent::Event) {
        if self.nodes[who].agent.is_some() {
            let at = self.process(who);
            self.after(1, Event::AgentHears(at, event));
        }
    }

    /// A preparation comes to its end.
    pub(super) fn on_spawn_keeper(&mut self, at: Process, start: &Arc<agent::Start>) {
        if self.agent(at).is_none() {
            return;
        }
        let (job, epoch) = (start.job, start.epoch);
        let fails = self.dice.chance(1);
        let node = &mut self.nodes[at.who];
        let cancelled = node.cancelled.remove(&(job, epoch));
        if fails || (cancelled && self.dice.chance(50)) {
            let why = "it could not be prepared".to_owned();
            return self.tell_agent(at.who, agent::Event::PrepareFailed { job, epoch, why });
        }
        let keeper = Keeper::new(start);
        let master_port = keeper.port();
        node.keepers.insert((job, epoch), keeper);
        let members = u32::try_from(start.members.len())
            .unwrap_or(u32::MAX)
            .max(1);
        let laid = Laid {
            place: (start.node_rank, members),
            ..Laid::default()
        };
        node.laid.insert((job, epoch), laid);
        let name = node.name.clone();
        self.checkers.gangs.prepared(&name, (job, epoch));
        self.tell_agent(
            at.who,
            agent::Event::Prepared {
                job,
                epoch,
                master_port,
            },
        );
    }

    /// An agent that has started looks for a keeper.
    pub(super) fn on_adopt(&mut self, at: Process, start: &Arc<agent::Start>) {
        if self.agent(at).is_none() {
            return;
        }
        let (job, epoch) = (start.job, start.epoch);
        let node = &self.nodes[at.who];
        if let Some(keeper) = node.keepers.get(&(job, epoch)) {
            let status = keeper.status();
            self.rescan(at.who, (job, epoch));
            self.tell_agent(at.who, agent::Event::KeeperConnected { job, epoch, status });
        } else if node.laid.contains_key(&(job, epoch)) {
            self.rescan(at.who, (job, epoch));
            self.report_loss(at.who, (job, epoch));
        } else {
            self.step(at.who, agent::Event::KeeperNeverStarted { job, epoch });
        }
    }

    /// Tells what a keeper wrote down before it was gone, and that it is gone.
    fn report_loss(&mut self, who: usize, (job, epoch): Key) {
        let laid = self.nodes[who]
            .laid
            .get(&(job, epoch))
            .cloned()
            .unwrap_or_default();
        let all_ended = laid.all_ended;
        let began = !laid.exits.is_empty() || !laid.tasks.is_empty();
        if all_ended || began {
            let status = agent::KeeperStatus {
                started: began,
                exits: laid.exits,
                tasks: laid.tasks,
                all_ended,
                ..agent::KeeperStatus::default()
            };
            self.tell_agent(who, agent::Event::KeeperConnected { job, epoch, status });
        }
        if !all_ended {
            let why = "the keeper is gone".to_owned();
            self.tell_agent(who, agent::Event::KeeperLost { job, epoch, why });
        }
    }

    /// Reports every checkpoint directory of a job that is there.
    fn rescan(&mut self, who: usize, (job, epoch): Key) {
        let found = self.nodes[who]
            .checkpoints
            .get(&job)
            .cloned()
            .unwrap_or_default();
        for one in found {
            self.seal(who, (job, epoch), (&one.name, one.step), true);
        }
    }

    pub(super) fn keeper_go(&mut self, who: usize, key: Key) {
        let (job, epoch) = key;
        let fails = self.dice.chance(1);
        if !self.keeper_may_start(who, key) {
            return;
        }
        let Node {
            keepers,
            boot,
            name,
            ..
        } = &mut self.nodes[who];
        let (name, boot) = (name.clone(), *boot);
        let Some(keeper) = keepers
            .get_mut(&key)
            .filter(|one| !one.started && !one.all_ended)
        else {
            return;
        };
        if fails {
            keeper.launch_failed = Some("it could not be executed".into());
            return self.all_ended(who, key);
        }
        keeper.started = true;
        keeper.alive = keeper.ranks.iter().map(|rank| (*rank, ())).collect();
        let (ranks, first_node) = (keeper.ranks.clone(), keeper.first_node);
        let array = keeper.waiting.is_some();
        self.check_start(&name, key, ranks.len() as u32);
        self.tell_agent(who, agent::Event::RanksStarted { job, epoch });
        for rank in ranks {
            self.rank_begins(who, key, rank);
        }
        if first_node && !array {
            let delay = self.dice.between(200, 1_500);
            self.after(
                delay,
                Event::Seal {
                    node: who,
                    boot,
                    key,
                },
            );
        }
    }

    /// A rank or a task runs, and will end by itself.
    fn rank_begins(&mut self, who: usize, key: Key, rank: u32) {
        let boot = self.nodes[who].boot;
        let code = i32::from(self.dice.chance(4));
        let fate = RankFate {
            rank,
            code,
            signal: 0,
        };
        // Some outlive the silence after which their node is given up.
        let long = self.dice.chance(10);
        let delay = self.dice.between(50, if long { 20_000 } else { 6_000 });
        self.after(
            delay,
            Event::RankEnds(RankEnding {
                node: who,
                boot,
                key,
                fate,
            }),
        );
    }

    /// A task of an array ended: by itself it counts, and the next one begins.
    fn on_task_ends(&mut self, who: usize, key: Key, fate: RankFate) {
        let (job, epoch) = key;
        let node = &mut self.nodes[who];
        let name = node.name.clone();
        self.checkers.closed_epochs.rank_ended(&name, key, fate);
        let Some(keeper) = node.keepers.get_mut(&key) else {
            return;
        };
        let next = match &mut keeper.waiting {
            Some(waiting) if !keeper.stopping => waiting.take_lowest(1).first(),
            _ => None,
        };
        if !keeper.stopping {
            let mut ends = agent::TaskEnds::default();
            ends.add(fate.rank, fate.code, fate.signal, false);
            keeper.tasks.merge(ends.clone());
            if let Some(laid) = node.laid.get_mut(&key) {
                laid.tasks.merge(ends.clone());
            }
            self.tell_agent(who, agent::Event::TasksEnded { job, epoch, ends });
        }
        let Some(keeper) = self.nodes[who].keepers.get_mut(&key) else {
            return;
        };
        if let Some(next) = next {
            keeper.alive.insert(next, ());
            self.checkers.closed_epochs.task_started(&name, key);
            self.rank_begins(who, key, next);
        } else if keeper.alive.is_empty() {
            self.all_ended(who, key);
        }
    }

    /// Ranks begin to run: may they?
    fn check_start(&mut self, name: &str, key: Key, count: u32) {
        let epochs = &mut self.checkers.closed_epochs;
        let checked = epochs.ranks_started(&self.head, name, key, count);
        self.check(checked);
        let (nodes, now) = (&self.nodes, self.now);
        let still = |place: &str| {
            let mut all = nodes.iter();
            all.any(|one| one.name == place && one.stands_still(now))
        };
        let checked = self.checkers.fences.started(&self.head, name, key, still);
        self.check(checked);
        let checked = self.checkers.gangs.started(&self.head, key);
        self.check(checked);
        let checked = self.checkers.checkpoints.begins(&self.head, name, key);
        self.check(checked);
    }

    pub(super) fn keeper_stop(&mut self, who: usize, key: Key, grace_ms: u64) {
        let Node { keepers, boot, .. } = &mut self.nodes[who];
        let boot = *boot;
        let Some(keeper) = keepers.get_mut(&key).filter(|one| !one.all_ended) else {
            return;
        };
        let first = !std::mem::replace(&mut keeper.stopping, true);
        if !keeper.started {
            return self.all_ended(who, key);
        }
        let alive = keeper.alive();
        for rank in alive.into_iter().filter(|_| first) {
            let deaf = self.dice.chance(15);
            let (delay, signal) = if deaf {
                (grace_ms, 9)
            } else {
                (self.dice.between(1, 300), 15)
            };
            let fate = RankFate {
                rank,
                code: 0,
                signal,
            };
            self.after(
                delay,
                Event::RankEnds(RankEnding {
                    node: who,
                    boot,
                    key,
                    fate,
                }),
            );
        }
    }

    pub(super) fn on_rank_ends(&mut self, ending: RankEnding) {
        let RankEnding {
            node: who,
            boot,
            key,
            fate,
        } = ending;
        let node = &mut self.nodes[who];
        let Some(keeper) = node.keepers.get_mut(&key).filter(|_| node.boot == boot) else {
            return;
        };
        if keeper.alive.remove(&fate.rank).is_none() {
            return;
        }
        if keeper.waiting.is_some() {
            return self.on_task_ends(who, key, fate);
        }
        let exit = agent::RankEnd {
            rank: fate.rank,
            code: fate.code,
            signal: fate.signal,
            killed_by_us: keeper.stopping,
            oom: None,
        };
        keeper.exits.push(exit);
        let over = keeper.alive.is_empty();
        if let Some(laid) = node.laid.get_mut(&key) {
            laid.exits.push(exit);
        }
        let name = node.name.clone();
        self.checkers.closed_epochs.rank_ended(&name, key, fate);
        let (job, epoch) = key;
        self.tell_agent(who, agent::Event::RankExited { job, epoch, exit });
        if over {
            self.all_ended(who, key);
        }
    }

    /// A keeper has nothing left to own.
    fn all_ended(&mut self, who: usize, key: Key) {
        let (job, epoch) = key;
        let node = &mut self.nodes[who];
        if let Some(laid) = node.laid.get_mut(&key) {
            laid.all_ended = true;
        }
        let Some(keeper) = node.keepers.get_mut(&key) else {
            return;
        };
        keeper.all_ended = true;
        self.checkers.fences.ended(&node.name, key);
        let failed = keeper.launch_failed.clone();
        self.rescan(who, key);
        if let Some(why) = failed {
            self.tell_agent(who, agent::Event::LaunchFailed { job, epoch, why });
        }
        self.tell_agent(who, agent::Event::AllRanksEnded { job, epoch });
    }

    pub(super) fn keeper_release(&mut self, who: usize, key: Key) {
        self.nodes[who].keepers.remove(&key);
    }

    /// A checkpoint directory gets its final name.
    pub(super) fn on_seal(&mut self, who: usize, boot: u64, key: Key) {
        let (job, epoch) = key;
        let node = &mut self.nodes[who];
        let running = node
            .keepers
            .get(&key)
            .is_some_and(|keeper| !keeper.alive.is_empty());
        if !running || node.boot != boot {
            return;
        }
        let list = node.checkpoints.entry(job).or_default();
        let step = list.last().map_or(0, |one| one.step) + 5;
        let name = match rewrites(job) {
            true => "last".to_owned(),
            false => format!("step-{step}"),
        };
        let made = Directory {
            name: name.clone(),
            step,
            epoch,
        };
        put(list, &made);
        self.seal(who, key, (&name, step), false);
        if sharded(job) {
            self.other_shards(who, key, &made);
        }
        let delay = self.dice.between(300, 2_000);
        self.after(
            delay,
            Event::Seal {
                node: who,
                boot,
                key,
            },
        );
    }

    /// Of a job whose ranks all save, the other nodes complete theirs at the same moment. Some are seen to only when they are asked for it.
    fn other_shards(&mut self, first: usize, key: Key, made: &Directory) {
        for who in (0..self.nodes.len()).filter(|who| *who != first) {
            let node = &mut self.nodes[who];
            let keeper = node.keepers.get(&key);
            if keeper.is_none_or(|keeper| keeper.alive.is_empty()) {
                continue;
            }
            let list = node.checkpoints.entry(key.0).or_default();
            put(list, made);
            if self.dice.chance(70) {
                self.seal(who, key, (&made.name, made.step), false);
            }
        }
    }

    /// `kill -9` of a keeper: its ranks die with it.
    pub(super) fn kill_keeper(&mut self, who: usize) {
        let node = &self.nodes[who];
        let open: Vec<Key> = node
            .keepers
            .iter()
            .filter(|(_, one)| !one.all_ended)
            .map(|(key, _)| *key)
            .collect();
        if open.is_empty() {
            return;
        }
        let key = open[self.dice.place(open.len())];
        self.nodes[who].keepers.remove(&key);
        let name = self.nodes[who].name.clone();
        self.checkers.closed_epochs.vanished(&name, key);
        self.checkers.fences.ended(&name, key);
        self.rescan(who, key);
        self.report_loss(who, key);
    }

    /// The machine loses its power: everything that runs is gone, and it will boot anew.
    pub(super) fn cut_power(&mut self, who: usize) {
        self.crash_agent(who, true);
        let node = &mut self.nodes[who];
        node.boot += 1;
        node.stuck.clear();
        (node.paused_until, node.frozen_until) = (0, 0);
        let (name, keepers) = (node.name.clone(), std::mem::take(&mut node.keepers));
        for key in keepers.into_keys() {
            self.checkers.closed_epochs.vanished(&name, key);
            self.checkers.fences.ended(&name, key);
        }
    }
}
