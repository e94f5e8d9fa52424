//! Who comes in: asks the leader what another node may do, and writes down what came from it.
//! Does NOT wait for the leader: who is not known yet is refused and comes again.

use std::sync::Arc;

use mlctl_blobs::BlobId;
use mlctl_blobs::transfer::Authority;
use mlctl_proto::agent::{Ask, agent_message::What};
use mlctl_proto::persist::CheckpointSealed;
use mlctl_runtime::tls::COORDINATOR;
use tracing::{debug, warn};

use super::ledger::Entry;
use super::permits::{Verdict, Wish};
use super::{Shared, Vault, lock};
use crate::core::{Event, PartKey};
use crate::driver::Input;
use crate::failpoint;
use crate::link::copies::Answer;

/// What the transfers ask.
pub(super) struct Door(pub(super) Arc<Shared>);

impl Door {
    fn may(&self, node: &str, id: &BlobId, write: bool) -> bool {
        let shared = &self.0;
        let manifest = *id.as_bytes();
        let wish = Wish {
            node: node.to_owned(),
            manifest,
            write,
        };
        match lock(&shared.permits).may(shared.now_ms(), wish) {
            Verdict::Allowed => true,
            Verdict::Refused => false,
            Verdict::Ask(number) => {
                debug!(node, %id, write, "asking the leader what this node may do");
                let ask = What::Ask(Ask {
                    id: number,
                    node: node.to_owned(),
                    manifest: manifest.to_vec(),
                    write,
                });
                // Where there is no room now it is asked again in a moment.
                let _ = shared.inputs.try_send(Input::Copies(ask));
                false
            }
        }
    }
}

impl Authority for Door {
    fn may_send(&self, node: &str, id: &BlobId) -> bool {
        self.may(node, id, true)
    }

    fn may_read(&self, node: &str, id: &BlobId) -> bool {
        // A coordinator reads for a person whom it has asked who they are.
        node.starts_with(COORDINATOR) || self.may(node, id, false)
    }

    fn received(&self, node: &str, id: &BlobId) -> Result<(), String> {
        let shared = &self.0;
        let brought = lock(&shared.permits).brings(node, id.as_bytes());
        if brought.is_empty() {
            return Err(format!("nobody knows any more what checkpoint {id} is"));
        }
        failpoint::hit("copy.received");
        for (key, sealed) in brought {
            self.note(id, key, sealed)?;
        }
        Ok(())
    }
}

impl Door {
    /// Writes down that this part is here, and says so. Blocks.
    fn note(&self, id: &BlobId, key: PartKey, sealed: CheckpointSealed) -> Result<(), String> {
        let shared = &self.0;
        {
            let _keeping = lock(&shared.keeping);
            if !shared.store.is_held(id) {
                // The last that named these bytes went while they were offered again.
                return Err(format!("checkpoint {id} was let go just now"));
            }
            if shared.ledger.get(&key).is_none() {
                lock(&shared.unsaid).insert(key.clone());
                let entry = Entry::new(key.clone(), sealed.clone());
                shared.ledger.put(entry).map_err(|error| {
                    warn!(%error, "a copy that came cannot be written down");
                    format!("the copy cannot be written down: {error}")
                })?;
            }
        }
        // One that was known is said again: who sends it thinks that it is not.
        let (job, epoch) = (key.job, key.epoch);
        let held = Event::CopyHeld { job, epoch, sealed };
        // Without a driver the agent is ending; the next one lists it.
        let _ = shared.inputs.blocking_send(Input::Core(held));
        lock(&shared.unsaid).remove(&key);
        Ok(())
    }
}

impl Vault {
    /// The leader answered what another node may do.
    pub(crate) fn answered(&self, answer: Answer) {
        let shared = self.shared();
        let (id, allowed) = (answer.id, answer.allowed);
        lock(&shared.permits).answered(shared.now_ms(), id, allowed, answer.brought);
    }
}
