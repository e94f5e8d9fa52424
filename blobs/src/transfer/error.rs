//! Why a checkpoint did not move. Does NOT log.
use std::net::SocketAddr;

use super::protocol::{BadFrame, Refusal};
use crate::BlobId;
use crate::checkpoint::CheckpointError;

/// Why a transfer failed. What came so far stays: the same call goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Nobody answers, neither over QUIC nor over TCP.
    #[error("cannot reach node {node} at {address}: QUIC: {quic}; TCP: {tcp}")]
    Unreachable {
        /// The node.
        node: String,
        /// Where.
        address: SocketAddr,
        /// Why not over QUIC.
        quic: String,
        /// Why not over TCP.
        tcp: String,
    },
    /// Somebody else answers there.
    #[error("at {address} answers {found}, not node {node}; its address is out of date")]
    WrongPeer {
        /// The node that was meant.
        node: String,
        /// Where.
        address: SocketAddr,
        /// Who it is by its certificate.
        found: String,
    },
    /// The other node does not do it.
    #[error("node {node} refuses: {text}")]
    Refused {
        /// The node.
        node: String,
        /// Why.
        why: Refusal,
        /// What it says.
        text: String,
    },
    /// The connection ended in the middle.
    #[error("the connection to node {node} broke: {why}; begin again to go on")]
    Cut {
        /// The node.
        node: String,
        /// What the system said.
        why: String,
    },
    /// What it says makes no sense.
    #[error("node {node} does not keep to the protocol: {why}")]
    Protocol {
        /// The node.
        node: String,
        /// What is wrong.
        why: &'static str,
    },
    /// None of the holders is left.
    #[error("checkpoint {id}: no holder is left, {left} chunks are missing: {why}")]
    NoHolder {
        /// The checkpoint.
        id: BlobId,
        /// Chunks that are missing; 0 if not even the manifest came.
        left: u32,
        /// What became of each.
        why: String,
    },
    /// This node's own store.
    #[error(transparent)]
    Store(#[from] CheckpointError),
    /// This node's own certificate, key or address.
    #[error("transfer: {0}")]
    Local(String),
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("nothing came for {0} s")]
    Stalled(u64),
    #[error(transparent)]
    Frame(#[from] BadFrame),
    #[error("{text}")]
    Refused { why: Refusal, text: String },
}

/// Our store's reason to refuse, as the other node will hear it.
impl From<CheckpointError> for LinkError {
    fn from(error: CheckpointError) -> Self {
        Self::Refused {
            why: refusal_of(&error),
            text: error.to_string(),
        }
    }
}

impl LinkError {
    pub(super) fn refused(why: Refusal, text: &str) -> Self {
        let text = text.to_owned();
        Self::Refused { why, text }
    }

    /// The same, with the name of who is at the other end.
    pub(super) fn of(self, node: &str) -> TransferError {
        let node = node.to_owned();
        match self {
            Self::Frame(BadFrame(why)) => TransferError::Protocol { node, why },
            Self::Refused { why, text } => TransferError::Refused { node, why, text },
            other => TransferError::Cut {
                node,
                why: other.to_string(),
            },
        }
    }
}

/// What to tell the other node about an error of our store.
fn refusal_of(error: &CheckpointError) -> Refusal {
    match error {
        CheckpointError::NoRoom { .. } => Refusal::NoRoom,
        CheckpointError::DiskFull { .. } => Refusal::DiskFull,
        CheckpointError::Busy { .. } => Refusal::Busy,
        CheckpointError::WrongChunk { .. } => Refusal::WrongChunk,
        CheckpointError::NotHeld { .. } | CheckpointError::Damaged { .. } => Refusal::NotHeld,
        CheckpointError::Format(_) | CheckpointError::Path { .. } | CheckpointError::TooLarge => {
            Refusal::BadManifest
        }
        _ => Refusal::Failed,
    }
}
