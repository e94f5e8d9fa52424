//! The log on disk: entries, term, vote and marks, in raft-engine.
//!
//! It does not decide what to write. `scanner` looks at the files before raft-engine may cut anything, `engine`
//! writes and reads through `files`, `recover` judges whether what was read is everything that this disk once acknowledged.

pub mod engine;
mod files;
mod items;
pub mod recover;
pub mod scanner;
#[cfg(test)]
mod tests;
mod witness;

use mlctl_proto::mutants::{Mutant, planted};
use std::path::{Path, PathBuf};

/// Whether a write is waited for until the disk has it. Always, also for a cut: an unsynced record before a synced one could be
/// lost alone in a power cut and would then look like damage. Simulated disks ask this too.
pub fn writes_are_synced() -> bool {
    !planted(Mutant::LazySync)
}

/// What goes wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Something that was synced is gone or changed.
    #[error(
        "the Raft log in {} is damaged: {found}; this member will not vote, because it may have forgotten what it acknowledged; the other members have the data: start it with --rejoin, and it joins again under a new member id",
        dir.display()
    )]
    Damaged {
        /// The log's directory.
        dir: PathBuf,
        /// What was found, and where.
        found: String,
    },
    /// The disk failed: what it holds is unknown.
    #[error(
        "cannot {action} {}: {reason}; what this disk holds of the last writes is unknown, so this member writes no more and ends, and the others go on; see to the disk, then start it again: it checks every byte, and if it refuses, start it with --rejoin",
        path.display()
    )]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// raft-engine refused.
    #[error("cannot {action} the Raft log in {}: {reason}", dir.display())]
    Engine {
        /// What was tried.
        action: &'static str,
        /// The log's directory.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl LogError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    fn damaged(dir: &Path, found: impl Into<String>) -> Self {
        Self::Damaged {
            dir: dir.to_path_buf(),
            found: found.into(),
        }
    }
}

/// Makes names in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> Result<(), LogError> {
    std::fs::File::open(dir)
        .and_then(|handle| handle.sync_all())
        .map_err(LogError::io("sync the directory", dir))
}
