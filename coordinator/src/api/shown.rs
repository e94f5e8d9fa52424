//! Jobs as the services show them, wherever they are: a live one in the newest state, one that left it put back into a copy.
//!
//! History that is not on this member is fetched first, for as long as a caller may be kept waiting.
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::JobId;

use super::jobs_read::not_found;
use crate::shared::Shared;
use crate::state::State;
use crate::store::history::{Found, HistoryError, Page};
use crate::store::segments::SegmentError;

/// A caller is kept waiting for a segment from another member at most so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// A state in which `id` is: the newest one, or a copy with the archived job in it.
///
/// # Errors
/// There never was such a job, or the history that holds it is not here yet.
pub async fn state_with(shared: &Arc<Shared>, id: JobId) -> Result<Arc<State>, Refusal> {
    let state = shared.state();
    if state.job(id).is_some() {
        return Ok(state);
    }
    if !state.is_archived(id) {
        return Err(not_found(id));
    }
    with_archived(shared, state, vec![id]).await
}

/// A copy of `state` with these archived jobs in it.
///
/// # Errors
/// The history that holds one of them is not here yet.
pub async fn with_archived(
    shared: &Arc<Shared>,
    state: Arc<State>,
    ids: Vec<JobId>,
) -> Result<Arc<State>, Refusal> {
    if ids.is_empty() {
        return Ok(state);
    }
    let mut found = Vec::new();
    for id in ids {
        let look = move |shared: &Shared, state: &State| shared.history.find(state, id);
        let one = read(shared, &state, look).await?;
        found.push(one.ok_or_else(|| not_found(id))?);
    }
    put_back(&state, found).map(Arc::new)
}

/// A page of archived jobs, and a copy of `state` in which they are.
///
/// # Errors
/// The history that may hold some of them is not here yet.
pub async fn page(
    shared: &Arc<Shared>,
    state: &Arc<State>,
    after: Option<JobId>,
    owner: String,
    limit: usize,
) -> Result<(State, Vec<JobId>), Refusal> {
    let look = move |shared: &Shared, state: &State| {
        let page = Page {
            after,
            owner: &owner,
            limit,
        };
        shared.history.page(state, page)
    };
    let found = read(shared, state, look).await?;
    let ids = found.iter().map(|one| one.0.job.id).collect();
    Ok((put_back(state, found)?, ids))
}

fn put_back(state: &State, found: Vec<Found>) -> Result<State, Refusal> {
    let unreadable = |error| Refusal::new(Code::Internal, format!("history: {error}"));
    state.with_archived(found).map_err(unreadable)
}

/// Reads history on a thread that may block; what is lacking is waited for.
async fn read<T, F>(shared: &Arc<Shared>, state: &Arc<State>, look: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: Fn(&Shared, &State) -> Result<T, HistoryError> + Clone + Send + 'static,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // Before the look: what comes in between is not missed.
        let came = shared.history.segments.came();
        tokio::pin!(came);
        came.as_mut().enable();
        let (shared_too, state, look) = (Arc::clone(shared), Arc::clone(state), look.clone());
        let read = tokio::task::spawn_blocking(move || look(&shared_too, &state)).await;
        let failed = |error: String| Refusal::new(Code::Internal, error);
        match read.map_err(|error| failed(error.to_string()))? {
            Ok(found) => return Ok(found),
            Err(HistoryError::Segment(error @ SegmentError::Lacking { .. })) => {
                shared.history.segments.look_again();
                if tokio::time::timeout_at(deadline, came).await.is_err() {
                    let why = format!("{error}; try again in a moment");
                    return Err(Refusal::new(Code::Unavailable, why));
                }
            }
            Err(error) => {
                tracing::error!(%error, "history cannot be read");
                return Err(failed(error.to_string()));
            }
        }
    }
}
