//! Why something with a checkpoint did not happen. One enum: the same causes meet whoever seals, receives and restores.
//! Does NOT log.
use std::io;
use std::path::{Path, PathBuf};

use super::limits::{ENTRIES_MAX, MANIFEST_BYTES_MAX};
use crate::BlobId;

/// Why a checkpoint is not sealed, received, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A name or a kind of file that no checkpoint holds.
    #[error("checkpoint: {path:?} {why}")]
    Path {
        /// As given, shortened.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Not a manifest of this release.
    #[error("checkpoint: the manifest is not readable: {0}")]
    Format(&'static str),
    /// Too much for one manifest.
    #[error(
        "checkpoint: more than {ENTRIES_MAX} files, 16 TiB, or {MANIFEST_BYTES_MAX} bytes of manifest"
    )]
    TooLarge,
    /// The directory was still being written while it was sealed.
    #[error(
        "checkpoint: {path} changed while it was sealed: it is still being written; seal it again later"
    )]
    Changed {
        /// The file or directory.
        path: PathBuf,
    },
    /// The store's own limit, or the disk, has no room for it. Nothing was begun.
    #[error(
        "checkpoint: no room: {needed} bytes are needed and {free} are free; {} are missing: remove older checkpoints or raise the limit",
        needed - free
    )]
    NoRoom {
        /// Bytes that would be added.
        needed: u64,
        /// Bytes that may be added now; less than `needed`.
        free: u64,
    },
    /// The disk became full on the way. What was received so far stays and can go on.
    #[error("checkpoint: the disk is full: {doing} {path}; make room, then go on")]
    DiskFull {
        /// In present tense.
        doing: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Bytes on this disk are not those that were sealed. It is no longer held; [`super::CheckpointStore::mend`] says what is missing.
    #[error(
        "checkpoint {id} is damaged on this node: {chunks} chunks changed, the first of {path:?}; fetch them from another holder"
    )]
    Damaged {
        /// The checkpoint that was asked for.
        id: BlobId,
        /// Chunks that are not what they were.
        chunks: u64,
        /// The first file that is hit; empty if many small ones are.
        path: String,
    },
    /// It is not here, or not whole.
    #[error("checkpoint {id} is not held here")]
    NotHeld {
        /// Its manifest's id.
        id: BlobId,
    },
    /// A chunk arrived that is not the one that the manifest names.
    #[error("checkpoint {id}: what arrived as chunk {index} is something else; send it again")]
    WrongChunk {
        /// The checkpoint.
        id: BlobId,
        /// The chunk's number in its manifest.
        index: u32,
    },
    /// Chunks are still missing.
    #[error("checkpoint {id} cannot be held yet: {missing} chunks are missing")]
    Incomplete {
        /// The checkpoint.
        id: BlobId,
        /// Their number.
        missing: u64,
    },
    /// Somebody else is at it.
    #[error("checkpoint: {what} is in use already; wait until that has ended")]
    Busy {
        /// A directory or an id.
        what: String,
    },
    /// The destination is taken.
    #[error("checkpoint: {path} is there already; a checkpoint is restored to a new name only")]
    Taken {
        /// The destination.
        path: PathBuf,
    },
    /// The disk or the file system failed.
    #[error("checkpoint: {doing} {path}")]
    Io {
        /// In present tense, such as `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Names what was done and to which file. A full disk is told apart: who meets it can make room and go on.
pub(super) fn io<E: Into<io::Error>>(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> CheckpointError + use<E> {
    let path = path.to_owned();
    move |source| {
        let source = source.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                CheckpointError::DiskFull { doing, path }
            }
            _ => CheckpointError::Io {
                doing,
                path,
                source,
            },
        }
    }
}

/// A fault of a path, shortened for people.
pub(super) fn bad_path(path: &str, why: &'static str) -> CheckpointError {
    CheckpointError::Path {
        path: mlctl_proto::ids::clip(path),
        why,
    }
}
