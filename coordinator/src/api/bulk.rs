//! The `Bulk` service: logs of ranks come up, blobs go down. A node speaks only about its own allocations.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use mlctl_proto::agent::{BlobChunk, GetBlobRequest, LogPiece, LogStored, bulk_server};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::LOG_PIECE_BYTES_MAX;
use mlctl_proto::logs::DUMP;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::auth::node;
use super::blobs::parse;
use super::convert;
use super::exchange;
use super::{ANSWERS, Answers};
use crate::logs::{Key, LogError, Piece, RankLog};
use crate::shared::Shared;
use crate::state::State;
use crate::vitals::space::Room;

/// Logs that one stream keeps open.
const OPEN_MAX: usize = 256;
/// Between two tries to store a piece for which there is no room.
const ROOM_PAUSE: Duration = Duration::from_millis(500);

/// The service.
pub struct Bulk {
    shared: Arc<Shared>,
}

impl Bulk {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl bulk_server::Bulk for Bulk {
    type PushLogsStream = Answers<LogStored>;

    async fn push_logs(
        &self,
        request: Request<Streaming<LogPiece>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        let node = node(&request)?;
        let shared = Arc::clone(&self.shared);
        if shared.published.leading().borrow().is_none() {
            return Err(not_leading());
        }
        let pieces = request.into_inner();
        let (stored, answers) = mpsc::channel(ANSWERS);
        tokio::spawn(async move {
            if let Err(Some(status)) = take(&shared, &node, pieces, &stored).await {
                tracing::info!(%node, reason = status.message(), "the node's stream of logs was ended");
                // The agent may be gone already.
                let _ = stored.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    type GetBlobStream = Answers<BlobChunk>;

    async fn get_blob(
        &self,
        request: Request<GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        node(&request)?;
        let id = parse(&request.into_inner().id)?;
        exchange::ensure(&self.shared, id).await?;
        let chunks = exchange::read(&self.shared, id).map(|chunk| {
            Ok(BlobChunk {
                data: chunk?.into(),
            })
        });
        Ok(Response::new(Box::pin(chunks)))
    }
}

fn not_leading() -> Status {
    Refusal::new(
        Code::Unavailable,
        "this coordinator does not lead; push to the one that your link is with",
    )
    .into()
}

type Stored = mpsc::Sender<Result<LogStored, Status>>;

/// Stores pieces until the stream ends. `Err(None)`: the agent is gone.
async fn take(
    shared: &Arc<Shared>,
    node: &str,
    mut pieces: Streaming<LogPiece>,
    stored: &Stored,
) -> Result<(), Option<Status>> {
    let mut open: BTreeMap<Key, RankLog> = BTreeMap::new();
    let mut orphans = BTreeSet::new();
    let mut leading = shared.published.leading();
    let (mut kept, mut ended) = (shared.logs.hear_kept(), BTreeMap::new());
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => Ok(piece),
            keys = kept.recv() => Err(keys),
            _ = leading.wait_for(Option::is_none) => return Err(Some(not_leading())),
            () = shared.shutdown.wait() => return Ok(()),
        };
        let piece = match piece {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(()),
            Err(keys) => {
                // A node that missed some has to open its stream again, and then asks.
                let keys =
                    keys.map_err(|_| Some(Status::unavailable("too much was kept at once")))?;
                tell_kept(stored, &mut ended, &keys).await?;
                continue;
            }
        };
        // A broken stream is the agent's to mend: nobody is there to be told.
        let piece = piece.map_err(|_| None)?;
        let (job, epoch) =
            convert::agent::key(piece.job, piece.epoch).map_err(|refusal| Some(refusal.into()))?;
        let key = (job, epoch, piece.rank);
        if !check(&shared.state(), node, key, &piece)? {
            if orphans.insert((job, epoch)) {
                tracing::warn!(%node, %job, %epoch, "a log of an attempt that this cluster never knew is not kept");
            }
            // Taken and thrown away, so that it does not hold up the others.
            let offset = piece.offset + piece.frames.len() as u64;
            // Nobody will ever ask for it.
            tell(stored, key, offset, piece.end, piece.end).await?;
            continue;
        }
        let log = opened(shared, &mut open, key).await?;
        let piece = Arc::new(piece);
        let answer = loop {
            let (log, piece) = (log.clone(), Arc::clone(&piece));
            let has_room = shared.vitals.room() != Room::Short;
            if let Some(answer) = blocking(move || append(&log, &piece, has_room)).await? {
                break answer;
            }
            // The node keeps its file: nothing is lost, it only waits.
            tokio::select! {
                () = tokio::time::sleep(ROOM_PAUSE) => {}
                _ = leading.wait_for(Option::is_none) => return Err(Some(not_leading())),
                () = shared.shutdown.wait() => return Ok(()),
            }
        };
        tell(stored, key, answer.offset, answer.end, false).await?;
        if answer.end {
            open.remove(&key);
            ended.insert(key, answer.offset);
            if piece.probe {
                log.ask_kept();
            }
        }
    }
}

async fn opened(
    shared: &Arc<Shared>,
    open: &mut BTreeMap<Key, RankLog>,
    key: Key,
) -> Result<RankLog, Option<Status>> {
    if let Some(log) = open.get(&key) {
        return Ok(log.clone());
    }
    let logs = shared.logs.clone();
    let log = blocking(move || logs.open(key)).await?;
    if open.len() >= OPEN_MAX {
        open.clear();
    }
    open.insert(key, log.clone());
    Ok(log)
}

/// Tells the node that it need not keep those of `keys` that are its own.
async fn tell_kept(
    stored: &Stored,
    ended: &mut BTreeMap<Key, u64>,
    keys: &[Key],
) -> Result<(), Option<Status>> {
    for key in keys {
        if let Some(offset) = ended.remove(key) {
            tell(stored, *key, offset, true, true).await?;
        }
    }
    Ok(())
}

/// What is stored now; `None` when there is no room for the piece. Blocks on the disk.
fn append(
    log: &RankLog,
    piece: &LogPiece,
    has_room: bool,
) -> Result<Option<crate::logs::Stored>, LogError> {
    if piece.probe {
        return log.stored().map(Some);
    }
    if !has_room && !piece.frames.is_empty() {
        return Ok(None);
    }
    let what = Piece {
        offset: piece.offset,
        frames: &piece.frames,
        end: piece.end,
        dropped: piece.dropped,
        skip: piece.skip,
    };
    match log.append(what) {
        Ok(stored) => Ok(Some(stored)),
        Err(LogError::Io { source, .. }) if exchange::is_full(&source) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, Option<Status>> {
    let outcome = tokio::task::spawn_blocking(work).await;
    let outcome = outcome.map_err(|error| Some(Status::internal(error.to_string())))?;
    outcome.map_err(|error| {
        let code = match error {
            LogError::Damaged { .. } => Code::BadRequest,
            LogError::Io { .. } => Code::Internal,
        };
        Some(Refusal::new(code, error.to_string()).into())
    })
}

async fn tell(
    stored: &Stored,
    (job, epoch, rank): Key,
    offset: u64,
    end: bool,
    kept: bool,
) -> Result<(), Option<Status>> {
    let told = LogStored {
        job: Some(job.into()),
        epoch: Some(epoch.into()),
        rank,
        offset,
        end,
        kept,
    };
    stored.send(Ok(told)).await.map_err(|_| None)
}

/// Whether the cluster knows the attempt; an error if this node has no part in that rank.
fn check(
    state: &State,
    node: &str,
    (job, epoch, rank): Key,
    piece: &LogPiece,
) -> Result<bool, Status> {
    if piece.frames.len() > LOG_PIECE_BYTES_MAX {
        let why = format!(
            "a piece of a log has {} bytes; at most {LOG_PIECE_BYTES_MAX}",
            piece.frames.len()
        );
        return Err(Refusal::new(Code::LimitExceeded, why).into());
    }
    let Some(attempt) = state.attempt(job, epoch) else {
        return Ok(false);
    };
    let request = state.job(job).and_then(|job| state.request(job));
    // Ranks are numbered node by node.
    let ranks = request.map_or(1, |request| request.ranks.max(1));
    // Tasks by their index in the array.
    let part = match &attempt.wave {
        Some(wave) => attempt
            .allocations
            .first()
            .filter(|_| wave.tasks.contains(rank & !DUMP)),
        None => attempt.allocations.get(((rank & !DUMP) / ranks) as usize),
    };
    if part.is_none_or(|allocation| allocation.node != node) {
        let why = format!("{node} has no part in rank {rank} of attempt {epoch} of job {job}");
        return Err(Refusal::new(Code::Denied, why).into());
    }
    Ok(true)
}
