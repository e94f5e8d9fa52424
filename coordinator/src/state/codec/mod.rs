//! The only place where persisted bytes and records meet. Versioned protobuf; what this release cannot read is an error, never
//! skipped: an unknown version, an unknown word of a closed set, a missing field. Reads arbitrary bytes without a panic.
mod array;
mod attempt;
mod checkpoint;
mod command;
mod decision;
mod event;
mod history;
mod hold;
mod job;
mod node;
mod retry;
mod segment;
mod selection;
mod settings;
mod snapshot;
mod team;
mod turn;
mod words;

use mlctl_proto::ids::IdError;
use prost::Message;

pub use array::encode_planned;
pub use checkpoint::encode_sealed;
pub use command::{COMMAND_BYTES_MAX, decode_command, encode_command};
pub use event::{decode_event, encode_event};
pub use history::{decode_archived, encode_archived};
pub use node::{decode_facts, encode_facts};
pub use segment::{Placed, decode_segment, encode_segment, framed};
pub use snapshot::{SNAPSHOT_BYTES_MAX, decode_snapshot, encode_snapshot, state_from_rows};

/// Version of every record and command that this release writes, and the only one it reads.
pub const RECORD_VERSION: u32 = 1;
/// One row, key and record together, bytes. The largest is an attempt of the widest gang.
pub const ROW_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A row of any table: its table, its key, its record.
pub type RawRow = (u8, Vec<u8>, Vec<u8>);

/// A record that is stored in a table.
pub trait Record: Sized {
    /// The number of its table. Never used for another.
    const TABLE: u8;
    /// What rows are sorted by.
    type Key: Ord + Clone;
    /// The key of this record: every record says itself who it is.
    fn key(&self) -> Self::Key;
    /// A key as bytes. They need not sort as the keys do.
    fn key_bytes(key: &Self::Key) -> Vec<u8>;
    /// The record as bytes: the same record, the same bytes.
    fn encode(&self) -> Vec<u8>;
    /// The reverse of [`Record::encode`].
    fn decode(bytes: &[u8]) -> Result<Self, CodecError>;
}

/// Why bytes are not what they should be. The process that meets one in its log or snapshot stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not protobuf of this shape.
    #[error("{what} cannot be decoded: {why}")]
    Malformed {
        /// Which record.
        what: &'static str,
        /// What the decoder says.
        why: String,
    },
    /// Written by another release.
    #[error(
        "{what} has version {version}, this release reads {RECORD_VERSION}: install the release that wrote it, or a later one"
    )]
    Version {
        /// Which record.
        what: &'static str,
        /// Its version.
        version: u32,
    },
    /// A field that every record has is not there.
    #[error("{what} lacks its {field}")]
    Missing {
        /// Which record.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// A word of a closed set that this release does not know.
    #[error("{field} has the unknown value {value}: it was written by a later release")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// Its number or word.
        value: String,
    },
    /// More bytes than there may be.
    #[error("{what} has {bytes} bytes; at most {most}")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// A stored spec that does not parse.
    #[error("a stored job spec cannot be read: {why}")]
    Spec {
        /// What the parser says.
        why: String,
    },
    /// A row under a key that is not its own, of an unknown table, or there twice.
    #[error("table {table}: {why}")]
    Row {
        /// Its table.
        table: u8,
        /// What is wrong.
        why: String,
    },
    /// A snapshot that is cut, longer than it says, or whose digest differs from what its rows add up to.
    #[error("the snapshot is damaged: {why}")]
    Snapshot {
        /// What is wrong.
        why: String,
    },
    /// A segment that is cut, or whose records are not those that were written.
    #[error("the segment is damaged: {why}")]
    Segment {
        /// What is wrong.
        why: String,
    },
}

fn missing(what: &'static str, field: &'static str) -> CodecError {
    CodecError::Missing { what, field }
}

fn unknown(field: &'static str, value: impl ToString) -> CodecError {
    CodecError::Unknown {
        field,
        value: mlctl_proto::ids::clip(&value.to_string()),
    }
}

fn bad_id(what: &'static str) -> impl Fn(IdError) -> CodecError {
    move |error| CodecError::Malformed {
        what,
        why: error.to_string(),
    }
}

/// Decodes a message, its length checked first.
fn message<M: Message + Default>(
    what: &'static str,
    bytes: &[u8],
    most: usize,
) -> Result<M, CodecError> {
    if bytes.len() > most {
        return Err(CodecError::TooLong {
            what,
            bytes: bytes.len(),
            most,
        });
    }
    M::decode(bytes).map_err(|error| CodecError::Malformed {
        what,
        why: error.to_string(),
    })
}

fn known_version(what: &'static str, version: u32) -> Result<(), CodecError> {
    if version == RECORD_VERSION {
        Ok(())
    } else {
        Err(CodecError::Version { what, version })
    }
}

fn array<const N: usize>(
    what: &'static str,
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], CodecError> {
    bytes.try_into().map_err(|_| CodecError::Malformed {
        what,
        why: format!("its {field} has {} bytes, not {N}", bytes.len()),
    })
}

#[cfg(test)]
mod tests;
