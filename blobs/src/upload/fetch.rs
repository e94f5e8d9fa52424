//! Downloads a checkpoint into this node's store. Each chunk is verified before it is written; what came goes on after a kill.
//! Memory: two chunks a request, and the manifest. Does NOT lay anything out: that is `restore`, when it is held.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::blocking;
use super::each::each;
use super::error::UploadError;
use super::layout::{self, Form};
use super::packing;
use super::remote::Remote;
use crate::BlobId;
use crate::checkpoint::{
    CHUNK_BYTES, CheckpointError, CheckpointStore, MANIFEST_BYTES_MAX, Receive,
};

/// What a compressed object may have more than what it unpacks to, bytes.
const SLACK: u64 = 64 << 10;
/// A download that was dropped just now may still write a chunk; it is waited for so often, for so long.
const BUSY_TRIES: u32 = 40;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A checkpoint that this node holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downloaded {
    /// Bytes of chunks that came, compressed.
    pub received_bytes: u64,
    /// Chunks that came. What was here already did not.
    pub chunks: u32,
    /// From the call to when it was held.
    pub wall: Duration,
}

/// One download.
struct Fetching<'a> {
    remote: &'a Remote,
    /// The chunk that came last was plain: ask for that first.
    raw: AtomicBool,
    received_bytes: AtomicU64,
}

impl Remote {
    /// Fetches a checkpoint and returns when it is held by `store`. What is here already does not come.
    ///
    /// # Errors
    /// [`UploadError::Missing`] or [`UploadError::Damaged`] with the object; [`UploadError::Store`] when there is no room. What came stays, and the
    /// same call goes on.
    pub async fn download(
        &self,
        store: &CheckpointStore,
        id: BlobId,
    ) -> Result<Downloaded, UploadError> {
        let begun = Instant::now();
        let fetching = Fetching {
            remote: self,
            raw: AtomicBool::new(false),
            received_bytes: AtomicU64::new(0),
        };
        let mut chunks = 0;
        if !store.is_held(&id) {
            let manifest = self.manifest(&id).await?;
            if let Some(receive) = begin(store, manifest.into()).await? {
                let want = receive.want();
                chunks = want.count();
                let receive = Arc::new(receive);
                each(want.iter(), self.options.requests, |index| {
                    fetching.chunk(receive.clone(), index)
                })
                .await?;
                blocking(move || {
                    let whole = Arc::into_inner(receive);
                    let whole = whole
                        .ok_or_else(|| UploadError::Local("a request has not ended".to_owned()))?;
                    Ok(whole.finish()?)
                })
                .await?;
            }
        }
        Ok(Downloaded {
            received_bytes: fetching.received_bytes.into_inner(),
            chunks,
            wall: begun.elapsed(),
        })
    }

    /// The bytes of a manifest, verified.
    pub(super) async fn manifest(&self, id: &BlobId) -> Result<Vec<u8>, UploadError> {
        let object = layout::manifest(id);
        let max = MANIFEST_BYTES_MAX as u64 + SLACK;
        let found = self.get(&object, max).await?;
        let stored = found.ok_or_else(|| self.missing(&object))?;
        let unpack = move || Ok(packing::unpack(&stored, MANIFEST_BYTES_MAX));
        let bytes = blocking(unpack).await?;
        let bytes = bytes.map_err(|error| self.damaged(&object, error))?;
        if BlobId::of(&bytes) == *id {
            Ok(bytes)
        } else {
            Err(self.damaged(&object, "its bytes have another hash"))
        }
    }
}

impl Fetching<'_> {
    async fn chunk(&self, receive: Arc<Receive>, index: u32) -> Result<(), UploadError> {
        let place = receive.manifest().chunk(index);
        let (number, inside) = place.ok_or(CheckpointError::Format("it has no such chunk"))?;
        let content = &receive.manifest().contents()[number];
        let (chunk, length) = (content.chunks[inside], content.span(inside).1);
        let first = if self.raw.load(Ordering::Relaxed) {
            Form::Raw
        } else {
            Form::Zstd
        };
        let mut damaged = None;
        for form in [first, first.other()] {
            let object = layout::chunk(&chunk, form);
            match self.object(&object, form, &receive, index, length).await {
                Ok(true) => {
                    self.raw.store(form == Form::Raw, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(false) => {}
                // The other one may be right.
                Err(error @ UploadError::Damaged { .. }) => damaged = Some(error),
                Err(error) => return Err(error),
            }
        }
        let missing = || self.remote.missing(&layout::chunk(&chunk, first));
        Err(damaged.unwrap_or_else(missing))
    }

    /// Gets one object and writes the chunk that it has to be. False if it is not there.
    async fn object(
        &self,
        object: &str,
        form: Form,
        receive: &Arc<Receive>,
        index: u32,
        length: usize,
    ) -> Result<bool, UploadError> {
        let Some(stored) = self.remote.get(object, CHUNK_BYTES + SLACK).await? else {
            return Ok(false);
        };
        let bytes = stored.len() as u64;
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        let receive = receive.clone();
        let written = blocking(move || {
            let unpacked = packing::unpack_chunk(form, &stored, length);
            Ok(unpacked.map(|bytes| receive.write(index, &bytes)))
        });
        match written.await? {
            Ok(Ok(())) => Ok(true),
            Ok(Err(CheckpointError::WrongChunk { .. })) => {
                Err(self.remote.damaged(object, "its bytes have another hash"))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(self.remote.damaged(object, error)),
        }
    }
}

async fn begin(
    store: &CheckpointStore,
    manifest: Arc<[u8]>,
) -> Result<Option<Receive>, UploadError> {
    let mut tries = 0;
    loop {
        let (store, manifest) = (store.clone(), manifest.clone());
        match blocking(move || Ok(store.receive(&manifest, &[]))).await? {
            Err(CheckpointError::Busy { .. }) if tries < BUSY_TRIES => {}
            other => return Ok(other?),
        }
        tries += 1;
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}
