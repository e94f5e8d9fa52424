//! PURE: who copies which part of a checkpoint to whom, who uploads it, who may read what, and whose part of one is still missing.
//!
//! The state says who holds what and how many copies a job wants; this is what is under way because of that, and is soft: a new leader
//! derives it again. A copy counts when its holder has said so in an event, never because it was ordered.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
mod inventory;
mod known;
mod restores;
mod target;
#[cfg(test)]
mod tests;
mod uploads;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::spec::CheckpointSpec;

use super::gang::Key;
use super::liveness::Mono;
use crate::state::State;
use crate::state::commands::SealedPart;
use crate::state::records::{Checkpoint, Job, JobState, ManifestId, Part, PartKey};
use crate::state::rules::{checkpoint_rules, next_to_upload};
use known::{is_known, is_missing, may_read, missing, sealed, stays};
pub use restores::{RestoreOrder, RestorePart, restore, restore_ms};
use target::Choice;
use uploads::Uploads;
pub use wanted::{Store, WantedPart, wanted};

/// What lacks copies or parts is looked at again after so long, milliseconds.
const AGAIN_MS: u64 = 1_000;
/// Nothing goes to a node that failed to take a part for so long, milliseconds.
const FAILED_MS: u64 = 5_000;
/// A copy of which nothing was heard for so long is ordered anew, milliseconds. Nodes say when one fails.
const FORGOTTEN_MS: u64 = 30 * 60 * 1_000;
/// The word of a holder comes so long after its copy at the latest, milliseconds.
const SAID_MS: u64 = 10_000;
/// A node that was asked for its part of a checkpoint is asked again after so long, milliseconds.
const ASK_AGAIN_MS: u64 = 5_000;
/// Copies that one node sends, or takes, at the same time.
const AT_ONCE: usize = 4;
/// Specs whose rules are remembered.
const RULES_MAX: usize = 4_096;
/// Parts that one answer names; the rest comes with the next question.
const BROUGHT_MAX: usize = 256;

/// Where a node takes and gives parts, and how much room it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes that it could still take.
    pub free: u64,
}

/// What a node says about parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// How much room it has.
    Room(Room),
    /// Parts that it holds; all of them once no more follow.
    Inventory {
        /// Some of them.
        parts: Vec<PartKey>,
        /// More follow.
        more: bool,
    },
    /// May `node` put `manifest` there, or read it there?
    Ask {
        /// Named again in the answer.
        id: u64,
        /// Who wants to.
        node: String,
        /// Which part.
        manifest: ManifestId,
        /// It wants to put it there.
        write: bool,
    },
    /// What became of a copy that it was told to send.
    Pushed {
        /// Which part.
        key: PartKey,
        /// To whom.
        to: String,
        /// Why not; empty: it is there.
        error: String,
    },
    /// It was asked for its part, and cannot tell any more whether it had one.
    Gone {
        /// Of which attempt.
        key: Key,
        /// Of which checkpoint.
        name: String,
    },
    /// What became of an upload that it was told to do.
    Uploaded {
        /// Which part.
        key: PartKey,
        /// To which object store; empty: an agent of an older release does not say.
        url: String,
        /// Why not; empty: all of it is there.
        error: String,
    },
}

/// What a node is told about parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyOrder {
    /// Send this part to that node.
    Replicate {
        /// Which part.
        key: PartKey,
        /// To whom.
        to: DataPeer,
        /// Nothing trains that it could disturb.
        urgent: bool,
        /// Bytes a second that all copies of this job from there may take; `None`: as that node finds fit.
        rate: Option<u64>,
    },
    /// Upload this part.
    Upload {
        /// Which part.
        key: PartKey,
        /// What is said of it there.
        sealed: SealedPart,
        /// Of the object store.
        url: String,
        /// Not the one that the job's spec names: it does not count that the part is there.
        elsewhere: bool,
        /// As in [`CopyOrder::Replicate`].
        rate: Option<u64>,
    },
    /// The answer to [`Word::Ask`].
    Answer {
        /// Of the question.
        id: u64,
        /// Every part that these bytes are and that is to be put there: equal bytes may be parts of several checkpoints.
        brought: Vec<(PartKey, SealedPart)>,
        /// It may.
        yes: bool,
    },
    /// These do not count any more.
    Forget(Vec<PartKey>),
    /// Seal its part of this, or say that there is none.
    SealPart {
        /// The attempt.
        key: Key,
        /// The checkpoint's name.
        name: String,
        /// Its step, 0: not known.
        step: u64,
    },
    /// Say whether it holds these.
    Announce(Vec<PartKey>),
}

