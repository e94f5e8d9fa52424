//! Bytes of a checkpoint for a person: the leader knows who holds a part and where, fetches it from there, and streams what is wanted of it.
//! Whoever wants bytes owns the job or is an admin.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{Bits, HOLE, Manifest, Reader};
use mlctl_blobs::transfer::Peer;
use mlctl_proto::api::{GetPartRequest, PartPiece};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{JobId, clip};
use mlctl_proto::units::bytes_text;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::auth::Person;
use super::jobs_read::{not_found, parse};
use super::{Answers, shown};
use crate::downloads::Fetched;
use crate::leader::Input;
use crate::leader::copies::DataPeer;
use crate::shared::{CallError, Shared};
use crate::state::State;
use crate::state::records::{Checkpoint, Part};

/// Bytes of one piece: several fit into what may wait for one reader.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that may wait for one reader.
const PIECES: usize = 4;
/// A reader that waits is told so.
const EVERY: Duration = Duration::from_secs(5);

type Pieces = mpsc::Sender<Result<PartPiece, Status>>;

/// What is wanted, and what it is.
pub(super) struct Wanted {
    pub(super) id: BlobId,
    bytes: u64,
    pub(super) holders: Vec<String>,
}

/// Which part somebody names.
pub(super) struct Named<'a> {
    pub(super) attempt: u64,
    pub(super) name: &'a str,
    pub(super) index: u32,
    /// Hexadecimal.
    pub(super) manifest: &'a str,
}

impl<'a> From<&'a GetPartRequest> for Named<'a> {
    fn from(request: &'a GetPartRequest) -> Self {
        Self {
            attempt: request.attempt,
            name: &request.name,
            index: request.index,
            manifest: &request.manifest,
        }
    }
}

