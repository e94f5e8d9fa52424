//! The `Peer` service: Raft messages, snapshots and blobs for other members. Raft bytes are not looked into.
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use mlctl_blobs::BlobId;
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::BLOB_CHUNK_BYTES;
use mlctl_proto::peer::{
    BlobPart, BlobStored, FetchBlobRequest, FetchSegmentRequest, HasBlobsReply, HasBlobsRequest,
    PullSnapshotRequest, RaftDone, RaftMessage, SnapshotChunk, VitalsReply, VitalsRequest,
    peer_server,
};
use tonic::{Request, Response, Status, Streaming};

use super::Answers;
use super::auth::coordinator;
use super::blobs::parse;
use super::exchange::{self, Receiving};
use crate::peers::Peers;
use crate::shared::Shared;
use crate::vitals;
use crate::vitals::admission::full;
use crate::vitals::space::Room;

/// The service.
pub struct Peer {
    shared: Arc<Shared>,
}

impl Peer {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Peer {
    /// Hands a member's Raft messages to consensus until its stream ends.
    async fn take(&self, member: u64, mut messages: Streaming<RaftMessage>) -> Result<(), Status> {
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = self.shared.shutdown.wait() => None,
            };
            let Some(message) = message else {
                return Ok(());
            };
            let message = message?;
            if message.from != member {
                let why = format!(
                    "member {member} sent a raft message in the name of {}",
                    message.from
                );
                return Err(Refusal::new(Code::Denied, why).into());
            }
            self.shared.peers.heard(member);
            // A message that finds no room is lost, and raft sends it again.
            self.shared.raft.step(member, Bytes::from(message.message));
        }
    }
}

/// Says that a member's stream of Raft messages is over.
struct Unheard<'a>(&'a Peers, u64);

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        self.0.unheard(self.1);
    }
}

#[tonic::async_trait]
impl peer_server::Peer for Peer {
    async fn raft(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<RaftDone>, Status> {
        let member = coordinator(&request)?;
        // However this call ends, dropped with its connection too.
        let _over = Unheard(&self.shared.peers, member);
        self.take(member, request.into_inner()).await?;
        Ok(Response::new(RaftDone {}))
    }

    type PullSnapshotStream = Answers<SnapshotChunk>;

    async fn pull_snapshot(
        &self,
        request: Request<PullSnapshotRequest>,
    ) -> Result<Response<Self::PullSnapshotStream>, Status> {
        coordinator(&request)?;
        let PullSnapshotRequest { index, digest } = request.into_inner();
        let wrong = |_| Refusal::new(Code::BadRequest, "a snapshot's digest has 32 bytes");
        let digest: [u8; 32] = digest.try_into().map_err(wrong)?;
        let raft = self.shared.raft.clone();
        let read = tokio::task::spawn_blocking(move || raft.read_snapshot(index, digest)).await;
        let bytes = read.map_err(|error| Status::internal(error.to_string()))?;
        let bytes = bytes.map_err(|error| Refusal::new(Code::NotFound, error.to_string()))?;
        Ok(Response::new(chunks(bytes)))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<BlobPart>>,
    ) -> Result<Response<BlobStored>, Status> {
        coordinator(&request)?;
        let mut parts = request.into_inner();
        let none = || Refusal::new(Code::BadRequest, "the copy names no blob");
        let first = parts.next().await.ok_or_else(none)??;
        let id = parse(&first.id)?;
        if self.shared.blobs.has(&id) {
            return Ok(Response::new(BlobStored {}));
        }
        if self.shared.vitals.room() != Room::Enough {
            return Err(full(&self.shared.vitals.tight(), "no copies are taken").into());
        }
        let mut receiving = Receiving::begin(&self.shared, id).await?;
        receiving.write(first.data).await?;
        while let Some(part) = parts.next().await {
            receiving.write(part?.data).await?;
        }
        receiving.commit().await?;
        Ok(Response::new(BlobStored {}))
    }

    async fn has_blobs(
        &self,
        request: Request<HasBlobsRequest>,
    ) -> Result<Response<HasBlobsReply>, Status> {
        coordinator(&request)?;
        let ids: Result<Vec<BlobId>, Refusal> = request
            .into_inner()
            .ids
            .iter()
            .map(|id| parse(id))
            .collect();
        let (ids, store) = (ids?, self.shared.blobs.clone());
        let look = move || {
            ids.iter()
                .filter(|id| !store.has(id))
                .map(ToString::to_string)
                .collect()
        };
        let missing = tokio::task::spawn_blocking(look).await;
        let missing = missing.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(HasBlobsReply { missing }))
    }

    async fn vitals(
        &self,
        request: Request<VitalsRequest>,
    ) -> Result<Response<VitalsReply>, Status> {
        coordinator(&request)?;
        Ok(Response::new(vitals::reply(&self.shared)))
    }

    type FetchBlobStream = Answers<SnapshotChunk>;

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        coordinator(&request)?;
        let id = parse(&request.into_inner().id)?;
        if !self.shared.blobs.has(&id) {
            return Err(Refusal::new(Code::NotFound, format!("blob {id} is not here")).into());
        }
        let chunks =
            exchange::read(&self.shared, id).map(|chunk| Ok(SnapshotChunk { data: chunk? }));
        Ok(Response::new(Box::pin(chunks)))
    }

    type FetchSegmentStream = Answers<SnapshotChunk>;

    async fn fetch_segment(
        &self,
        request: Request<FetchSegmentRequest>,
    ) -> Result<Response<Self::FetchSegmentStream>, Status> {
        coordinator(&request)?;
        let wrong = |_| Refusal::new(Code::BadRequest, "a segment's hash has 32 bytes");
        let hash: [u8; 32] = request.into_inner().hash.try_into().map_err(wrong)?;
        let segments = Arc::clone(&self.shared.history.segments);
        let read = tokio::task::spawn_blocking(move || segments.for_peer(&hash)).await;
        let read = read.map_err(|error| Status::internal(error.to_string()))?;
        let bytes = read.map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
        let none = || Refusal::new(Code::NotFound, "this segment of history is not here");
        Ok(Response::new(chunks(bytes.ok_or_else(none)?)))
    }
}

/// A file as a stream.
fn chunks(bytes: Vec<u8>) -> Answers<SnapshotChunk> {
    let bytes = Bytes::from(bytes);
    let starts = (0..bytes.len()).step_by(BLOB_CHUNK_BYTES);
    Box::pin(stream::iter(starts.map(move |at| {
        let end = bytes.len().min(at + BLOB_CHUNK_BYTES);
        Ok(SnapshotChunk {
            data: bytes.slice(at..end).to_vec(),
        })
    })))
}
