//! The `Peer` service: Raft messages, snapshots and blobs for other members. Raft bytes are not looked into.
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use mlctl_blobs::BlobId;
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::BLOB_CHUNK_BYTES;
use mlctl_proto::peer::{
    BlobPart, BlobStored, FetchBlobRequest, FetchLogsRequest, FetchSegmentRequest, HasBlobsReply,
    HasBlobsRequest, JoinReply, JoinRequest, ListLogsRequest, LogCopy, LogNames, LogsKept,
    PullSnapshotRequest, RaftDone, RaftMessage, SnapshotChunk, VitalsReply, VitalsRequest,
    peer_server,
};
use tonic::{Request, Response, Status, Streaming};

use super::Answers;
use super::auth::coordinator;
use super::blobs::parse;
use super::exchange::{self, Receiving};
use super::keeping;
use crate::members::admit::admit;
use crate::members::roster;
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
    /// Hands a coordinator's Raft messages to consensus until its stream ends. A stream is one member's.
    async fn take(&self, name: &str, mut messages: Streaming<RaftMessage>) -> Result<(), Status> {
        let mut sender: Option<Unheard<'_>> = None;
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = self.shared.shutdown.wait() => None,
            };
            let Some(message) = message else {
                return Ok(());
            };
            let message = message?;
            let from = message.from;
            let members = Arc::clone(&self.shared.raft.status().borrow().members);
            let known = roster::name_of(&members, from);
            let changed = sender.as_ref().is_some_and(|sender| sender.1 != from);
            if changed || known.is_some_and(|known| known != name) {
                let why = format!("{name} sent a raft message in the name of member {from}");
                return Err(Refusal::new(Code::Denied, why).into());
            }
            if members.was_removed(from) {
                let why = format!(
                    "member {from} was removed from the cluster; start {name} with --rejoin, and it joins again under a new member id"
                );
                return Err(Refusal::new(Code::Denied, why).into());
            }
            if sender.is_none() {
                self.shared.peers.learn(from, name);
                sender = Some(Unheard(&self.shared.peers, from));
            }
            self.shared.peers.heard(from);
            // A message that finds no room is lost, and raft sends it again.
            self.shared.raft.step(from, Bytes::from(message.message));
        }
    }
}

/// Says that a member's stream of Raft messages is over, however its call ends: dropped with its connection too.
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
        let name = coordinator(&request)?;
        self.take(&name, request.into_inner()).await?;
        Ok(Response::new(RaftDone {}))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let name = coordinator(&request)?;
        let reply = admit(&self.shared, &name, &request.into_inner()).await?;
        Ok(Response::new(reply))
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

    async fn keep_logs(
        &self,
        request: Request<Streaming<LogCopy>>,
    ) -> Result<Response<LogsKept>, Status> {
        coordinator(&request)?;
        keeping::take(&self.shared, request.into_inner(), None).await?;
        Ok(Response::new(LogsKept {}))
    }

    type ListLogsStream = Answers<LogNames>;

    async fn list_logs(
        &self,
        request: Request<ListLogsRequest>,
    ) -> Result<Response<Self::ListLogsStream>, Status> {
        coordinator(&request)?;
        let names = keeping::list(&self.shared, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream::iter(names).map(Ok))))
    }

    type FetchLogsStream = Answers<LogCopy>;

    async fn fetch_logs(
        &self,
        request: Request<FetchLogsRequest>,
    ) -> Result<Response<Self::FetchLogsStream>, Status> {
        coordinator(&request)?;
        let copies = keeping::give(&self.shared, request.into_inner()).await?;
        Ok(Response::new(Box::pin(copies)))
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
