//! Hashes files in chunks, with a few threads. Memory: one buffer a thread, and 32 bytes a chunk.
//! Does NOT know what the hashes are for.
//!
//! What it costs: BLAKE3 takes about 0.2 s of a processor per GiB with AVX-512, and threads divide the time but not the work. A
//! checkpoint that was just written comes from the page cache; else the disk sets the pace. Holes are skipped unread.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::disk::{is_zero, next_data};
use super::error::{CheckpointError, io};
use super::limits::CHUNK_BYTES;
use super::manifest::HOLE;
use crate::BlobId;

/// Read at once: small enough to be hashed out of a processor's own cache.
const BUFFER_BYTES: usize = 256 << 10;
/// Chunks that a thread takes at once.
const SPAN_CHUNKS: u64 = 16;

/// A file and how many of its bytes count.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

/// The hashes of a file's chunks; `None` for one that ends too early.
pub(super) type Hashes = Vec<Option<BlobId>>;

/// Hashes every chunk of `sources`.
pub(super) fn hash(sources: &[Source], threads: usize) -> Result<Vec<Hashes>, CheckpointError> {
    let mut spans = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let chunks = source.size.div_ceil(CHUNK_BYTES);
        spans.extend(
            (0..chunks)
                .step_by(SPAN_CHUNKS as usize)
                .map(|at| (number, at)),
        );
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        // One that fails makes the others stop at their next span.
        while let Some((number, at)) = spans.get(next.fetch_add(1, Ordering::Relaxed)) {
            let hashes = hash_span(&sources[*number], *at, &mut buffer)
                .inspect_err(|_| next.store(spans.len(), Ordering::Relaxed))?;
            done.push((*number, *at, hashes));
        }
        Ok(done)
    };
    let mut all: Vec<Hashes> = sources
        .iter()
        .map(|source| vec![None; source.size.div_ceil(CHUNK_BYTES) as usize])
        .collect();
    let threads = threads.clamp(1, spans.len().max(1));
    let parts = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut parts = vec![work()];
        parts.extend(others.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }));
        parts
    });
    for part in parts {
        for (number, at, hashes) in part? {
            let at = at as usize;
            all[number][at..at + hashes.len()].copy_from_slice(&hashes);
        }
    }
    Ok(all)
}

fn hash_span(source: &Source, first: u64, buffer: &mut [u8]) -> Result<Hashes, CheckpointError> {
    let file = File::open(&source.path).map_err(io("open", &source.path))?;
    let chunks = source.size.div_ceil(CHUNK_BYTES);
    (first..chunks.min(first + SPAN_CHUNKS))
        .map(|chunk| {
            let at = chunk * CHUNK_BYTES;
            let length = CHUNK_BYTES.min(source.size - at);
            hash_at(&file, at, length, buffer).map_err(io("read", &source.path))
        })
        .collect()
}

/// The hash of `length` bytes from `at`; [`HOLE`] if they are zeros, `None` if they are not all there.
pub(super) fn hash_at(
    file: &File,
    at: u64,
    length: u64,
    buffer: &mut [u8],
) -> io::Result<Option<BlobId>> {
    let end = at + length;
    if next_data(file, at)?.is_none_or(|data| data >= end) {
        return Ok((file.metadata()?.len() >= end).then_some(HOLE));
    }
    let mut hasher = blake3::Hasher::new();
    let (mut from, mut zero) = (at, true);
    while from < end {
        let part = buffer.len().min((end - from) as usize);
        let read = file.read_at(&mut buffer[..part], from)?;
        if read == 0 {
            return Ok(None);
        }
        zero = zero && is_zero(&buffer[..read]);
        hasher.update(&buffer[..read]);
        from += read as u64;
    }
    let hash = BlobId::from_hash(hasher.finalize());
    Ok(Some(if zero { HOLE } else { hash }))
}

/// The name of a chunk whose bytes are in memory.
pub(super) fn name_of(bytes: &[u8]) -> BlobId {
    if is_zero(bytes) {
        HOLE
    } else {
        BlobId::of(bytes)
    }
}
