//! Every holder of a part reads it again from its disk, because a person asks. What one finds damaged it holds no more, and the leader has another
//! copy made. Whoever asks owns the job or is an admin. Does NOT read anything here.
use std::sync::Arc;
use std::time::Duration;

use mlctl_blobs::BlobId;
use mlctl_blobs::transfer::Peer;
use mlctl_proto::api::{VerifiedCopy, VerifyPartRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::auth::Person;
use super::checkpoint_parts::{Named, peers, wanted};
use super::jobs_read::parse;
use super::{Answers, shown};
use crate::downloads::DownloadError;
use crate::shared::{CallError, Shared};

/// Answers that may wait for one reader.
const WAITING: usize = 16;
/// A reader that waits is told so.
const EVERY: Duration = Duration::from_secs(5);

type Found = mpsc::Sender<Result<VerifiedCopy, Status>>;

/// Serves the call on the leader.
pub async fn open(
    shared: &Arc<Shared>,
    person: &Person,
    request: VerifyPartRequest,
) -> Result<Answers<VerifiedCopy>, CallError> {
    let job = parse(&request.job)?;
    shared.read().await?;
    let state = shown::state_with(shared, job).await?;
    let named = Named {
        attempt: request.attempt,
        name: &request.name,
        index: request.index,
        manifest: &request.manifest,
    };
    let wanted = wanted(&state, person, job, &named)?;
    let connected = peers(shared, &wanted).await?;
    let (found, answers) = mpsc::channel(WAITING);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        for node in wanted.holders {
            if connected.iter().any(|peer| peer.node == node) {
                continue;
            }
            let error = "it is not connected".to_owned();
            let answer = VerifiedCopy {
                node,
                error,
                ..VerifiedCopy::default()
            };
            if found.send(Ok(answer)).await.is_err() {
                return;
            }
        }
        ask(&shared, wanted.id, connected, &found).await;
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

/// All at once; ends early when nobody listens any more.
async fn ask(shared: &Arc<Shared>, id: BlobId, holders: Vec<Peer>, found: &Found) {
    let mut asking = JoinSet::new();
    for peer in holders {
        let shared = Arc::clone(shared);
        asking.spawn(async move {
            let verified = shared.downloads.verify(id, &peer).await;
            let refused = DownloadError::is_refusal;
            VerifiedCopy {
                node: peer.node,
                good: verified.is_ok(),
                asked: verified.as_ref().err().is_none_or(refused),
                error: verified
                    .err()
                    .map_or_else(String::new, |error| error.to_string()),
            }
        });
    }
    loop {
        let answer = tokio::select! {
            done = asking.join_next() => match done {
                Some(Ok(answer)) => answer,
                // It was dropped, or died: the others go on.
                Some(Err(_)) => continue,
                None => return,
            },
            () = tokio::time::sleep(EVERY) => VerifiedCopy::default(),
            () = found.closed() => return,
            () = shared.shutdown.wait() => return,
        };
        if found.send(Ok(answer)).await.is_err() {
            return;
        }
    }
}
