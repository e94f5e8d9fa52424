//! Parts of checkpoints on simulated nodes: sealing takes a while, copies travel between nodes and may fail, restores fetch what is missing.
//! Does NOT decide anything: what is copied to whom does the leader, what is told and forgotten the agent's core.

use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_agent::core as agent;
use mlctl_coordinator::leader::copies::{CopyOrder, Word};
use mlctl_coordinator::leader::step;
use mlctl_coordinator::state::records::PartKey;
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::CheckpointSealed;

use super::keeper::Directory;
use super::marks::Mark;
use super::stream::{Down, Up};
use super::world::{COORDINATORS, Event, Process, World};
use crate::checkers::Key;

/// Between two tries of a restore, milliseconds.
const AGAIN_MS: u64 = 250;
/// Tries after which a preparation gives up.
const TRIES: u32 = 60;
/// After an order to seal a part, a node that has nothing of that name says so, milliseconds.
const QUIET_MS: u64 = 2_000;
/// A copy whose new node is not told for so long what it is comes to nothing, milliseconds.
const UNANSWERED_MS: u64 = 5_000;
/// Every part has so many bytes: what they are does not matter here.
const BYTES: u64 = 1 << 20;

/// What a node's store holds, by name. It is on disk: it outlives the agent.
pub(super) type Vault = BTreeMap<agent::PartKey, CheckpointSealed>;

/// A directory that is being sealed.
#[derive(Debug, Clone)]
pub(super) struct Sealing {
    pub(super) at: Process,
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) step: u64,
    pub(super) by_rescan: bool,
}

/// A copy on its way.
#[derive(Debug, Clone)]
pub(super) struct Copying {
    pub(super) from: Process,
    pub(super) to: Process,
    part: agent::PartKey,
}

/// Copies that have come and of which their new nodes have asked the leader what they are.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    next: u64,
    asked: BTreeMap<u64, Copying>,
}

/// A preparation that puts a checkpoint together.
#[derive(Debug, Clone)]
pub(super) struct Restoring {
    pub(super) at: Process,
    start: Arc<agent::Start>,
    tries: u32,
}

/// What a part of this name is made of: the same name has other bytes in each attempt and on each node. Of some jobs, what nodes other than the
/// first write is equal in all checkpoints.
fn manifest((job, epoch): Key, step: u64, index: u32) -> agent::ManifestId {
    let text = match index > 0 && job.counter.is_multiple_of(4) {
        true => format!("{job}/{index}"),
        false => format!("{job}/{epoch}/{step}/{index}"),
    };
    *blake3::hash(text.as_bytes()).as_bytes()
}

pub(super) fn to_agent(key: PartKey) -> agent::PartKey {
    agent::PartKey {
        job: key.job,
        epoch: key.epoch,
        name: key.name,
        index: key.index,
        manifest: key.manifest,
    }
}

pub(super) fn to_leader(key: &agent::PartKey) -> PartKey {
    PartKey {
        job: key.job,
        epoch: key.epoch,
        name: key.name.clone(),
        index: key.index,
        manifest: key.manifest,
    }
}

impl World {
    /// A directory is complete: the agent, if there is one, begins to seal it.
    pub(super) fn seal(
        &mut self,
        who: usize,
        key: Key,
        (name, step): (&str, u64),
        by_rescan: bool,
    ) {
        let at = self.process(who);
        if self.agent(at).is_none() {
            return;
        }
        let (job, epoch) = key;
        let begun = true;
        self.tell_agent(who, agent::Event::Sealing { job, epoch, begun });
        let slow = self.storms() && self.dice.chance(10);
        let delay = self.dice.between(2, if slow { 3_000 } else { 120 });
        let sealing = Sealing {
            at,
            key,
            name: name.to_owned(),
            step,
            by_rescan,
        };
        self.after(delay, Event::Sealed(sealing));
    }

