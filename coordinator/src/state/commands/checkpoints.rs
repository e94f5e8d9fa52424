//! News of checkpoints: a node has sealed its part of one, holds a copy of somebody's part, or has lost one. A checkpoint counts once every
//! node's part is known; what a rule of `rules/retention` lets go is forgotten by its holders.
//! Does NOT choose who copies what: the leader does.
use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::{CHECKPOINTS_PER_JOB_MAX, GANG_NODES_MAX};

use super::{Context, in_doubt};
use crate::state::Effect;
use crate::state::change::Change;
use crate::state::records::{Checkpoint, Job, ManifestId, Node, Part, PartKey};
use crate::state::rules::{checkpoint_name_is_legal, checkpoint_rules, dropped};

/// Everything there is to say of a part that is durable on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPart {
    /// Of the checkpoint's directory or file.
    pub name: String,
    /// The training step, 0 if nothing tells.
    pub step: u64,
    /// What was sealed; `None`: nothing but the directory is there.
    pub part: Option<PartOf>,
    /// How many parts make it whole; 0: one.
    pub parts: u32,
    /// What `keep_best` goes by.
    pub metric: Option<u64>,
    /// How long the trainer took to write it, milliseconds, 0: not known.
    pub save_ms: u32,
}

/// One node's part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartOf {
    /// Node rank of the node that made it.
    pub index: u32,
    /// Names its bytes; `None`: that node wrote nothing.
    pub manifest: Option<ManifestId>,
    /// Its size.
    pub bytes: u64,
}

/// News of a copy. Whoever has it need not be of the attempt that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyNews {
    /// It is durable there. Says all there is to know: the node that made it may be gone.
    Held(SealedPart),
    /// It is not there any more, or damaged.
    Lost {
        /// The checkpoint's name.
        name: String,
        /// Which part.
        index: u32,
        /// Names its bytes.
        manifest: ManifestId,
    },
    /// The object store that the job's spec names has all of it.
    Uploaded {
        /// The checkpoint's name.
        name: String,
        /// Which part.
        index: u32,
        /// Names its bytes.
        manifest: ManifestId,
    },
}

/// Records what a node of the current attempt sealed. Accepted until the next epoch starts, also while this one ends.
pub(super) fn seal(
    change: &mut Change,
    mut job: Job,
    (epoch, position): (Epoch, usize),
    sealed: &SealedPart,
    (node, context): (&Node, &Context),
) {
    let Some((part, whole)) = readable(sealed, position, &node.facts.name) else {
        return;
    };
    // Who seals a checkpoint runs, whatever was said of it before.
    if (change.state().in_doubt(job.id)).is_some_and(|older| older.epoch < epoch) {
        in_doubt::close(change, &mut job, context.now_ms, "its successor runs");
    }
    take_part(&mut job.checkpoints, (epoch, whole), part, sealed, context);
    settle(change, job);
}

impl CopyNews {
    pub(super) fn apply(
        &self,
        change: &mut Change,
        (job, epoch): (JobId, Epoch),
        (node, context): (&Node, &Context),
    ) {
        let holder = &node.facts.name;
        let job = match change.job(job) {
            Ok(job) => job,
            // What is in history stays as it is, and so do its copies.
            Err(_) if change.state().is_archived(job) => return,
            Err(_) => return forget_one(change, self.key(job, epoch), holder),
        };
        match self {
            Self::Held(sealed) => held(change, job, epoch, sealed, (holder, context)),
            Self::Lost { .. } => lost(change, job, self.key_of(epoch), holder),
            Self::Uploaded { .. } => uploaded(change, job, self.key_of(epoch), holder),
        }
    }

    fn key(&self, job: JobId, epoch: Epoch) -> Option<PartKey> {
        let (name, index, manifest) = self.key_of(epoch).1;
        Some(PartKey {
            job,
            epoch,
            name: name.to_owned(),
            index,
            manifest: manifest?,
        })
    }

