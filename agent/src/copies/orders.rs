//! What the leader's state says of the copies here: forget some, say of others how it is, list them all.
//! Does NOT judge: what was told and not acknowledged the core has left out.

use mlctl_blobs::checkpoint::CheckpointError;
use mlctl_proto::agent;
use mlctl_proto::persist::{CheckpointPart, CheckpointSealed};
use tracing::{info, warn};

use super::ledger::{Entry, blob};
use super::{Shared, Vault, lock};
use crate::checkpoints::rules::step_of;
use crate::core::{Event, PartKey};
use crate::link::copies::part_to_wire;

/// Parts in one message.
const LISTED: usize = 2_000;

impl Vault {
    /// Lets go of these parts, and of what nothing else needs.
    pub(crate) async fn forget(&self, keys: Vec<PartKey>) {
        let shared = self.shared().clone();
        if let Err(error) = self.quietly(move || forget(&shared, keys)).await {
            warn!(%error, "copies that are not needed any more were not removed");
        }
        self.inner.measure();
    }

    /// Says of each part whether it is here.
    pub(crate) async fn announce(&self, keys: Vec<PartKey>) {
        for key in keys {
            let shared = self.shared();
            let id = blob(&key.manifest);
            if !shared.store.is_held(&id) {
                self.lose(key).await;
                continue;
            }
            let known = shared.ledger.get(&key);
            let entry = known.clone().unwrap_or_else(|| self.entry_of(&key));
            let (job, epoch, sealed) = (key.job, key.epoch, entry.sealed.clone());
            if known.is_some() {
                shared.tell(Event::CopyHeld { job, epoch, sealed }).await;
            } else if let Err(error) = self.hold(entry).await {
                warn!(%error, "a copy cannot be written down");
            }
        }
    }

    /// Of a part that is here and of which the ledger lost what it was: the cluster knows the rest.
    fn entry_of(&self, key: &PartKey) -> Entry {
        let id = blob(&key.manifest);
        let held = self.shared().store.held();
        let bytes = held.iter().find(|one| one.id == id);
        let part = CheckpointPart {
            index: key.index,
            manifest: key.manifest.to_vec(),
            bytes: bytes.map_or(0, |one| one.bytes),
        };
        let sealed = CheckpointSealed {
            name: key.name.clone(),
            step: step_of(&key.name),
            part: Some(part),
            ..CheckpointSealed::default()
        };
        Entry::new(key.clone(), sealed)
    }

    /// All parts that are held and that the core was told of: one message at least.
    pub(crate) fn inventory(&self) -> Vec<agent::Inventory> {
        let shared = self.shared();
        let unsaid = lock(&shared.unsaid).clone();
        let entries = shared.ledger.entries().into_iter().map(|entry| entry.key);
        let told = entries.filter(|key| !unsaid.contains(key));
        let held = told.filter(|key| shared.store.is_held(&blob(&key.manifest)));
        let parts: Vec<_> = held.map(|key| part_to_wire(&key)).collect();
        let pieces = parts.chunks(LISTED).map(<[agent::PartKey]>::to_vec);
        let mut pieces: Vec<Vec<agent::PartKey>> = pieces.collect();
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        let last = pieces.len() - 1;
        let message = |(number, parts)| agent::Inventory {
            parts,
            more: number < last,
        };
        pieces.into_iter().enumerate().map(message).collect()
    }
}

/// On a thread that may block.
fn forget(shared: &Shared, keys: Vec<PartKey>) {
    for key in keys {
        let _keeping = lock(&shared.keeping);
        if lock(&shared.unsaid).contains(&key) {
            // It is being told of just now.
            continue;
        }
        match shared.ledger.remove(&key) {
            Ok(Some(_)) => {
                info!(job = %key.job, epoch = %key.epoch, key.name, key.index, "a copy of a checkpoint is not needed any more");
            }
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "an entry of the ledger of copies cannot be removed");
                continue;
            }
        }
        if !shared.ledger.naming(&key.manifest).is_empty() {
            continue;
        }
        let id = blob(&key.manifest);
        let removed = match shared.store.remove(&id) {
            Err(CheckpointError::NotHeld { .. }) => shared.store.abandon(&id),
            other => other,
        };
        match removed {
            // It is not here, or it comes again just now.
            Ok(()) | Err(CheckpointError::NotHeld { .. } | CheckpointError::Busy { .. }) => {}
            Err(error) => warn!(%id, %error, "a copy that is not needed any more was not removed"),
        }
    }
    if let Err(error) = shared.store.collect() {
        warn!(%error, "what no copy needs was not removed");
    }
}
