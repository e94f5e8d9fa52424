//! Uploads a checkpoint that this node holds: its manifest, the chunks that are not there yet, and last of all the word that it is there.
//! Memory: two chunks a request, 40 bytes a chunk, the manifest. Does NOT choose what is uploaded.
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlctl_proto::ids::clip;

use super::each::each;
use super::error::UploadError;
use super::layout::{self, Form};
use super::packing;
use super::part::{Entry, Part};
use super::remote::Remote;
use super::{blocking, collect};
use crate::BlobId;
use crate::checkpoint::{CheckpointStore, HOLE, Manifest, Reader};
use crate::transfer::Pacer;

/// A manifest whose upload goes on is written again so often: it stays far younger than what is collected.
const REFRESH: Duration = Duration::from_secs(3_600);

/// A checkpoint that is in the remote store now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploaded {
    /// Bytes of chunks that were sent, compressed.
    pub sent_bytes: u64,
    /// Chunks that were sent.
    pub sent_chunks: u32,
    /// Chunks that were there already. Equal chunks count once, zeros not at all.
    pub skipped_chunks: u32,
    /// From the call to when it was there.
    pub wall: Duration,
}

/// One upload.
struct Sending<'a> {
    remote: &'a Remote,
    store: &'a CheckpointStore,
    pacer: &'a Pacer,
    id: BlobId,
    /// The disk is read by one at a time, mostly in order.
    reader: Arc<Mutex<Reader>>,
    /// The chunk that was found last was plain: look for that first.
    raw: AtomicBool,
    sent_bytes: AtomicU64,
    sent_chunks: AtomicU32,
    skipped_chunks: AtomicU32,
}

/// A chunk to send.
#[derive(Clone, Copy)]
struct Chunk {
    id: BlobId,
    index: u32,
    length: usize,
}

impl Remote {
    /// Uploads the checkpoint `id` of `store` as the part that `entry` says, and returns when everything of it is there. What is there already
    /// is not sent. Dropped or failed, nothing of it is listed, and the same call goes on.
    ///
    /// # Errors
    /// [`UploadError::Collecting`] while somebody cleans up; [`UploadError::Store`] when it is not held or damaged; what the remote store says.
    pub async fn upload(
        &self,
        store: &CheckpointStore,
        id: BlobId,
        entry: &Entry,
        pacer: &Pacer,
    ) -> Result<Uploaded, UploadError> {
        let begun = Instant::now();
        check(entry)?;
        let from = store.clone();
        let (reader, manifest) = blocking(move || {
            let packed = packing::pack(&from.manifest_bytes(&id)?);
            let packed = packed.map_err(|error| UploadError::Local(error.to_string()))?;
            Ok((from.reader(&id)?, Bytes::from(packed)))
        })
        .await?;
        let (bytes, chunks) = (reader.manifest().bytes(), distinct(reader.manifest()));
        // First of all: whoever collects from now on knows what it names.
        self.put_manifest(&id, &manifest, pacer).await?;
        collect::refuse_while_marked(self, &layout::manifest(&id)).await?;
        let sending = Sending {
            remote: self,
            store,
            pacer,
            id,
            reader: Arc::new(Mutex::new(reader)),
            raw: AtomicBool::new(false),
            sent_bytes: AtomicU64::new(0),
            sent_chunks: AtomicU32::new(0),
            skipped_chunks: AtomicU32::new(0),
        };
        tokio::select! {
            all = each(chunks, self.options.requests, |chunk| sending.chunk(chunk)) => all?,
            failed = self.keep_young(&id, &manifest, pacer) => return Err(failed),
        }
        self.announce(entry, Some(id), bytes).await?;
        Ok(Uploaded {
            sent_bytes: sending.sent_bytes.into_inner(),
            sent_chunks: sending.sent_chunks.into_inner(),
            skipped_chunks: sending.skipped_chunks.into_inner(),
            wall: begun.elapsed(),
        })
    }