    pub(super) fn on_sealed(&mut self, sealing: Sealing) {
        if self.agent(sealing.at).is_none() {
            return;
        }
        let (who, key) = (sealing.at.who, sealing.key);
        let (job, epoch) = key;
        let Some((index, parts)) = self.nodes[who].place_in(key) else {
            return;
        };
        let made = manifest(key, sealing.step, index);
        let found = agent::CheckpointFound {
            by_rescan: sealing.by_rescan,
            part: Some(agent::PartFound {
                index,
                manifest: Some(made),
                bytes: BYTES,
            }),
            parts,
            ..agent::CheckpointFound::bare(job, epoch, sealing.name.clone(), sealing.step)
        };
        // What an earlier attempt left of several nodes is none of this one's: parts of both together would be of neither. What was written over
        // since is not sealed at all.
        let there = self.directory(who, key, &sealing.name);
        let old = there.is_none() && parts == 1;
        if old || there == Some(sealing.step) {
            self.checkers
                .checkpoints
                .sealed(key, &sealing.name, index, Some(made));
            self.hold(who, job, epoch, found.sealed());
            self.step(who, agent::Event::Checkpoint(found));
        }
        let begun = false;
        self.step(who, agent::Event::Sealing { job, epoch, begun });
    }

    /// The step of what a trainer of this attempt completed under this name on this node.
    fn directory(&self, who: usize, (job, epoch): Key, name: &str) -> Option<u64> {
        let mut made = self.nodes[who].checkpoints.get(&job).into_iter().flatten();
        let same = made.find(|one: &&Directory| one.epoch == epoch && one.name == name);
        same.map(|one| one.step)
    }

    /// A part is durable on a node.
    fn hold(&mut self, who: usize, job: JobId, epoch: Epoch, sealed: CheckpointSealed) {
        if let Some(key) = agent::PartKey::of(job, epoch, &sealed) {
            let node = &mut self.nodes[who];
            let name = node.name.clone();
            self.checkers.checkpoints.held(&name, &to_leader(&key));
            node.vault.insert(key, sealed);
        }
    }

    /// What the leader wants done with parts.
    pub(super) fn on_copy_order(&mut self, at: Process, order: CopyOrder) {
        if self.agent(at).is_none() {
            return;
        }
        match order {
            CopyOrder::Replicate { key, to, .. } => {
                let target = self.nodes.iter().position(|node| node.name == to.node);
                let Some(target) = target else {
                    return;
                };
                let slow = self.storms() && self.dice.chance(10);
                let delay = self.dice.between(5, if slow { 8_000 } else { 300 });
                let copying = Copying {
                    from: at,
                    to: self.process(target),
                    part: to_agent(key),
                };
                self.after(delay, Event::Copied(copying));
            }
            CopyOrder::Upload { key, url, .. } => self.begin_upload(at, key, url),
            CopyOrder::SealPart { key, name, step } => {
                let sealing = Sealing {
                    at,
                    key,
                    name,
                    step,
                    by_rescan: true,
                };
                self.after(QUIET_MS, Event::PartAsked(sealing));
            }
            CopyOrder::Answer { id, brought, .. } => {
                let keys = brought.into_iter().map(|(key, _)| to_agent(key));
                self.on_brought(id, &keys.collect::<Vec<_>>());
            }
            CopyOrder::Forget(_) | CopyOrder::Announce(_) => unreachable!("the core hears of it"),
        }
    }

    /// A node is asked for its part: it has it, or never wrote any.
    pub(super) fn on_part_asked(&mut self, asked: Sealing) {
        if self.agent(asked.at).is_none() {
            return;
        }
        let (who, key) = (asked.at.who, asked.key);
        let (job, epoch) = key;
        self.marks.hit(Mark::PartAsked);
        if let Some(step) = self.directory(who, key, &asked.name) {
            return self.seal(who, key, (&asked.name, step), false);
        }
        let Some((index, parts)) = self.nodes[who].place_in(key) else {
            let gone = Word::Gone {
                key,
                name: asked.name,
            };
            return self.say_of_copies(asked.at, gone);
        };
        let found = agent::CheckpointFound {
            part: Some(agent::PartFound {
                index,
                manifest: None,
                bytes: 0,
            }),
            parts,
            ..agent::CheckpointFound::bare(job, epoch, asked.name.clone(), asked.step)
        };
        self.checkers
            .checkpoints
            .sealed(key, &asked.name, index, None);
        self.step(who, agent::Event::Checkpoint(found));
    }