/// A node and where it takes and gives parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPeer {
    /// Its name.
    pub node: String,
    /// Host and port.
    pub address: String,
}

/// A copy that was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Move {
    from: String,
    /// Ordered anew then, if nobody has said that it holds the part.
    until: Mono,
    /// It was sent: it costs nobody anything any more.
    sent: bool,
}

/// An attempt, the name of one of its checkpoints, and a node that was asked for its part.
type Asked = (Key, String, String);

/// All that is under way.
#[derive(Debug, Default)]
pub struct Copies {
    /// Jobs to look at.
    touched: BTreeSet<JobId>,
    /// Jobs that lack copies or parts.
    lacking: BTreeSet<JobId>,
    /// By part and target.
    moves: BTreeMap<(PartKey, String), Move>,
    /// Until when a target is passed over for a part.
    failed: BTreeMap<(PartKey, String), Mono>,
    uploads: Uploads,
    /// When a node was last asked for its part.
    asked: BTreeMap<Asked, Mono>,
    /// Who cannot tell any more: nobody waits for it.
    mute: BTreeSet<Asked>,
    /// Connected nodes that can take and give parts.
    peers: BTreeMap<String, Peer>,
    inventories: BTreeMap<String, Vec<PartKey>>,
    next: Option<Mono>,
    /// When all that lacked something was last looked at.
    looked: Mono,
    /// What specs say of checkpoints, by their hash.
    rules: BTreeMap<[u8; 32], Arc<CheckpointSpec>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    address: String,
    room: Option<Room>,
}

/// For whom an order is.
pub type Told = (String, CopyOrder);

impl Copies {
    /// A new leader looks at all jobs with checkpoints.
    pub fn new(state: &State) -> Self {
        let mut copies = Self::default();
        copies.touch_all(state);
        copies
    }

    /// Checkpoints of this job, or who holds them, have changed.
    pub fn touch(&mut self, job: JobId) {
        self.touched.insert(job);
    }

    /// Nodes have come or gone. Where many do at once, as after an election, all jobs are looked at once a second.
    pub fn touch_all(&mut self, state: &State) {
        let with = state.jobs().filter(|job| !job.checkpoints.is_empty());
        self.lacking.extend(with.map(|job| job.id));
        let due = self.looked.saturating_add(AGAIN_MS);
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
    }

