//! Parts of checkpoints on their way from nodes to a person: fetched whole into a store of this member, read out, and removed again.
//! Does NOT know jobs, nor who may have what: `api/checkpoint_parts` does. Nothing here outlives the process.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointError, CheckpointStore, Options as StoreOptions};
use mlctl_blobs::transfer::{
    Authority, Node, Options, Pacer, Peer, Pull, Rate, Tls, TransferError,
};
use tokio::sync::OwnedMutexGuard;

/// Threads that hash what came.
const THREADS: usize = 2;

/// The store, and this member's end of transfers. Opened when it is first needed.
pub struct Downloads {
    dir: PathBuf,
    tls: Tls,
    opened: Mutex<Option<(CheckpointStore, Node)>>,
    /// One at a time of each part: whoever wants it too waits.
    turns: Mutex<BTreeMap<BlobId, Weak<tokio::sync::Mutex<()>>>>,
}

/// Why a part did not come.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// From no holder.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// This member's own store.
    #[error(transparent)]
    Store(#[from] CheckpointError),
}

impl DownloadError {
    /// The other node answered, and the answer is no.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Transfer(TransferError::Refused { .. }))
    }
}

/// Nobody fetches from a coordinator, and nobody puts anything there.
struct Nobody;

impl Authority for Nobody {
    fn may_send(&self, _: &str, _: &BlobId) -> bool {
        false
    }

    fn may_read(&self, _: &str, _: &BlobId) -> bool {
        false
    }
}

/// A part that is here until this is dropped.
pub struct Fetched {
    store: CheckpointStore,
    id: BlobId,
    _turn: OwnedMutexGuard<()>,
}

impl Downloads {
    /// Downloads below `dir`, with this member's identity. What an earlier process left there goes when the first part comes.
    pub fn new(dir: PathBuf, tls: Tls) -> Self {
        Self {
            dir,
            tls,
            opened: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// Fetches a part from its holders. Waits while somebody else has the same one.
    ///
    /// # Errors
    /// [`DownloadError::Transfer`] when no holder gave it; then nothing of it stays.
    pub async fn fetch(&self, id: BlobId, holders: &[Peer]) -> Result<Fetched, DownloadError> {
        let turn = self.turn(id).lock_owned().await;
        let (store, node) = self.open()?;
        // From here on it is removed whatever happens.
        let fetched = Fetched {
            store,
            id,
            _turn: turn,
        };
        let pull = Pull {
            id,
            near: Vec::new(),
            urgent: false,
        };
        node.pull(holders, &pull).await?;
        Ok(fetched)
    }

    /// Has a holder read a part again from its disk.
    ///
    /// # Errors
    /// [`DownloadError::Transfer`] when it cannot be asked, does not hold it, or holds it no more because it is damaged.
    pub async fn verify(&self, id: BlobId, holder: &Peer) -> Result<(), DownloadError> {
        let (_, node) = self.open()?;
        Ok(node.verify(holder, id).await?)
    }

    fn turn(&self, id: BlobId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&id).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(id, Arc::downgrade(&turn));
        turn
    }

    fn open(&self) -> Result<(CheckpointStore, Node), CheckpointError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        // How much may come is judged by what the disk has free, part by part.
        let options = StoreOptions {
            limit_bytes: u64::MAX,
            threads: THREADS,
        };
        let store = CheckpointStore::open(&self.dir, options)?;
        for held in store.held() {
            store.remove(&held.id)?;
        }
        for id in store.incoming() {
            store.abandon(&id)?;
        }
        let pacer = Pacer::new(Rate::Unlimited);
        let (tls, nobody) = (self.tls.clone(), Arc::new(Nobody));
        let node = Node::new(store.clone(), tls, nobody, pacer, Options::default());
        *opened = Some((store.clone(), node.clone()));
        Ok((store, node))
    }
}

impl Fetched {
    /// Where it lies.
    pub fn store(&self) -> &CheckpointStore {
        &self.store
    }

    /// Which part it is.
    pub fn id(&self) -> BlobId {
        self.id
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        let gone = match self.store.is_held(&self.id) {
            true => self.store.remove(&self.id),
            false => self.store.abandon(&self.id),
        };
        if let Err(error) = gone
            && !matches!(error, CheckpointError::NotHeld { .. })
        {
            tracing::warn!(id = %self.id, %error, "a part that was handed out stays until the next start");
        }
    }
}