    /// Says that a node wrote nothing for a checkpoint, so that the others' parts make it whole.
    ///
    /// # Errors
    /// When the entry is none, or the remote store fails.
    pub async fn upload_nothing(&self, entry: &Entry) -> Result<(), UploadError> {
        check(entry)?;
        self.announce(entry, None, 0).await
    }

    async fn announce(
        &self,
        entry: &Entry,
        manifest: Option<BlobId>,
        bytes: u64,
    ) -> Result<(), UploadError> {
        let part = Part {
            entry: entry.clone(),
            manifest,
            bytes,
        };
        self.put(&layout::part(entry), part.encode().into()).await
    }

    async fn put_manifest(
        &self,
        id: &BlobId,
        packed: &Bytes,
        pacer: &Pacer,
    ) -> Result<(), UploadError> {
        pacer.take(packed.len()).await;
        self.put(&layout::manifest(id), packed.clone()).await
    }

    /// Ends with an error only.
    async fn keep_young(&self, id: &BlobId, packed: &Bytes, pacer: &Pacer) -> UploadError {
        loop {
            tokio::time::sleep(REFRESH).await;
            if let Err(error) = self.put_manifest(id, packed, pacer).await {
                return error;
            }
        }
    }
}

impl Sending<'_> {
    async fn chunk(&self, chunk: Chunk) -> Result<(), UploadError> {
        if self.is_there(chunk).await? {
            self.skipped_chunks.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let (form, packed) = self.packed(chunk).await?;
        let length = packed.len();
        self.pacer.take(length).await;
        self.remote
            .put(&layout::chunk(&chunk.id, form), packed.into())
            .await?;
        self.sent_bytes.fetch_add(length as u64, Ordering::Relaxed);
        self.sent_chunks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn is_there(&self, chunk: Chunk) -> Result<bool, UploadError> {
        let first = if self.raw.load(Ordering::Relaxed) {
            Form::Raw
        } else {
            Form::Zstd
        };
        for form in [first, first.other()] {
            let found = self.remote.head(&layout::chunk(&chunk.id, form)).await?;
            if found.is_some_and(|meta| packing::is_plausible(form, meta.bytes, chunk.length)) {
                self.raw.store(form == Form::Raw, Ordering::Relaxed);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Read, verified and compressed. Nobody verifies it at the other end.
    async fn packed(&self, chunk: Chunk) -> Result<(Form, Vec<u8>), UploadError> {
        let (reader, store, id) = (self.reader.clone(), self.store.clone(), self.id);
        blocking(move || {
            let mut bytes = Vec::new();
            {
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                reader.read(chunk.index, &mut bytes)?;
            }
            if BlobId::of(&bytes) != chunk.id {
                // Its stamp was right and its bytes are not: the disk. If it is so still, the store says where, and lets go of it.
                store.verify(&id)?;
                let index = chunk.index;
                return Err(UploadError::Changed { id, index });
            }
            packing::pack_chunk(bytes).map_err(|error| UploadError::Local(error.to_string()))
        })
        .await
    }
}

fn check(entry: &Entry) -> Result<(), UploadError> {
    entry.check().map_err(|bad| UploadError::Entry {
        name: clip(&entry.name),
        fault: bad.to_string(),
    })
}

/// Every chunk with bytes, once, in order.
fn distinct(manifest: &Manifest) -> Vec<Chunk> {
    let all = manifest.contents().iter().flat_map(|content| {
        let chunks = content.chunks.iter().enumerate();
        chunks
            .filter(|(_, id)| **id != HOLE)
            .map(|(inside, id)| Chunk {
                id: *id,
                index: content.first + inside as u32,
                length: content.span(inside).1,
            })
    });
    let mut chunks: Vec<Chunk> = all.collect();
    chunks.sort_by_key(|chunk| (chunk.id, chunk.index));
    chunks.dedup_by_key(|chunk| chunk.id);
    chunks.sort_by_key(|chunk| chunk.index);
    chunks
}