    fn key_of(&self, epoch: Epoch) -> (Epoch, (&str, u32, Option<ManifestId>)) {
        let what = match self {
            Self::Held(sealed) => {
                let part = sealed.part;
                (
                    sealed.name.as_str(),
                    part.map_or(0, |part| part.index),
                    part.and_then(|part| part.manifest),
                )
            }
            Self::Lost {
                name,
                index,
                manifest,
            }
            | Self::Uploaded {
                name,
                index,
                manifest,
            } => (name.as_str(), *index, Some(*manifest)),
        };
        (epoch, what)
    }
}

/// One more holder of a part that is known, or word of a part whose maker did not come to say it.
fn held(
    change: &mut Change,
    mut job: Job,
    epoch: Epoch,
    sealed: &SealedPart,
    (holder, context): (&str, &Context),
) {
    let Some(copied) = sealed.part.filter(|part| part.manifest.is_some()) else {
        return;
    };
    let key = PartKey {
        job: job.id,
        epoch,
        name: sealed.name.clone(),
        index: copied.index,
        manifest: copied.manifest.unwrap_or_default(),
    };
    let (mut known, mut news) = (false, false);
    for part in find(&mut job.checkpoints, &key) {
        known = true;
        if !part.holders.iter().any(|known| known == holder) {
            part.holders.push(holder.to_owned());
            news = true;
        }
    }
    if known {
        if news {
            settle(change, job);
        }
        return;
    }
    let counts = may_speak(change, &job, (epoch, copied.index), sealed, holder);
    match readable(sealed, copied.index as usize, holder).filter(|_| counts) {
        Some((part, whole)) => {
            take_part(&mut job.checkpoints, (epoch, whole), part, sealed, context);
            settle(change, job);
        }
        None => forget_one(change, Some(key), holder),
    }
}

/// Whether a copy of a part that is not known is word of that part: of the current attempt, from the very node that made it, and of nothing that was
/// written over since. Any other node could make a checkpoint up.
fn may_speak(
    change: &Change,
    job: &Job,
    (epoch, index): (Epoch, u32),
    sealed: &SealedPart,
    holder: &str,
) -> bool {
    let open = job.epoch() == Some(epoch) && job.array.is_none();
    let attempt = change.attempt(job.id, epoch);
    let places = attempt.as_ref().map_or(&[][..], |one| &one.allocations);
    let fits = sealed.parts.max(1) as usize == places.len();
    let made = places
        .get(index as usize)
        .is_some_and(|place| place.node == holder);
    let same = |one: &&Checkpoint| one.epoch == epoch && one.name == sealed.name;
    let mut older = job.checkpoints.iter().filter(same);
    let over = older.any(|one| one.parts.iter().any(|part| part.index == index));
    open && fits && made && !over
}

/// A holder has a part no more. Without any holder the checkpoint is gone, unless the object store has that part.
fn lost(
    change: &mut Change,
    mut job: Job,
    (epoch, (name, index, manifest)): (Epoch, (&str, u32, Option<ManifestId>)),
    holder: &str,
) {
    let key = PartKey {
        job: job.id,
        epoch,
        name: name.to_owned(),
        index,
        manifest: manifest.unwrap_or_default(),
    };
    let mut had = false;
    for part in find(&mut job.checkpoints, &key) {
        had |= part.holders.iter().any(|known| known == holder);
        part.holders.retain(|known| known != holder);
    }
    if !had {
        return;
    }
    without_lost(change, &mut job);
    change.replan();
    settle(change, job);
}

/// The object store has a part: of every checkpoint of that name, for the bytes are the same. What is not known any more stays there all the same.
/// Only of what a node holds does it say so: nobody else had the bytes.
fn uploaded(
    change: &mut Change,
    mut job: Job,
    (epoch, (name, index, manifest)): (Epoch, (&str, u32, Option<ManifestId>)),
    holder: &str,
) {
    // Without a place to fetch it from nobody could count on it.
    if checkpoint_rules(change.state(), &job).upload.is_none() {
        return;
    }
    let key = PartKey {
        job: job.id,
        epoch,
        name: name.to_owned(),
        index,
        manifest: manifest.unwrap_or_default(),
    };
    let mut news = false;
    for part in find(&mut job.checkpoints, &key) {
        if !part.uploaded && part.holders.iter().any(|known| known == holder) {
            part.uploaded = true;
            news = true;
        }
    }
    if news {
        settle(change, job);
    }
}