    /// A node is connected; `port` 0: it takes and gives nothing.
    pub fn connected(&mut self, state: &State, node: &str, host: &str, port: u16) {
        self.gone(node);
        if port > 0 && !host.is_empty() {
            let address = match host.contains(':') && !host.starts_with('[') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            };
            let room = None;
            self.peers.insert(node.into(), Peer { address, room });
        }
        self.touch_all(state);
    }

    /// A node is not connected any more; what it sent or took is under way no more.
    pub fn gone(&mut self, node: &str) {
        self.peers.remove(node);
        self.inventories.remove(node);
        // What it was asked it has forgotten, too.
        self.asked.retain(|(_, _, asked), _| asked != node);
        self.mute.retain(|(_, _, mute)| mute != node);
        self.uploads.gone(node);
        self.moves
            .retain(|(_, to), one| to != node && one.from != node);
    }

    /// When there is something to look at.
    pub fn next(&self) -> Option<Mono> {
        if self.touched.is_empty() {
            self.next
        } else {
            Some(0)
        }
    }

    fn is_connected(&self, node: &str) -> bool {
        self.peers.contains_key(node)
    }

    /// Where a connected node gives parts.
    pub fn peer(&self, node: &str) -> Option<DataPeer> {
        self.peers.get(node).map(|peer| DataPeer {
            node: node.into(),
            address: peer.address.clone(),
        })
    }

    /// Takes in what `node` says.
    pub fn said(&mut self, now: Mono, state: &State, node: &str, word: Word) -> Vec<Told> {
        let told = |order| vec![(node.to_owned(), order)];
        match word {
            Word::Room(room) => {
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.room = Some(room);
                }
                Vec::new()
            }
            Word::Inventory { parts, more } => {
                let list = self.inventories.entry(node.into()).or_default();
                list.extend(parts);
                if more && list.len() < inventory::PARTS_MAX {
                    return Vec::new();
                }
                let parts = self.inventories.remove(node).unwrap_or_default();
                inventory::compare(state, node, parts, more)
            }
            Word::Ask {
                id,
                node: who,
                manifest,
                write,
            } => {
                let brought = match write {
                    true => self.may_send(state, (&who, node), manifest),
                    false => Vec::new(),
                };
                let yes = !brought.is_empty() || !write && may_read(state, &who, manifest);
                told(CopyOrder::Answer { id, brought, yes })
            }
            Word::Pushed { key, to, error } => {
                self.pushed(now, node, (key, to), error.is_empty());
                Vec::new()
            }
            Word::Gone { key, name } => {
                if is_missing(state, key, &name, node) {
                    self.mute.insert((key, name, node.to_owned()));
                }
                Vec::new()
            }
            Word::Uploaded { key, url, error } => {
                // What failed waits for the next look at all jobs: else one whose store is not there would take the place of others again and again.
                if error.is_empty() {
                    self.touched.insert(key.job);
                }
                self.uploads.said(now, node, (key, &url), !error.is_empty());
                Vec::new()
            }
        }
    }

    /// What became of a copy, by the node that sent it.
    fn pushed(&mut self, now: Mono, node: &str, copy: (PartKey, String), sent: bool) {
        // Only who was told to send it knows.
        if self.moves.get(&copy).is_none_or(|one| one.from != node) {
            return;
        }
        if sent {
            // Its holder says so in a moment, and then it counts.
            if let Some(one) = self.moves.get_mut(&copy) {
                one.until = now.saturating_add(SAID_MS);
                one.sent = true;
            }
            return;
        }
        self.failed
            .insert(copy.clone(), now.saturating_add(FAILED_MS));
        self.moves.remove(&copy);
        self.touched.insert(copy.0.job);
    }

    /// What is due now.
    pub fn look(&mut self, now: Mono, state: &State) -> Vec<Told> {
        let due = self.next.is_some_and(|next| next <= now);
        if self.touched.is_empty() && !due {
            return Vec::new();
        }
        self.failed.retain(|_, until| *until > now);
        self.asked
            .retain(|_, at| at.saturating_add(ASK_AGAIN_MS) > now);
        self.mute
            .retain(|(key, name, node)| is_missing(state, *key, name, node));
        self.moves
            .retain(|(key, _), one| one.until > now && is_known(state, key));
        self.uploads.tidy(now, state);
        let mut jobs = std::mem::take(&mut self.touched);
        if due {
            jobs.append(&mut self.lacking);
            self.looked = now;
        }
        let mut told = Vec::new();
        for id in jobs {
            let lacks = match state.job(id) {
                Some(job) => self.look_at(now, state, job, &mut told),
                None => false,
            };
            match lacks {
                true => self.lacking.insert(id),
                false => self.lacking.remove(&id),
            };
        }
        // A job that is touched often must not keep the others waiting.
        let again = now.saturating_add(AGAIN_MS);
        let next = if due {
            again
        } else {
            self.next.unwrap_or(again)
        };
        self.next = (!self.lacking.is_empty()).then_some(next);
        told
    }

    /// Where a part is on its way to.
    fn targets<'a>(&'a self, key: &'a PartKey) -> impl Iterator<Item = &'a str> {
        let from = (key.clone(), String::new());
        let ordered = self.moves.range(from..).map(|((moved, to), _)| (moved, to));
        let its = ordered.take_while(move |(moved, _)| *moved == key);
        its.map(|(_, to)| to.as_str())
    }

    fn rules(&mut self, state: &State, job: &Job) -> Arc<CheckpointSpec> {
        if let Some(known) = self.rules.get(&job.spec_hash) {
            return known.clone();
        }
        if self.rules.len() >= RULES_MAX {
            self.rules.clear();
        }
        let rules = Arc::new(checkpoint_rules(state, job));
        self.rules.insert(job.spec_hash, rules.clone());
        rules
    }

    /// Orders what a job lacks; whether it lacks anything.
    fn look_at(&mut self, now: Mono, state: &State, job: &Job, told: &mut Vec<Told>) -> bool {
        let rules = self.rules(state, job);
        let mut lacks = false;
        // It stays until it is uploaded, whatever is newer, and would else wait for all that is.
        let next = next_to_upload(state, &job.checkpoints);
        if let Some(next) = next.and_then(|place| job.checkpoints.get(place)) {
            lacks |= self.upload(now, state, (job, next), &rules, told);
        }
        for checkpoint in job.checkpoints.iter().rev() {
            if !checkpoint.is_whole() {
                lacks |= self.ask_for_parts(now, state, job, checkpoint, told);
            }
            for part in checkpoint.filled() {
                lacks |= self.copy(now, state, (job, checkpoint), part, &rules, told);
            }
            lacks |= self.upload(now, state, (job, checkpoint), &rules, told);
        }
        lacks
    }

    /// Orders copies of one part; whether it lacks some.
    fn copy(
        &mut self,
        now: Mono,
        state: &State,
        (job, checkpoint): (&Job, &Checkpoint),
        part: &Part,
        rules: &CheckpointSpec,
        told: &mut Vec<Told>,
    ) -> bool {
        let Some(key) = checkpoint.key(job.id, part) else {
            return false;
        };
        let holders = &part.holders;
        for holder in holders {
            self.moves.remove(&(key.clone(), holder.clone()));
        }
        let staying = holders.iter().filter(|holder| stays(state, holder)).count();
        let wanted = (rules.replicas as usize).saturating_add(1);
        let needs = wanted.saturating_sub(staying);
        let coming = self.targets(&key).count();
        for _ in coming..needs {
            let Some(Choice { from, to }) = self.choose(now, state, &key, part) else {
                break;
            };
            let Some(peer) = self.peer(&to) else {
                break;
            };
            let urgent = !matches!(job.state, JobState::Running | JobState::Starting);
            let order = CopyOrder::Replicate {
                key: key.clone(),
                to: peer,
                urgent,
                rate: rules.bandwidth.rate(),
            };
            told.push((from.clone(), order));
            let until = now.saturating_add(FORGOTTEN_MS);
            let sent = false;
            self.moves
                .insert((key.clone(), to), Move { from, until, sent });
        }
        needs > 0
    }

    /// Asks nodes of the current attempt for parts that are missing; whether some are.
    fn ask_for_parts(
        &mut self,
        now: Mono,
        state: &State,
        job: &Job,
        checkpoint: &Checkpoint,
        told: &mut Vec<Told>,
    ) -> bool {
        let missing = missing(state, job, checkpoint);
        for node in &missing {
            let key = (job.id, checkpoint.epoch);
            let name = checkpoint.name.clone();
            let asked = (key, name.clone(), node.clone());
            let knows = self.peers.contains_key(node) && !self.mute.contains(&asked);
            if !knows || self.asked.contains_key(&asked) {
                continue;
            }
            self.asked.insert(asked, now);
            let step = checkpoint.step;
            told.push((node.clone(), CopyOrder::SealPart { key, name, step }));
        }
        !missing.is_empty()
    }

    /// Last attempts of pending jobs of which a part of a checkpoint is missing that a connected node may still give. One that has booted since
    /// may: what was written lies on its disk.
    pub fn incomplete(&self, state: &State) -> BTreeMap<Key, Vec<String>> {
        let mut found: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for job in self.lacking.iter().filter_map(|id| state.job(*id)) {
            if job.state != JobState::Pending {
                continue;
            }
            for checkpoint in job.checkpoints.iter().filter(|one| !one.is_whole()) {
                let mut nodes = missing(state, job, checkpoint);
                let asked = |node: &str| {
                    (
                        (job.id, checkpoint.epoch),
                        checkpoint.name.clone(),
                        node.into(),
                    )
                };
                nodes.retain(|node| {
                    self.peers.contains_key(node) && !self.mute.contains(&asked(node))
                });
                if !nodes.is_empty() {
                    found.insert((job.id, checkpoint.epoch), nodes);
                }
            }
        }
        found
    }

    /// Only a copy that this leader ordered may be put anywhere. Equal bytes may have been ordered for several checkpoints: they travel once.
    fn may_send(
        &self,
        state: &State,
        (from, to): (&str, &str),
        manifest: ManifestId,
    ) -> Vec<(PartKey, SealedPart)> {
        let ordered = self.moves.iter().filter(|((key, target), one)| {
            key.manifest == manifest && target == to && one.from == from
        });
        let known = ordered.filter_map(|((key, _), _)| Some((key.clone(), sealed(state, key)?)));
        known.take(BROUGHT_MAX).collect()
    }
}
