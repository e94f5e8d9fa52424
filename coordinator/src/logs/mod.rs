//! The logs of ranks as this coordinator keeps them: what agents pushed and what other members copied here, in files, and readers that
//! follow them.
//!
//! The leader is pushed to; what it has is sealed into pieces, and each piece lies on one other member too (`api::keeping`). A new
//! leader that lacks something asks the others, and the nodes push what nobody has yet.
mod cleaning;
mod held;
mod meta;
pub mod piece;
mod rank;
mod reader;
mod store;
#[cfg(test)]
mod tests;

pub use cleaning::clean;
pub use meta::{Limits, Meta, lacking};
pub use rank::Chunk;
pub use reader::{Entry, Line, Missing, Reader};
pub use store::{AttemptLogs, Key, Logs, RankLog};

use std::io;
use std::path::{Path, PathBuf};

use mlctl_proto::ids::JobId;

/// Why a piece was not stored.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It is not made of whole frames.
    #[error(
        "a piece of the log of rank {rank} of job {job} is not made of whole frames; send it again from the start"
    )]
    Damaged {
        /// The job.
        job: JobId,
        /// The rank.
        rank: u32,
    },
    /// The disk or the file system failed.
    #[error("log store: {doing} {}: {source}", path.display())]
    Io {
        /// In present tense.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// What was pushed.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Of its first byte within the framed log.
    pub offset: u64,
    /// Whole frames.
    pub frames: &'a [u8],
    /// The rank has ended; nothing follows.
    pub end: bool,
    /// Bytes that the node could not keep.
    pub dropped: u64,
    /// The node has nothing of what lies before it and is not stored.
    pub skip: bool,
}

/// How much is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Send from here.
    pub offset: u64,
    /// Nothing more will come.
    pub end: bool,
    /// Bytes that the node could not keep.
    pub dropped: u64,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io {
        doing,
        path,
        source,
    }
}