/// A node has nothing any more of what it held: another journal, so another disk.
pub(super) fn wiped(change: &mut Change, node: &str) {
    let holds = |job: &&std::sync::Arc<Job>| {
        let mut parts = job.checkpoints.iter().flat_map(|one| &one.parts);
        parts.any(|part| part.holders.iter().any(|holder| holder == node))
    };
    let jobs: Vec<JobId> = (change.state().jobs().filter(holds))
        .map(|job| job.id)
        .collect();
    for id in jobs {
        let Ok(mut job) = change.job(id) else {
            continue;
        };
        let shared = checkpoint_rules(change.state(), &job).shared;
        for part in job.checkpoints.iter_mut().flat_map(|one| &mut one.parts) {
            // A directory that every node sees was never on that disk.
            if part.manifest.is_some() || !shared {
                part.holders.retain(|holder| holder != node);
            }
        }
        without_lost(change, &mut job);
        settle(change, job);
    }
}

/// Before the next epoch starts: what is not whole by now never will be.
pub(super) fn abandon(change: &mut Change, job: &mut Job) {
    let checkpoints = std::mem::take(&mut job.checkpoints);
    let (whole, partial): (Vec<_>, Vec<_>) =
        checkpoints.into_iter().partition(Checkpoint::is_whole);
    job.checkpoints = whole;
    forget(change, job, &partial);
}

/// Drops checkpoints of which some part is nowhere any more: they were lost with their nodes.
fn without_lost(change: &mut Change, job: &mut Job) {
    let gone =
        |one: &Checkpoint| one.parts.iter().any(Part::is_lost) || one.filled().next().is_none();
    let checkpoints = std::mem::take(&mut job.checkpoints);
    let (gone, kept): (Vec<_>, Vec<_>) = checkpoints.into_iter().partition(gone);
    job.checkpoints = kept;
    forget(change, job, &gone);
}

/// Lets go what no rule keeps, tells the leader that copies may be due, and writes the job.
pub(super) fn settle(change: &mut Change, mut job: Job) {
    let drop = dropped(change.state(), &job);
    let mut index = 0_usize;
    let checkpoints = std::mem::take(&mut job.checkpoints);
    let (gone, kept): (Vec<_>, Vec<_>) = checkpoints.into_iter().partition(|_| {
        index = index.saturating_add(1);
        drop.contains(&index.saturating_sub(1))
    });
    job.checkpoints = kept;
    forget(change, &job, &gone);
    if job.state == crate::state::records::JobState::Pending {
        change.replan();
    }
    change.effect(Effect::Checkpoints { job: job.id });
    change.put_job(job);
}

/// Has every holder of these forget them. A part that one which stays has as well, written again with the same bytes, stays.
pub(super) fn forget(change: &mut Change, job: &Job, gone: &[Checkpoint]) {
    let staying = job.checkpoints.iter().flat_map(|one| one.keys(job.id));
    let staying: BTreeSet<PartKey> = staying.map(|(key, _)| key).collect();
    let mut by_node: BTreeMap<String, Vec<PartKey>> = BTreeMap::new();
    let parts = gone.iter().flat_map(|one| one.keys(job.id));
    for (key, holders) in parts.filter(|(key, _)| !staying.contains(key)) {
        for holder in holders {
            by_node.entry(holder.clone()).or_default().push(key.clone());
        }
    }
    for (node, parts) in by_node {
        change.effect(Effect::Forget { node, parts });
    }
}

fn forget_one(change: &mut Change, key: Option<PartKey>, holder: &str) {
    if let Some(key) = key {
        change.effect(Effect::Forget {
            node: holder.to_owned(),
            parts: vec![key],
        });
    }
}

