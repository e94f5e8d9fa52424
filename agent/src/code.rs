//! Brings a job's code onto the node: the manifest and the blobs that are missing, from the leader, verified, then laid out.
//! Does NOT keep anything that is not named by its content, and never writes outside of the attempt's work directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use mlctl_blobs::code::{CodeError, Manifest, materialize};
use mlctl_blobs::{BlobId, BlobIdError, Store, StoreError};
use mlctl_proto::agent::GetBlobRequest;
use mlctl_proto::agent::bulk_client::BulkClient;
use mlctl_proto::limits::{BLOB_BYTES_MAX, MESSAGE_BYTES_MAX};
use tonic::transport::Channel;

/// Blobs fetched at the same time.
const FETCHES: usize = 8;

/// Why code could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The id is not one.
    #[error("the code cannot be fetched: {0}")]
    Id(#[from] BlobIdError),
    /// The leader refused or went away.
    #[error("the code cannot be fetched from the leader: {}", .0.message())]
    Leader(#[from] Box<tonic::Status>),
    /// A blob larger than any may be.
    #[error("the code cannot be fetched: blob {id} is larger than {BLOB_BYTES_MAX} bytes")]
    TooLarge {
        /// Which one.
        id: BlobId,
    },
    /// This node's store.
    #[error("the code cannot be kept on this node: {0}")]
    Store(#[from] StoreError),
    /// The manifest, or laying it out.
    #[error("the code cannot be laid out: {0}")]
    Code(#[from] CodeError),
    /// A task of ours died.
    #[error("the code cannot be laid out: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Fetches the code that `manifest` names and lays it out in `dest`, which must be empty or missing.
///
/// # Errors
/// When a blob cannot be fetched, kept or laid out; `dest` may then be incomplete.
pub async fn fetch(
    store: &Store,
    channel: Channel,
    manifest: &str,
    dest: &Path,
) -> Result<(), FetchError> {
    let id: BlobId = manifest.parse()?;
    fetch_blob(store, channel.clone(), id).await?;
    let bytes = store.read(&id)?;
    let manifest = Manifest::decode(&bytes)?;
    let files = manifest.files.iter().filter(|entry| entry.link.is_none());
    let blobs = files
        .map(|entry| entry.blob.parse())
        .collect::<Result<BTreeSet<BlobId>, _>>()?;
    futures::stream::iter(
        blobs
            .into_iter()
            .map(|id| fetch_blob(store, channel.clone(), id)),
    )
    .buffer_unordered(FETCHES)
    .try_collect::<Vec<()>>()
    .await?;
    let (store, dest): (Store, PathBuf) = (store.clone(), dest.to_owned());
    tokio::task::spawn_blocking(move || materialize(&store, &manifest, &dest)).await??;
    Ok(())
}

async fn fetch_blob(store: &Store, channel: Channel, id: BlobId) -> Result<(), FetchError> {
    if store.has(&id) {
        return Ok(());
    }
    let mut client = BulkClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = GetBlobRequest { id: id.to_string() };
    let mut chunks = client
        .get_blob(request)
        .await
        .map_err(Box::new)?
        .into_inner();
    let mut incoming = store.begin(id)?;
    while let Some(chunk) = chunks.message().await.map_err(Box::new)? {
        if incoming.bytes().saturating_add(chunk.data.len() as u64) > BLOB_BYTES_MAX {
            return Err(FetchError::TooLarge { id });
        }
        incoming.write(&chunk.data)?;
    }
    // Syncing is slow and must not hold up the other tasks.
    tokio::task::spawn_blocking(move || incoming.commit()).await??;
    Ok(())
}
