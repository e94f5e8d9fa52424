//! Serves the chunks of a held checkpoint. What a program has changed in a file since it was sealed is noticed and never served as good.
//! Does NOT hash what its stamp vouches for: who receives a chunk verifies it anyway.
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::disk;
use super::error::{CheckpointError, io};
use super::hash::name_of;
use super::manifest::Manifest;
use super::stamp::Stamp;
use super::store::CheckpointStore;
use crate::BlobId;

/// Reads chunks of one checkpoint. A file of it is open at a time.
pub struct Reader {
    store: CheckpointStore,
    id: BlobId,
    manifest: Manifest,
    open: Option<(usize, File, Stamp)>,
}

impl CheckpointStore {
    /// Begins to read a held checkpoint. What is removed meanwhile may still be read or give an error.
    ///
    /// # Errors
    /// When it is not held.
    pub fn reader(&self, id: &BlobId) -> Result<Reader, CheckpointError> {
        Ok(Reader {
            store: self.clone(),
            id: *id,
            manifest: self.manifest(id)?,
            open: None,
        })
    }
}

impl Reader {
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Puts the bytes of chunk `index` into `bytes`, in place of what is there.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when they are not what was sealed; the checkpoint is then not held any more.
    pub fn read(&mut self, index: u32, bytes: &mut Vec<u8>) -> Result<(), CheckpointError> {
        let Some((number, inside)) = self.manifest.chunk(index) else {
            return Err(CheckpointError::Format("it has no such chunk"));
        };
        let content = &self.manifest.contents()[number];
        let (at, length) = content.span(inside);
        bytes.resize(length, 0);
        let path = self.store.inner.objects.path(&content.id);
        let (file, stamp) = match self.open.take() {
            Some((open, file, stamp)) if open == number => (file, stamp),
            _ => {
                let stamp = self.store.ensure(&self.id, &self.manifest, number)?;
                (self.store.inner.objects.open_file(&content.id)?, stamp)
            }
        };
        let read = file.read_exact_at(bytes, at);
        let now = Stamp::of(&file).map_err(io("look at", &path))?;
        if now != stamp || read.is_err() {
            // It changed since it was opened: perhaps only names of it went, perhaps this chunk.
            if read.is_err() || name_of(bytes) != content.chunks[inside] {
                self.store.ensure_bytes(&self.id, &self.manifest, number)?;
                read.map_err(io("read", &path))?;
                return Err(CheckpointError::Changed { path });
            }
        }
        // It goes to another node once: what trainers read is worth more room in memory.
        disk::forget_part(&file, at, length);
        self.open = Some((number, file, stamp));
        Ok(())
    }
}