    /// A copy is there, or failed on the way.
    pub(super) fn on_copied(&mut self, copying: Copying) {
        let Copying { from, to, part } = copying;
        let sealed = self.nodes[from.who].vault.get(&part).cloned();
        let cut = self.are_apart(from.who, to.who);
        let lives = self.agent(from).is_some() && self.agent(to).is_some();
        let works = lives && !cut && !self.dice.chance(if self.storms() { 10 } else { 0 });
        let copying = Copying { from, to, part };
        if sealed.is_none() || !works {
            return self.pushed(&copying, "it broke off");
        }
        self.arriving.next += 1;
        let id = self.arriving.next;
        let word = Word::Ask {
            id,
            node: self.nodes[from.who].name.clone(),
            manifest: copying.part.manifest,
            write: true,
        };
        self.arriving.asked.insert(id, copying);
        self.say_of_copies(to, word);
        self.after(UNANSWERED_MS, Event::Unanswered(id));
    }

    /// The leader said what the bytes are that have come: each part of that is here now.
    fn on_brought(&mut self, id: u64, keys: &[agent::PartKey]) {
        let Some(copying) = self.arriving.asked.remove(&id) else {
            return;
        };
        let (from, to) = (copying.from.who, copying.to.who);
        let parts = keys
            .iter()
            .filter_map(|key| Some((key, self.nodes[from].vault.get(key).cloned()?)));
        let parts: Vec<_> = parts.collect();
        if parts.is_empty() || self.agent(copying.to).is_none() {
            return self.pushed(&copying, "nobody knows what it is");
        }
        for (key, sealed) in parts {
            self.marks.hit(match *key == copying.part {
                true => Mark::PartCopied,
                false => Mark::PartShared,
            });
            let (job, epoch) = (key.job, key.epoch);
            self.hold(to, job, epoch, sealed.clone());
            self.step(to, agent::Event::CopyHeld { job, epoch, sealed });
        }
        self.pushed(&copying, "");
    }

    pub(super) fn on_unanswered(&mut self, id: u64) {
        if let Some(copying) = self.arriving.asked.remove(&id) {
            self.pushed(&copying, "nobody answers");
        }
    }

    /// The sender says what became of a copy; without an `error` it is there.
    fn pushed(&mut self, copying: &Copying, error: &str) {
        let word = Word::Pushed {
            key: to_leader(&copying.part),
            to: self.nodes[copying.to.who].name.clone(),
            error: error.into(),
        };
        self.say_of_copies(copying.from, word);
    }

    fn are_apart(&self, one: usize, other: usize) -> bool {
        let (one, other) = (COORDINATORS + one, COORDINATORS + other);
        self.is_cut(one, other) || self.is_cut(other, one)
    }

    /// A word to the leader, if an agent has one.
    pub(super) fn say_of_copies(&mut self, at: Process, word: Word) {
        if let Some(stream) = self.agent(at).and_then(|agent| agent.stream) {
            self.push_up(stream, Up::Copies(word));
        }
    }

    /// A leader hears of parts.
    pub(super) fn said_of_copies(&mut self, who: usize, stream: u64, word: Word) {
        let member = self.coordinators[who].live.as_ref();
        if let Some(session) = member.and_then(|member| member.sessions.get(&stream)) {
            let (node, link) = (self.nodes[session.node()].name.clone(), stream);
            self.led(who, step::Event::Copies { node, link, word });
        }
    }

    /// What a core wants done with parts.
    pub(super) fn act_on_parts(&mut self, at: Process, action: agent::Action) {
        match action {
            agent::Action::Forget(keys) => self.forget_parts(at.who, &keys),
            agent::Action::Announce(keys) => self.announce_parts(at.who, keys),
            agent::Action::SendInventory => self.send_inventory(at),
            other => unreachable!("{other:?} is not of parts"),
        }
    }

    fn send_inventory(&mut self, at: Process) {
        let parts = self.nodes[at.who].vault.keys().map(to_leader).collect();
        self.say_of_copies(at, Word::Inventory { parts, more: false });
    }

    fn forget_parts(&mut self, who: usize, keys: &[agent::PartKey]) {
        self.marks.hit(Mark::PartForgotten);
        for key in keys {
            self.nodes[who].vault.remove(key);
        }
    }