/// The part that a node speaks of, if it can be one, and how many make its checkpoint whole.
fn readable(sealed: &SealedPart, position: usize, holder: &str) -> Option<(Part, u32)> {
    let whole = sealed.parts.max(1);
    if !checkpoint_name_is_legal(&sealed.name) || whole > GANG_NODES_MAX {
        return None;
    }
    let position = u32::try_from(position).ok()?;
    let index = if whole == 1 { 0 } else { position };
    if sealed.part.is_some_and(|part| part.index != index) || index >= whole {
        return None;
    }
    let manifest = sealed.part.and_then(|part| part.manifest);
    // A part with nothing in it needs nobody who holds it.
    let nothing = sealed.part.is_some() && manifest.is_none();
    let part = Part {
        index,
        manifest,
        bytes: sealed.part.map_or(0, |part| part.bytes),
        holders: if nothing {
            Vec::new()
        } else {
            vec![holder.to_owned()]
        },
        uploaded: false,
    };
    Some((part, whole))
}

/// Puts a part where it belongs: into the newest checkpoint of that name which lacks it, or has the same; else it begins another one.
fn take_part(
    list: &mut Vec<Checkpoint>,
    (epoch, whole): (Epoch, u32),
    part: Part,
    sealed: &SealedPart,
    context: &Context,
) {
    let newest = list.iter_mut().rev().find(|one| {
        let steps = one.step == sealed.step || one.step == 0 || sealed.step == 0;
        one.epoch == epoch && one.name == sealed.name && one.whole == whole && steps
    });
    if let Some(known) = newest
        && join(known, &part)
    {
        known.step = known.step.max(sealed.step);
        known.metric = known.metric.or(sealed.metric);
        known.save_ms = known.save_ms.max(sealed.save_ms);
        return;
    }
    let new = Checkpoint {
        epoch,
        name: sealed.name.clone(),
        step: sealed.step,
        sealed_ms: context.now_ms,
        whole,
        parts: vec![part],
        metric: sealed.metric,
        pinned: false,
        save_ms: sealed.save_ms,
    };
    list.insert(place(list, &new), new);
    if list.len() > 2 * CHECKPOINTS_PER_JOB_MAX {
        // Bounded whatever a node says; retention has kept it below that where anything is whole.
        list.remove(0);
    }
}

/// Adds a part, or its holder; not if it has this part with other bytes. A node that said that it wrote nothing, and then has something, was slow.
fn join(known: &mut Checkpoint, part: &Part) -> bool {
    let place = known
        .parts
        .binary_search_by_key(&part.index, |one| one.index);
    match place {
        Err(place) => known.parts.insert(place, part.clone()),
        Ok(place) => {
            let same = &mut known.parts[place];
            if same.is_nothing() && part.manifest.is_some() {
                *same = part.clone();
                return true;
            }
            if same.manifest != part.manifest {
                return false;
            }
            for holder in &part.holders {
                if !same.holders.contains(holder) {
                    same.holders.push(holder.clone());
                }
            }
        }
    }
    true
}

/// Wherever it is a part: two versions of one name may have it both.
fn find<'a>(list: &'a mut [Checkpoint], key: &PartKey) -> impl Iterator<Item = &'a mut Part> {
    let parts = list
        .iter_mut()
        .filter(move |one| one.epoch == key.epoch && one.name == key.name)
        .flat_map(|one| &mut one.parts);
    parts.filter(move |part| part.index == key.index && part.manifest == Some(key.manifest))
}

/// Where a checkpoint belongs: by epoch, then by step; one whose name has no number is as new as the moment it was recorded.
fn place(list: &[Checkpoint], new: &Checkpoint) -> usize {
    let before = |one: &Checkpoint| {
        one.epoch < new.epoch || (one.epoch == new.epoch && (new.step == 0 || one.step <= new.step))
    };
    list.iter()
        .rposition(before)
        .map_or(0, |position| position + 1)
}

#[cfg(test)]
#[path = "checkpoints_tests.rs"]
mod tests;
