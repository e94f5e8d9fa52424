//! Logs: which attempts are shown and in what order, as a stream of lines and notes. Reading one attempt is `tail`'s.
//!
//! The leader has what agents push; what an earlier leader was given is fetched from the members that have it.
use std::sync::Arc;

use mlctl_proto::api::{LogLine, LogsRequest};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::tail::{self, Tail};
use super::{ANSWERS, Answers, jobs_read, shown};
use crate::shared::{CallError, Shared};
use crate::state::State;
use crate::state::records::{Attempt, Job};

pub(super) type Lines = mpsc::Sender<Result<LogLine, Status>>;

/// Serves the call on the leader.
pub async fn open(
    shared: &Arc<Shared>,
    request: LogsRequest,
) -> Result<Answers<LogLine>, CallError> {
    let id = jobs_read::parse(&request.job)?;
    shared.read().await?;
    let state = shown::state_with(shared, id).await?;
    let job = state.job(id).ok_or_else(|| jobs_read::not_found(id))?;
    check(&state, job, &request)?;
    let (lines, answers) = mpsc::channel(ANSWERS);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if let Err(Some(status)) = show(&shared, id, &request, &lines).await {
            // The reader may be gone already.
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
        None => state.most_ranks(job),
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
            let tail = Tail::new(shared, id, epoch, rank, request.many);
            if request.dumps {
                tail.dumps(lines).await?;
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
