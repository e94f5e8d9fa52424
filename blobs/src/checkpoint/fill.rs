//! Chunks of a receive that are on this node already: in its own files, written before a crash and not noted; in a content that was found
//! damaged elsewhere; in a neighbouring checkpoint. Each is hashed before it counts. Does NOT ask other nodes.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::disk::{self, next_data};
use super::error::{CheckpointError, io};
use super::hash::name_of;
use super::limits::CHUNK_BYTES;
use super::manifest::{Content, HOLE, Manifest};
use super::receive::Receive;
use super::store::read_manifest;
use crate::BlobId;

/// Chunks that a thread takes at once.
const SPAN_CHUNKS: usize = 16;

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
        self.fill_from_kept(&self.manifest)?;
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
                    self.fill_from_kept(&Manifest::decode(&bytes)?)?;
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

    /// Chunks that lie in kept contents of `manifest`, wherever in it they are. With a few threads: a large file of which little changed
    /// is read, hashed and written nearly whole.
    fn fill_from_kept(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        let mut spans = Vec::new();
        for content in manifest.contents() {
            let path = self.store.inner.objects.path(&content.id);
            if content.chunks.iter().any(|chunk| self.wants(chunk)) && path.exists() {
                let firsts = (0..content.chunks.len()).step_by(SPAN_CHUNKS);
                spans.extend(firsts.map(|first| (content, first)));
            }
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut buffer = vec![0; CHUNK_BYTES as usize];
            while let Some((content, first)) = spans.get(next.fetch_add(1, Ordering::Relaxed)) {
                // One that fails makes the others stop at their next span.
                self.fill_span(content, *first, &mut buffer)
                    .inspect_err(|_| next.store(spans.len(), Ordering::Relaxed))?;
            }
            Ok(())
        };
        let threads = self
            .store
            .inner
            .options
            .threads
            .clamp(1, spans.len().max(1));
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            for thread in others {
                let ended = thread.join();
                all = all.and(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            all
        })
    }

    /// The next chunks of a kept content from `first` on. What another thread takes at the same moment is written twice, alike.
    fn fill_span(
        &self,
        content: &Content,
        first: usize,
        buffer: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let path = self.store.inner.objects.path(&content.id);
        let file = disk::open(&path)?;
        let chunks = content.chunks.iter().enumerate().skip(first);
        for (inside, chunk) in chunks.take(SPAN_CHUNKS) {
            if self.wants(chunk) {
                let (at, length) = content.span(inside);
                self.take_if_good(&file, &path, at, &mut buffer[..length], chunk)?;
            }
        }
        Ok(())
    }

    fn wants(&self, chunk: &BlobId) -> bool {
        *chunk != HOLE && self.lacks(chunk)
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
