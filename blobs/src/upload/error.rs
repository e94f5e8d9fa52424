//! Why something with a remote store did not happen. Says which object, never a credential. Does NOT log.
use crate::BlobId;
use crate::checkpoint::CheckpointError;

/// Why a checkpoint is not uploaded, downloaded, listed or removed. What was sent or received so far stays: the same call goes on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Not the URL of a store.
    #[error(
        "the address of the remote store {why}; it is s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory"
    )]
    Address {
        /// What is wrong with it. The URL itself is not repeated: it may hold a secret.
        why: &'static str,
    },
    /// The store is not there, or its settings in the environment are wrong.
    #[error("{remote} cannot be opened: {why}")]
    Open {
        /// The store.
        remote: String,
        /// What is wrong.
        why: String,
    },
    /// An entry that no part can have.
    #[error("checkpoint {name:?} cannot be in a remote store: {fault}")]
    Entry {
        /// Its name, shortened.
        name: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The store failed, after all retries, or refuses.
    #[error("cannot {doing} {object} in {remote}: {why}; what is there stays, try again to go on")]
    Request {
        /// In present tense, such as `write`.
        doing: &'static str,
        /// The object or folder, below the prefix.
        object: String,
        /// The store.
        remote: String,
        /// What the store or the network said.
        why: String,
    },
    /// An object that has to be there is not.
    #[error(
        "{object} is missing in {remote}; upload the checkpoint again from a node that holds it"
    )]
    Missing {
        /// The object, below the prefix.
        object: String,
        /// The store.
        remote: String,
    },
    /// An object is not what its name says.
    #[error(
        "{object} in {remote} is damaged: {why}; remove that object and upload the checkpoint again from a node that holds it"
    )]
    Damaged {
        /// The object, below the prefix.
        object: String,
        /// The store.
        remote: String,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody removes what nobody needs. Takes minutes.
    #[error("{remote} is being cleaned up, since {object}; try again in a few minutes")]
    Collecting {
        /// The mark, below the prefix. One that is older than an hour counts for nothing.
        object: String,
        /// The store.
        remote: String,
    },
    /// The disk of this node gave other bytes than were sealed.
    #[error("checkpoint {id}: chunk {index} changed while it was read; try again")]
    Changed {
        /// The checkpoint.
        id: BlobId,
        /// Number of the chunk.
        index: u32,
    },
    /// This node's own store.
    #[error(transparent)]
    Store(#[from] CheckpointError),
    /// This process.
    #[error("upload: {0}")]
    Local(String),
}
