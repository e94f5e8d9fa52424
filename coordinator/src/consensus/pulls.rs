//! Work that the driver must not wait for: writing a snapshot, and pulling one from the leader.
//!
//! Neither touches the log or the core; both report back through the driver's internal channel.

use super::driver::Internal;
use super::snapshots::SnapshotStore;
use super::turn::{SnapshotMeta, SnapshotOffer};
use super::{Transport, Unsaved};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;

/// A snapshot to be encoded and written. `meta.digest` is not known yet.
pub(super) struct SnapshotJob {
    pub(super) meta: SnapshotMeta,
    pub(super) encode: Box<dyn FnOnce() -> Result<Vec<u8>, Unsaved> + Send>,
}

/// The snapshot thread, for which nobody waits: ends when nobody can send jobs any more.
pub(super) fn write_snapshots(
    jobs: &Receiver<SnapshotJob>,
    store: &SnapshotStore,
    internal: &SyncSender<Internal>,
) -> Result<(), String> {
    crate::background::give_way();
    for job in jobs {
        let payload = match (job.encode)() {
            Ok(payload) => payload,
            Err(error) if error.full => {
                tracing::warn!(reason = %error.reason, "there is no room for what a snapshot refers to; the log is kept instead");
                continue;
            }
            Err(error) => return Err(error.reason),
        };
        let meta = match store.save(job.meta, &payload) {
            Ok(meta) => meta,
            // The two older ones and the log still hold everything; the next one is tried when it is due.
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "there is no room for a snapshot; the log is kept instead");
                continue;
            }
            // A disk that fails otherwise cannot be trusted with the log either.
            Err(error) => return Err(error.to_string()),
        };
        tracing::debug!(
            index = meta.index,
            bytes = payload.len(),
            "snapshot written"
        );
        if internal.send(Internal::SnapshotTaken(meta)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Pulls an offered snapshot on a thread of its own. False if there is no thread to be had.
pub(super) fn pull(
    offer: SnapshotOffer,
    transport: Arc<dyn Transport>,
    store: Arc<SnapshotStore>,
    internal: SyncSender<Internal>,
) -> bool {
    let work = move || {
        let meta = &offer.meta;
        let stored = match transport.pull_snapshot(offer.from, meta.index, meta.digest) {
            Ok(file) => store
                .receive(meta, &file)
                .map_err(|error| error.to_string()),
            Err(reason) => Err(reason),
        };
        let message = match stored {
            Ok(()) => Some(offer.message),
            Err(reason) => {
                tracing::warn!(from = offer.from, index = meta.index, %reason, "pulling a snapshot failed; the leader offers it again");
                None
            }
        };
        let done = Internal::PullEnded {
            meta: offer.meta,
            message,
        };
        if internal.send(done).is_err() {
            tracing::debug!("a pulled snapshot came after the end of the driver");
        }
    };
    thread::Builder::new()
        .name("snapshot-pull".into())
        .spawn(work)
        .is_ok()
}
