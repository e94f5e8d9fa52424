//! Logs: which attempts are shown and in what order, as a stream of lines and notes. Reading one attempt is `tail`'s.
//!
//! The leader has what agents push. What an earlier leader was given of an ended job lies with that member and is
//! asked for there.
use std::sync::Arc;

use futures::StreamExt;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{LogLine, LogsRequest};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::auth::Person;
use super::tail::{self, Tail};
use super::{ANSWERS, Answers, jobs_read, shown};
use crate::shared::{CallError, Shared};
use crate::state::State;
use crate::state::records::{Attempt, Job};

/// A coordinator asks another for the copies that it has, and nothing more.
const COPIES: &str = "mlctl-copies";

pub(super) type Lines = mpsc::Sender<Result<LogLine, Status>>;

/// Whether only this member's own copies are asked for.
pub fn wants_copies(person: &Person, metadata: &MetadataMap) -> bool {
    person.forwarded && metadata.contains_key(COPIES)
}

/// Serves the call on the leader.
pub async fn open(
    shared: &Arc<Shared>,
    person: &Person,
    request: LogsRequest,
) -> Result<Answers<LogLine>, CallError> {
    let id = jobs_read::parse(&request.job)?;
    shared.read().await?;
    let state = shown::state_with(shared, id).await?;
    let job = state.job(id).ok_or_else(|| jobs_read::not_found(id))?;
    check(&state, job, &request)?;
    let (lines, answers) = mpsc::channel(ANSWERS);
    let shared = Arc::clone(shared);
    let person = person.clone();
    tokio::spawn(async move {
        if let Err(Some(status)) = show(&shared, &person, id, &request, &lines).await {
            // The reader may be gone already.
            let _ = lines.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

/// What this member has stored of one attempt, without waiting for more.
///
/// # Errors
/// When the request names no job.
pub async fn copies(
    shared: &Arc<Shared>,
    request: LogsRequest,
) -> Result<Answers<LogLine>, Status> {
    let id = jobs_read::parse(&request.job)?;
    let (lines, answers) = mpsc::channel(ANSWERS);
    let epoch = Epoch::new(id.incarnation, request.attempt.max(1));
    // This member may not have heard of the job: its copies are shown all the same.
    let state = shown::state_with(shared, id).await;
    let state = state.unwrap_or_else(|_| shared.state());
    let rank = request.rank.map(|rank| tail::log_of(&state, id, rank));
    let tail = Tail::new(shared, id, epoch, rank);
    tokio::spawn(async move {
        if let Err(Some(status)) = tail.stored(&lines).await {
            let _ = lines.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

fn check(state: &State, job: &Job, request: &LogsRequest) -> Result<(), Refusal> {
    let bad = |why: String| Err(Refusal::new(Code::BadRequest, why));
    if let (Some(array), Some(index)) = (&job.array, request.rank)
        && !array.tasks.contains(index)
    {
        let tasks = &array.tasks;
        return bad(format!(
            "job {} has no task {index}; its tasks are {tasks}",
            job.id
        ));
    }
    let ranks = match job.array {
        Some(_) => u32::MAX,
        None => state.request(job).map_or(0, |request| request.world_size()),
    };
    if let Some(rank) = request.rank.filter(|rank| *rank >= ranks) {
        return bad(format!(
            "job {} has no rank {rank}; its ranks are 0 to {}",
            job.id,
            ranks.saturating_sub(1)
        ));
    }
    if request.attempt > job.epoch_counter {
        return bad(format!(
            "job {} has no attempt {}; it has had {}",
            job.id, request.attempt, job.epoch_counter
        ));
    }
    Ok(())
}

/// Every attempt that was asked for. `Err(None)`: the reader is gone.
async fn show(
    shared: &Arc<Shared>,
    person: &Person,
    id: JobId,
    request: &LogsRequest,
    lines: &Lines,
) -> Result<(), Option<Status>> {
    let first = |job: &Job| match (request.attempt, request.all_attempts) {
        (0, true) => 1,
        // Every task has its log, whichever wave it ran in.
        (0, false) if job.array.is_some() => 1,
        (0, false) => job.epoch_counter.max(1),
        (number, _) => number,
    };
    let mut applied = shared.published.applied();
    let mut next = shown(shared, id).await?.job(id).map_or(1, |job| first(job));
    loop {
        applied.borrow_and_update();
        let state = shown(shared, id).await?;
        let Some(job) = state.job(id) else {
            return Ok(());
        };
        let epoch = Epoch::new(id.incarnation, next);
        if let Some(attempt) = state.attempt(id, epoch) {
            let other = |index| {
                !attempt
                    .wave
                    .as_ref()
                    .is_none_or(|wave| wave.tasks.contains(index))
            };
            if request.rank.is_some_and(other) {
                next += 1;
                continue;
            }
            if next > 1 && attempt.wave.is_none() {
                tail::note(shared, lines, next, title(&state, id, attempt)).await?;
            }
            let rank = request.rank.map(|rank| tail::log_of(&state, id, rank));
            let tail = Tail::new(shared, id, epoch, rank);
            if job.state.terminal()
                && tail.incomplete().await?
                && elsewhere(shared, person, request, epoch, lines).await?
            {
                tracing::debug!(job = %id, %epoch, "shown from another coordinator's copies");
            } else {
                tail.run(request.follow, lines).await?;
            }
            next += 1;
            let only_one = request.attempt != 0 && !request.all_attempts;
            if only_one {
                return Ok(());
            }
            continue;
        }
        if job.state.terminal() || !request.follow {
            return Ok(());
        }
        tokio::select! {
            _ = applied.changed() => {}
            () = lines.closed() => return Err(None),
            () = tail::deposed(shared) => return Err(Some(tail::moved())),
        }
    }
}

async fn shown(shared: &Arc<Shared>, id: JobId) -> Result<Arc<State>, Option<Status>> {
    let state = shown::state_with(shared, id).await;
    state.map_err(|refusal| Some(refusal.into()))
}

/// `attempt 2 (attempt 1: NodeLost dev-1)`.
fn title(state: &State, job: JobId, attempt: &Attempt) -> String {
    let number = attempt.epoch.counter;
    let before = state.attempt(job, Epoch::new(attempt.epoch.incarnation, number - 1));
    match before.and_then(|before| before.end.as_ref()) {
        Some(end) if end.node.is_empty() => format!(
            "attempt {number} (attempt {}: {})",
            number - 1,
            end.kind.word()
        ),
        Some(end) => format!(
            "attempt {number} (attempt {}: {} {})",
            number - 1,
            end.kind.word(),
            end.node
        ),
        None => format!("attempt {number}"),
    }
}

/// Passes on the copies of the first other member that has any of an attempt. Whether one had.
async fn elsewhere(
    shared: &Arc<Shared>,
    person: &Person,
    request: &LogsRequest,
    epoch: Epoch,
    lines: &Lines,
) -> Result<bool, Option<Status>> {
    for member in shared.peers.ids() {
        let Ok(lease) = shared.peers.channel(member) else {
            continue;
        };
        let mut asked = Request::new(LogsRequest {
            attempt: epoch.counter,
            follow: false,
            all_attempts: false,
            ..request.clone()
        });
        person.put(asked.metadata_mut())?;
        asked.metadata_mut().insert(
            COPIES,
            tonic::metadata::AsciiMetadataValue::from_static("1"),
        );
        let answer = tokio::time::timeout(
            tail::GRACE,
            JobsClient::new(lease.channel.clone()).logs(asked),
        )
        .await;
        let Ok(Ok(answer)) = answer else { continue };
        let mut copies = answer.into_inner();
        let mut any = false;
        while let Some(Ok(line)) = copies.next().await {
            any = true;
            lines.send(Ok(line)).await.map_err(|_| None)?;
        }
        if any {
            return Ok(true);
        }
    }
    Ok(false)
}