    /// Says how it is with parts that the cluster is not sure of.
    fn announce_parts(&mut self, who: usize, keys: Vec<agent::PartKey>) {
        for key in keys {
            let event = match self.nodes[who].vault.get(&key).cloned() {
                Some(sealed) => agent::Event::CopyHeld {
                    job: key.job,
                    epoch: key.epoch,
                    sealed,
                },
                None => agent::Event::CopyLost(key),
            };
            self.tell_agent(who, event);
        }
    }

    /// Before a keeper is asked for, what the attempt resumes from is put together.
    pub(super) fn put_together(&mut self, at: Process, start: Arc<agent::Start>, delay: u64) {
        let tries = 0;
        let restoring = Restoring { at, start, tries };
        self.after(delay, Event::Restore(restoring));
    }

    pub(super) fn on_restore(&mut self, restoring: Restoring) {
        let Restoring { at, start, tries } = restoring;
        if self.agent(at).is_none() {
            return;
        }
        let (who, key) = (at.who, (start.job, start.epoch));
        let done = match &start.restore {
            Some(restore) => restore
                .parts
                .iter()
                .all(|part| self.fetch(who, &start, restore.epoch, part)),
            None => true,
        };
        let given_up = tries >= TRIES || self.nodes[who].cancelled.contains(&key);
        if done {
            let name = self.nodes[who].name.clone();
            self.checkers.checkpoints.restored(&name, key);
            self.marks.hit(Mark::Restored);
        }
        if done {
            return self.after(1, Event::SpawnKeeper(at, start));
        }
        if given_up {
            self.nodes[who].cancelled.remove(&key);
            let (job, epoch) = key;
            let why = "no holder has its checkpoint".to_owned();
            return self.tell_agent(who, agent::Event::PrepareFailed { job, epoch, why });
        }
        let tries = tries + 1;
        self.after(AGAIN_MS, Event::Restore(Restoring { at, start, tries }));
    }

    /// One part is here, or comes from a holder that answers, or from the object store.
    fn fetch(
        &mut self,
        who: usize,
        start: &agent::Start,
        epoch: Epoch,
        part: &agent::RestorePart,
    ) -> bool {
        let Some(manifest) = part.manifest else {
            return true;
        };
        let key = agent::PartKey {
            job: start.resume_job.unwrap_or(start.job),
            epoch,
            name: start.resume_from.clone(),
            index: part.index,
            manifest,
        };
        if self.nodes[who].vault.contains_key(&key) {
            return true;
        }
        let gives = |world: &Self, node: usize| {
            let up = world.nodes[node].agent.is_some()
                && world.nodes[node]
                    .paused_until
                    .max(world.nodes[node].frozen_until)
                    <= world.now;
            up && !world.are_apart(who, node)
        };
        let mut holders = part.holders.iter();
        let from = holders.find_map(|holder| {
            let node = self
                .nodes
                .iter()
                .position(|node| node.name == holder.node)?;
            gives(self, node).then_some(())?;
            self.nodes[node].vault.get(&key).cloned()
        });
        let Some(sealed) = from.or_else(|| self.ask_store(part, &key)) else {
            return false;
        };
        self.hold(who, key.job, epoch, sealed.clone());
        let (job, epoch) = (key.job, epoch);
        self.tell_agent(who, agent::Event::CopyHeld { job, epoch, sealed });
        true
    }

    /// Whether the disk of this node has this part.
    pub(super) fn has_part(&self, node: &str, key: &PartKey) -> bool {
        let key = to_agent(key.clone());
        let mut named = self.nodes.iter().filter(|one| one.name == node);
        named.any(|node| node.vault.contains_key(&key))
    }
}

/// How an order about parts reaches a node: some of them the core hears of.
pub(super) fn down(term: u64, order: CopyOrder) -> Down {
    let keys = |parts: Vec<PartKey>| parts.into_iter().map(to_agent).collect();
    match order {
        CopyOrder::Forget(parts) => Down::Say(term, agent::LeaderMessage::Forget(keys(parts))),
        CopyOrder::Announce(parts) => Down::Say(term, agent::LeaderMessage::Announce(keys(parts))),
        other => Down::Copies(other),
    }
}
