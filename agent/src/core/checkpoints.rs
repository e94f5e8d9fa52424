//! What the core makes of checkpoints and of copies of their parts: which are told, what may be forgotten, when all are listed.
//! Does NOT judge whether one is complete and touches no copy.

use std::collections::BTreeMap;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{CheckpointSealed, CopyHeld, CopyLost, CopyUploaded, agent_event};

use super::Core;
use super::parts::{CheckpointFound, PartKey};
use super::types::{Action, BoottimeMs, Phase, Status};

type Key = (JobId, Epoch);

/// How an attempt remembers that it told of a checkpoint: its name, and what this node's part was if it told of one. No name holds the
/// divider.
pub(super) fn told(sealed: &CheckpointSealed) -> String {
    let mut told = sealed.name.clone();
    if let Some(part) = &sealed.part {
        told.push(DIVIDER);
        told.extend(part.manifest.iter().flat_map(|byte| {
            let digit = |four: u8| char::from_digit(u32::from(four), 16).unwrap_or('0');
            [digit(byte >> 4), digit(byte & 15)]
        }));
    }
    told
}

const DIVIDER: char = '\0';

/// The name of a checkpoint that was told of.
pub(super) fn name_told(told: &str) -> &str {
    told.split(DIVIDER).next().unwrap_or_default()
}

impl Core {
    /// A checkpoint is news until it was told with these bytes, and again when somebody asks. What was sealed after the end of its attempt counts
    /// too, as long as no later attempt is known here.
    pub(super) fn on_checkpoint(&mut self, found: CheckpointFound) {
        let key = (found.job, found.epoch);
        if self.outbox.is_full() {
            return;
        }
        // An older attempt may have sealed while this one already waited here, and not be acknowledged yet.
        let mark = self.marks.get(&found.job).copied();
        let floor = mark.map_or(0, |mark| mark.step_floor);
        let floor = floor.max(self.older_step(key));
        let old = found.by_rescan && (found.step < floor || found.step == floor && floor > 0);
        let newest = mark.is_some_and(|mark| mark.epoch == found.epoch);
        let sealed = found.sealed();
        let said = told(&sealed);
        let coming = self.is_on_its_way(key, &sealed);
        match self.attempts.get_mut(&key) {
            Some(attempt) if attempt.ended.is_none() || newest => {
                // Nothing but a directory is no news of one that was told of.
                let known = match found.part {
                    None => attempt
                        .sealed
                        .iter()
                        .any(|one| name_told(one) == found.name),
                    // Once the cluster has it, it may ask again: of a name that is written over and over a node's part may be the same each
                    // time, and only its word for this one makes it whole. What is told twice counts once.
                    Some(_) => coming || found.by_rescan && attempt.sealed.contains(&said),
                };
                if old || known {
                    return;
                }
                attempt.sealed.insert(said);
                attempt.step_max = attempt.step_max.max(found.step);
            }
            None if newest && !old && !coming => {
                if let Some(mark) = self.marks.get_mut(&found.job) {
                    mark.step_floor = mark.step_floor.max(found.step);
                }
            }
            _ => return,
        }
        self.emit(key, agent_event::What::CheckpointSealed(sealed));
    }

    /// The same is among what is not acknowledged.
    fn is_on_its_way(&self, key: Key, sealed: &CheckpointSealed) -> bool {
        let mut events = self.outbox.unacknowledged();
        events.any(|event| {
            let same = matches!(&event.what, Some(agent_event::What::CheckpointSealed(one))
                if one.name == sealed.name && one.part == sealed.part);
            same && event.job.try_into() == Ok(key.0) && event.epoch.try_into() == Ok(key.1)
        })
    }

    /// A directory of the attempt begins to be sealed, or that is over. The cluster hears of it now: it may be about to start the job again.
    pub(super) fn on_sealing(&mut self, now: BoottimeMs, key: Key, begun: bool) {
        let count = self.sealing.get(&key).copied().unwrap_or(0);
        let next = if begun {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
        if next == 0 {
            self.sealing.remove(&key);
        } else {
            self.sealing.insert(key, next);
        }
        if (count == 0) != (next == 0) && self.link.up {
            self.link.next_heartbeat = now;
        }
    }

    /// This node has a part that another one made, or has found one again.
    pub(super) fn on_copy_held(&mut self, key: Key, sealed: CheckpointSealed) {
        let sealed = Some(sealed);
        self.emit(key, agent_event::What::CopyHeld(CopyHeld { sealed }));
    }

    /// A part that was here is not, or is damaged.
    pub(super) fn on_copy_lost(&mut self, lost: PartKey) {
        let event = CopyLost {
            name: lost.name,
            index: lost.index,
            manifest: lost.manifest.to_vec(),
        };
        let key = (lost.job, lost.epoch);
        self.emit(key, agent_event::What::CopyLost(event));
    }

    /// A part is in the object store, whatever becomes of this node.
    pub(super) fn on_copy_uploaded(&mut self, uploaded: PartKey) {
        let event = CopyUploaded {
            name: uploaded.name,
            index: uploaded.index,
            manifest: uploaded.manifest.to_vec(),
        };
        let key = (uploaded.job, uploaded.epoch);
        self.emit(key, agent_event::What::CopyUploaded(event));
    }

    /// The cluster does not know these parts. Those that it was told of and has not acknowledged it will know in a moment.
    pub(super) fn on_forget(&mut self, mut keys: Vec<PartKey>) {
        let events = self.outbox.unacknowledged();
        let coming: Vec<PartKey> = events.filter_map(PartKey::announced).collect();
        keys.retain(|key| !coming.contains(key));
        if !keys.is_empty() {
            self.actions.push(Action::Forget(keys));
        }
    }

    /// Lists everything that is held, once on each connection, when the leader knows what was said before.
    pub(super) fn send_inventory(&mut self) {
        if self.link.up && !self.link.inventoried && !self.outbox.announces() {
            self.link.inventoried = true;
            self.actions.push(Action::SendInventory);
        }
    }

    /// Attempts that are gone here and of which something is still being sealed, or is not acknowledged.
    pub(super) fn gone_and_moving(&self, moving: &BTreeMap<Key, u64>) -> Vec<Status> {
        let mut keys = self.outbox.sealed_by();
        keys.extend(self.sealing.keys());
        let gone = keys
            .into_iter()
            .filter(|key| !self.attempts.contains_key(key));
        let status = |key: Key| Status {
            job: key.0,
            epoch: key.1,
            phase: Phase::Ended,
            master_port: 0,
            moving_up_to: self.moving_up_to(key, moving),
            probe: None,
        };
        gone.map(status).collect()
    }

    /// See [`Status`].
    pub(super) fn moving_up_to(&self, key: Key, moving: &BTreeMap<Key, u64>) -> u64 {
        if self.sealing.contains_key(&key) {
            u64::MAX
        } else {
            moving.get(&key).copied().unwrap_or(0)
        }
    }
}