/// Serves the call on the leader.
pub async fn open(
    shared: &Arc<Shared>,
    person: &Person,
    request: GetPartRequest,
) -> Result<Answers<PartPiece>, CallError> {
    let job = parse(&request.job)?;
    shared.read().await?;
    let state = shown::state_with(shared, job).await?;
    let wanted = wanted(&state, person, job, &(&request).into())?;
    room(shared, &wanted)?;
    let holders = peers(shared, &wanted).await?;
    if holders.is_empty() {
        return Err(nobody(&wanted).into());
    }
    let (pieces, answers) = mpsc::channel(PIECES);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if let Err(status) = serve(&shared, wanted.id, &holders, request.want, &pieces).await {
            // The reader may be gone already.
            let _ = pieces.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

/// The part that is named, if this person may have it.
pub(super) fn wanted(
    state: &State,
    person: &Person,
    id: JobId,
    which: &Named,
) -> Result<Wanted, Refusal> {
    let job = state.job(id).ok_or_else(|| not_found(id))?;
    if job.owner_id != person.actor.user_id && !person.actor.admin {
        let owner = clip(&job.owner_name);
        let why = format!("job {id} and its checkpoints belong to {owner}: ask them, or an admin");
        return Err(Refusal::new(Code::Denied, why));
    }
    let named = |one: &&Checkpoint| one.name == which.name && one.epoch.counter == which.attempt;
    let hex = |part: &Part| Some(BlobId::from_bytes(part.manifest?).to_string());
    let same =
        |part: &&Part| part.index == which.index && hex(part).as_deref() == Some(which.manifest);
    let mut parts = job
        .checkpoints
        .iter()
        .filter(named)
        .flat_map(|one| &one.parts);
    let gone = || {
        let (name, index) = (clip(which.name), which.index);
        let why = format!(
            "part {index} of checkpoint {name} of job {id} is not there any more: `mlctl checkpoint ls {id}` lists what is"
        );
        Refusal::new(Code::NotFound, why)
    };
    let part = parts.find(same).ok_or_else(gone)?;
    let manifest = part.manifest.ok_or_else(gone)?;
    Ok(Wanted {
        id: BlobId::from_bytes(manifest),
        bytes: part.bytes,
        holders: part.holders.clone(),
    })
}

fn nobody(wanted: &Wanted) -> Refusal {
    let why = match wanted.holders[..] {
        // It would not be known without that.
        [] => "no node has it: it is in the object store that the job's spec names, below `manifests/` and `chunks/`, and comes to a node when the job resumes from it".to_owned(),
        [..] => format!(
            "no node that has it is connected: {}; try again when one is",
            wanted.holders.join(", ")
        ),
    };
    Refusal::new(Code::Unavailable, why)
}

/// A part passes through this member's disk, which is wanted for the cluster first.
fn room(shared: &Shared, wanted: &Wanted) -> Result<(), Refusal> {
    let disk = shared.vitals.tight();
    let (free, spare) = (disk.free, disk.mark.saturating_mul(2));
    if wanted.bytes.saturating_add(spare) <= free {
        return Ok(());
    }
    let why = format!(
        "a part of {} does not fit on the disk of coordinator {}, which has {} free: fetch it from a node that has it ({}) instead",
        bytes_text(wanted.bytes),
        shared.config.name,
        bytes_text(free),
        wanted.holders.join(", ")
    );
    Err(Refusal::new(Code::DiskFull, why))
}

/// Where those that hold it and are connected give it.
pub(super) async fn peers(shared: &Shared, wanted: &Wanted) -> Result<Vec<Peer>, CallError> {
    let port = shared.leader.borrow().clone();
    let port = port.ok_or(CallError::Elsewhere)?;
    let (answer, answered) = oneshot::channel();
    let nodes = wanted.holders.clone();
    let asked = port.inputs.send(Input::Peers { nodes, answer }).await;
    asked.map_err(|_| CallError::Elsewhere)?;
    let known = answered.await.map_err(|_| CallError::Elsewhere)?;
    let mut peers = Vec::new();
    for DataPeer { node, address } in known {
        match tokio::net::lookup_host(&address).await {
            Ok(addresses) => peers.extend(addresses.take(1).map(|address| Peer {
                node: node.clone(),
                address,
            })),
            Err(error) => tracing::warn!(%node, %address, %error, "no address of a holder"),
        }
    }
    Ok(peers)
}

async fn serve(
    shared: &Arc<Shared>,
    id: BlobId,
    holders: &[Peer],
    want: Vec<u8>,
    pieces: &Pieces,
) -> Result<(), Status> {
    let fetched = {
        let fetch = shared.downloads.fetch(id, holders);
        tokio::pin!(fetch);
        loop {
            tokio::select! {
                fetched = &mut fetch => break fetched,
                () = tokio::time::sleep(EVERY) => {}
                () = pieces.closed() => return Ok(()),
                () = shared.shutdown.wait() => return Err(super::route::no_leader()),
            }
            // Nothing yet; who does not take even that has too many waiting.
            let _ = pieces.try_send(Ok(PartPiece::default()));
        }
    };
    let fetched = fetched.map_err(|error| {
        Status::from(Refusal::new(
            Code::Unavailable,
            format!("{error}; try again"),
        ))
    })?;
    let pieces = pieces.clone();
    let given = tokio::task::spawn_blocking(move || give(&fetched, &want, &pieces)).await;
    given.map_err(|error| Status::internal(error.to_string()))?
}

/// All of it, or what is wanted. `Ok` also when the reader has gone.
fn give(fetched: &Fetched, want: &[u8], pieces: &Pieces) -> Result<(), Status> {
    let broken = |error: &dyn std::fmt::Display| {
        Status::from(Refusal::new(
            Code::Unavailable,
            format!("{error}; try again"),
        ))
    };
    let mut reader = (fetched.store().reader(&fetched.id())).map_err(|error| broken(&error))?;
    let wanted: Vec<u32> = match want {
        [] => {
            let manifest = fetched.store().manifest_bytes(&fetched.id());
            let manifest = manifest.map_err(|error| broken(&error))?;
            if !send(pieces, 0, true, &manifest) {
                return Ok(());
            }
            distinct(reader.manifest())
        }
        bits => {
            let bits = Bits::from_bytes(bits, reader.manifest().chunks());
            let why = "the chunks that are wanted are not those of this part: remove what was begun, and begin anew";
            let bits = bits.ok_or_else(|| Status::from(Refusal::new(Code::BadRequest, why)))?;
            bits.iter().collect()
        }
    };
    give_chunks(&mut reader, &wanted, pieces).map_err(|error| broken(&error))
}

fn give_chunks(
    reader: &mut Reader,
    wanted: &[u32],
    pieces: &Pieces,
) -> Result<(), mlctl_blobs::checkpoint::CheckpointError> {
    let mut bytes = Vec::new();
    for chunk in wanted {
        reader.read(*chunk, &mut bytes)?;
        if !send(pieces, *chunk, false, &bytes) {
            return Ok(());
        }
    }
    Ok(())
}

/// Each chunk once, and no holes.
fn distinct(manifest: &Manifest) -> Vec<u32> {
    let mut seen = BTreeSet::from([HOLE]);
    let numbers = (0..manifest.chunks()).filter(|number| {
        let place = manifest.chunk(*number);
        let chunk = place.map(|(content, inside)| manifest.contents()[content].chunks[inside]);
        chunk.is_some_and(|chunk| seen.insert(chunk))
    });
    numbers.collect()
}

/// Sends bytes in pieces; false: nobody reads any more.
fn send(pieces: &Pieces, chunk: u32, manifest: bool, bytes: &[u8]) -> bool {
    let count = bytes.len().div_ceil(PIECE_BYTES);
    (bytes.chunks(PIECE_BYTES).enumerate()).all(|(at, data)| {
        let piece = PartPiece {
            chunk,
            manifest,
            data: data.to_vec(),
            last: at + 1 == count,
        };
        pieces.blocking_send(Ok(piece)).is_ok()
    })
}

#[cfg(test)]
#[path = "checkpoint_parts_tests.rs"]
mod tests;
