//! Blobs between coordinators: who has what, copies to a majority, and fetching what is missing here.
//!
//! What is on a majority survives any minority. Nothing is deleted here.
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use mlctl_blobs::code::Manifest;
use mlctl_blobs::{BlobId, Incoming, StoreError};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::{BLOB_BYTES_MAX, BLOB_CHUNK_BYTES, MESSAGE_BYTES_MAX};
use mlctl_proto::peer::peer_client::PeerClient;
use mlctl_proto::peer::{BlobPart, FetchBlobRequest, HasBlobsRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::consensus::MemberId;
use crate::shared::Shared;

/// A member that does not answer within this has nothing.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// A copy of one blob to one member.
const COPY_DEADLINE: Duration = Duration::from_secs(600);
/// Ids in one question: well below a message.
const IDS_PER_CALL: usize = 30_000;
/// A code manifest, bytes.
const MANIFEST_BYTES_MAX: u64 = 16 * MESSAGE_BYTES_MAX as u64;

/// The blobs of `wanted` that are not on a majority of members.
///
/// # Errors
/// Never for members that do not answer: they count as having nothing.
pub async fn missing(shared: &Arc<Shared>, wanted: Vec<BlobId>) -> Result<Vec<BlobId>, Refusal> {
    let wanted: BTreeSet<BlobId> = wanted.into_iter().collect();
    let mut asked = JoinSet::new();
    for member in shared.peers.ids() {
        asked.spawn(lacking(Arc::clone(shared), member, wanted.clone()));
    }
    let store = shared.blobs.clone();
    let all = wanted.clone();
    let here = move || -> BTreeMap<BlobId, usize> {
        all.into_iter()
            .map(|id| (id, usize::from(store.has(&id))))
            .collect()
    };
    let mut copies = tokio::task::spawn_blocking(here)
        .await
        .map_err(|error| internal(error.to_string()))?;
    while let Some(answer) = asked.join_next().await {
        let Ok(Some(lacking)) = answer else { continue };
        for (id, count) in &mut copies {
            *count += usize::from(!lacking.contains(id));
        }
    }
    let majority = shared.peers.majority();
    Ok(copies
        .into_iter()
        .filter(|(_, count)| *count < majority)
        .map(|(id, _)| id)
        .collect())
}

/// What `member` lacks of `wanted`; `None` when it does not answer.
async fn lacking(
    shared: Arc<Shared>,
    member: MemberId,
    wanted: BTreeSet<BlobId>,
) -> Option<BTreeSet<BlobId>> {
    let lease = shared.peers.channel(member).ok()?;
    let mut client = PeerClient::new(lease.channel.clone());
    let ids: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let mut lacking = BTreeSet::new();
    for ids in ids.chunks(IDS_PER_CALL) {
        let request = HasBlobsRequest { ids: ids.to_vec() };
        let answer = tokio::time::timeout(ASK_DEADLINE, client.has_blobs(request))
            .await
            .ok()?;
        let missing = answer.ok()?.into_inner().missing;
        lacking.extend(missing.iter().filter_map(|id| id.parse::<BlobId>().ok()));
    }
    Some(lacking)
}

/// Copies a blob that is here to the other members; returns when a majority has it. The rest goes on by itself.
///
/// # Errors
/// When too few members can be reached.
pub async fn spread(shared: &Arc<Shared>, id: BlobId) -> Result<usize, Refusal> {
    let (done, mut ends) = mpsc::channel(8);
    for member in shared.peers.ids() {
        let (shared, done) = (Arc::clone(shared), done.clone());
        tokio::spawn(async move {
            let copied = tokio::time::timeout(COPY_DEADLINE, copy(&shared, member, id)).await;
            let outcome = copied.unwrap_or_else(|_| Err("it took too long".into()));
            if let Err(reason) = &outcome {
                tracing::warn!(%id, member, %reason, "a blob was not copied to this member");
            }
            // Nobody listens once a majority has it.
            let _ = done.send(outcome.is_ok()).await;
        });
    }
    drop(done);
    let mut copies = 1;
    while copies < shared.peers.majority() {
        match ends.recv().await {
            Some(copied) => copies += usize::from(copied),
            None => {
                let why = format!(
                    "blob {id} is on {copies} coordinators, which is no majority; try again"
                );
                return Err(Refusal::new(Code::Unavailable, why));
            }
        }
    }
    Ok(copies)
}

async fn copy(shared: &Arc<Shared>, member: MemberId, id: BlobId) -> Result<(), String> {
    if lacking(Arc::clone(shared), member, BTreeSet::from([id]))
        .await
        .is_some_and(|lacking| lacking.is_empty())
    {
        return Ok(());
    }
    let lease = shared
        .peers
        .channel(member)
        .map_err(|error| error.to_string())?;
    let mut first = true;
    let parts = read(shared, id).map(move |chunk| BlobPart {
        id: if std::mem::take(&mut first) {
            id.to_string()
        } else {
            String::new()
        },
        // A failed read ends the stream early: the other side then finds that the bytes are not the blob.
        data: chunk.unwrap_or_default(),
    });
    let sent = PeerClient::new(lease.channel.clone()).put_blob(parts).await;
    sent.map(|_| ())
        .map_err(|status| status.message().to_owned())
}

/// The bytes of a blob that is here, in chunks; at least one, which may be empty.
pub fn read(shared: &Arc<Shared>, id: BlobId) -> ReceiverStream<Result<Vec<u8>, Status>> {
    let (chunks, stream) = mpsc::channel(8);
    let store = shared.blobs.clone();
    tokio::task::spawn_blocking(move || {
        let failed = |error: String| Err(Status::from(internal(format!("blob {id}: {error}"))));
        let mut file = match store.open_blob(&id) {
            Ok(file) => file,
            Err(error) => return chunks.blocking_send(failed(error.to_string())).is_ok(),
        };
        let mut first = true;
        loop {
            let mut chunk = vec![0; BLOB_CHUNK_BYTES];
            let bytes = match file.read(&mut chunk) {
                Ok(bytes) => bytes,
                Err(error) => return chunks.blocking_send(failed(error.to_string())).is_ok(),
            };
            if bytes == 0 && !std::mem::take(&mut first) {
                return true;
            }
            first = false;
            chunk.truncate(bytes);
            if chunks.blocking_send(Ok(chunk)).is_err() {
                return false;
            }
        }
    });
    ReceiverStream::new(stream)
}

/// A blob on its way in; writes happen on a blocking thread.
pub struct Receiving {
    incoming: Option<Incoming>,
    bytes: u64,
}

impl Receiving {
    /// Begins to receive `id`.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn begin(shared: &Arc<Shared>, id: BlobId) -> Result<Self, Refusal> {
        let store = shared.blobs.clone();
        let incoming = blocking(move || store.begin(id)).await?;
        Ok(Self {
            incoming: Some(incoming),
            bytes: 0,
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are too many, or the disk fails.
    pub async fn write(&mut self, chunk: Vec<u8>) -> Result<(), Refusal> {
        self.bytes += chunk.len() as u64;
        if self.bytes > BLOB_BYTES_MAX {
            let why = format!("the blob is longer than {BLOB_BYTES_MAX} bytes");
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        let Some(mut incoming) = self.incoming.take() else {
            return Err(internal("the blob could not be written before".into()));
        };
        let written = blocking(move || incoming.write(&chunk).map(|()| incoming)).await?;
        self.incoming = Some(written);
        Ok(())
    }

    /// Verifies the whole and makes it durable.
    ///
    /// # Errors
    /// When the bytes are not those that were named, or the disk fails.
    pub async fn commit(mut self) -> Result<(), Refusal> {
        match self.incoming.take() {
            Some(incoming) => blocking(move || incoming.commit()).await,
            None => Err(internal("the blob could not be written before".into())),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome
        .map_err(|error| internal(error.to_string()))?
        .map_err(|error| match error {
            StoreError::Mismatch { .. } => Refusal::new(Code::BadRequest, error.to_string()),
            StoreError::Io { ref source, .. } if is_full(source) => {
                Refusal::new(Code::DiskFull, format!("{error}: {source}"))
            }
            StoreError::Io { .. } => {
                tracing::error!(%error, "a blob cannot be kept");
                internal(error.to_string())
            }
        })
}

/// Makes sure that a blob is here, fetching it from another member if need be.
///
/// # Errors
/// [`Code::NotFound`] when no member that answers has it.
pub async fn ensure(shared: &Arc<Shared>, id: BlobId) -> Result<(), Refusal> {
    if shared.blobs.has(&id) {
        return Ok(());
    }
    for member in shared.peers.ids() {
        match fetch(shared, member, id).await {
            Ok(()) => return Ok(()),
            Err(reason) => {
                tracing::debug!(%id, member, %reason, "this member did not give the blob")
            }
        }
    }
    Err(Refusal::new(
        Code::NotFound,
        format!("blob {id} is on no coordinator that answers; upload it again"),
    ))
}

async fn fetch(shared: &Arc<Shared>, member: MemberId, id: BlobId) -> Result<(), String> {
    let lease = shared
        .peers
        .channel(member)
        .map_err(|error| error.to_string())?;
    let text = |status: Status| status.message().to_owned();
    let request = FetchBlobRequest { id: id.to_string() };
    let mut client = PeerClient::new(lease.channel.clone());
    let answer = tokio::time::timeout(ASK_DEADLINE, client.fetch_blob(request))
        .await
        .map_err(|_| "it does not answer".to_owned())?;
    let mut chunks = answer.map_err(text)?.into_inner();
    let mut receiving = Receiving::begin(shared, id)
        .await
        .map_err(|refusal| refusal.message)?;
    while let Some(chunk) = chunks.next().await {
        receiving
            .write(chunk.map_err(text)?.data)
            .await
            .map_err(|refusal| refusal.message)?;
    }
    receiving.commit().await.map_err(|refusal| refusal.message)
}

/// A code manifest, from wherever it is.
///
/// # Errors
/// [`Code::BadRequest`] naming it when it is nowhere or is no manifest.
pub async fn manifest(shared: &Arc<Shared>, id: BlobId) -> Result<Manifest, Refusal> {
    let bad = |why: String| Refusal::new(Code::BadRequest, format!("code manifest {id}: {why}"));
    ensure(shared, id)
        .await
        .map_err(|refusal| bad(refusal.message))?;
    let store = shared.blobs.clone();
    let length = std::fs::metadata(store.path(&id)).map_or(0, |about| about.len());
    if length > MANIFEST_BYTES_MAX {
        return Err(bad(format!(
            "it has {length} bytes; at most {MANIFEST_BYTES_MAX}"
        )));
    }
    let bytes = blocking(move || store.read(&id)).await?;
    Manifest::decode(&bytes).map_err(|error| bad(error.to_string()))
}

/// Whether there is no room left; that is said by whoever measures the disk.
pub fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn internal(why: String) -> Refusal {
    Refusal::new(Code::Internal, why)
}
