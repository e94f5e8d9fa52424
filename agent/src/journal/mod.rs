//! The agent's one append-only file: what it has begun, buried and reported, on disk before anything depends on it.
//! Does NOT decide what is written; that is the core. A failed sync ends the agent, it is never tried again.
//!
//! A torn tail is cut. An unreadable record with readable ones behind it is set aside in `quarantine/`, and the journal goes on
//! under a new id, because event numbers may be missing; the agent starts in any case.

mod codec;
mod file;
mod frame;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use crate::core::Record;
pub use writer::Journal;

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the journal {}: {source}", path.display())]
pub struct JournalError {
    /// What was tried.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// What a journal held when the agent started.
#[derive(Debug)]
pub struct Loaded {
    /// The id in the file; `None` when there was no file or its first record was unreadable.
    pub id: Option<String>,
    /// The readable records in their order.
    pub records: Vec<Record>,
    /// Unreadable stretches that were set aside.
    pub damaged: usize,
}

/// Reads the journal in `dir`. Unreadable stretches are copied to `dir/quarantine` first.
///
/// # Errors
/// When the file exists and cannot be read, or the quarantine cannot be written.
pub fn load(dir: &Path) -> Result<Loaded, JournalError> {
    file::load(dir)
}

/// A new journal id: 128 random bits.
pub fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
