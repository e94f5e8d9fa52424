//! Chunks of a receive that are on this node already: in its own files, written before a crash and not noted; in a content that was found
//! damaged elsewhere; in a neighbouring checkpoint. Each is hashed before it counts. Does NOT ask other nodes.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::disk::{self, next_data};
use super::error::{CheckpointError, io};
use super::hash::name_of;
use super::limits::CHUNK_BYTES;
use super::manifest::{Content, HOLE, Manifest};
use super::receive::Receive;
use super::store::read_manifest;
use crate::BlobId;

impl Receive {
    /// Takes whatever is found.
    pub(super) fn fill(&self, near: &[BlobId]) -> Result<(), CheckpointError> {
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        for (number, content) in self.manifest.contents().iter().enumerate() {
            for path in [
                self.content_path(number),
                self.store.damaged_path(&content.id),
            ] {
                self.fill_from(&path, content, &mut buffer)?;
            }
        }
        self.fill_from_kept(&self.manifest, &mut buffer)?;
        for id in near {
            if self.missing() == 0 {
                break;
            }
            let store = &self.store;
            for path in [
                store.held_path(id),
                store.incoming_path(id).join("manifest"),
            ] {
                // A neighbour that went away, or cannot be read, helps nobody.
                if let Ok(bytes) = read_manifest(&path, id) {
                    self.fill_from_kept(&Manifest::decode(&bytes)?, &mut buffer)?;
                }
            }
        }
        Ok(())
    }

    /// Chunks of a content from a file that may have some of them, each at its place.
    fn fill_from(
        &self,
        path: &Path,
        content: &Content,
        buffer: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let missing = |number: u32| !self.has(number);
        let numbers = content.first..content.first + content.chunks.len() as u32;
        if !path.exists() || !numbers.clone().any(missing) {
            return Ok(());
        }
        let file = disk::open(path)?;
        for (number, chunk) in numbers.zip(&content.chunks) {
            if missing(number) {
                let (at, length) = content.span((number - content.first) as usize);
                self.take_if_good(&file, path, at, &mut buffer[..length], chunk)?;
            }
        }
        Ok(())
    }

    /// Chunks that lie in kept contents of `manifest`, wherever in it they are.
    fn fill_from_kept(
        &self,
        manifest: &Manifest,
        buffer: &mut [u8],
    ) -> Result<(), CheckpointError> {
        for content in manifest.contents() {
            let wanted = |chunk: &BlobId| *chunk != HOLE && self.lacks(chunk);
            let path = self.store.inner.objects.path(&content.id);
            if !content.chunks.iter().any(wanted) || !path.exists() {
                continue;
            }
            let file = disk::open(&path)?;
            for (inside, chunk) in content.chunks.iter().enumerate() {
                if wanted(chunk) {
                    let (at, length) = content.span(inside);
                    self.take_if_good(&file, &path, at, &mut buffer[..length], chunk)?;
                }
            }
        }
        Ok(())
    }

    fn take_if_good(
        &self,
        file: &File,
        path: &Path,
        at: u64,
        buffer: &mut [u8],
        chunk: &BlobId,
    ) -> Result<(), CheckpointError> {
        let end = at + buffer.len() as u64;
        let data = next_data(file, at).map_err(io("read", path))?;
        if data.is_none_or(|data| data >= end) {
            return Ok(());
        }
        // What cannot be read, or ends too early, is not here.
        if file.read_exact_at(buffer, at).is_ok() && name_of(buffer) == *chunk {
            self.take(chunk, buffer)?;
        }
        Ok(())
    }
}
