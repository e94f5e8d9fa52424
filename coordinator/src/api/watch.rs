//! Watch: changes from an index on, woken by what is applied, with a heartbeat so that a dead stream shows.
//!
//! A watcher that does not read is dropped with an error; nothing waits for it and nothing is kept for it.
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::api::{Change, WatchEvent, WatchRequest};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::JobId;
use mlctl_proto::limits::MESSAGE_BYTES_MAX;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert;
use super::{ANSWERS, Answers, jobs_read, shown};
use crate::published::Changes;
use crate::shared::{CallError, Shared};
use crate::state::{Changed, State};

const HEARTBEAT: Duration = Duration::from_secs(2);
/// A watcher that takes nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);
/// Jobs that one watch may name.
const JOBS_MAX: usize = 10_000;
/// Changes in one event, bytes.
const EVENT_BYTES: usize = MESSAGE_BYTES_MAX / 2;

/// Serves the call on the leader.
pub async fn open(
    shared: &Arc<Shared>,
    request: WatchRequest,
) -> Result<Answers<WatchEvent>, CallError> {
    if request.jobs.len() > JOBS_MAX {
        let why = format!("a watch names at most {JOBS_MAX} jobs; name none to watch all");
        return Err(Refusal::new(Code::BadRequest, why).into());
    }
    let jobs: Result<Vec<JobId>, Refusal> =
        request.jobs.iter().map(|id| jobs_read::parse(id)).collect();
    let mut jobs = jobs?;
    jobs.sort_unstable();
    let now = shared.read().await?;
    let from = match request.from_index {
        0 => now,
        from => from,
    };
    // Told at once: the client lists again instead of waiting for an event that explains it.
    shared
        .published
        .changes_since(from)
        .map_err(|gone| compacted(gone.floor))?;
    let (events, answers) = mpsc::channel(ANSWERS);
    let watcher = Watcher {
        shared: Arc::clone(shared),
        jobs,
        seen: from,
        events,
    };
    tokio::spawn(watcher.run());
    Ok(Box::pin(ReceiverStream::new(answers)))
}

fn compacted(floor: u64) -> Refusal {
    let why = format!(
        "changes up to index {floor} are not kept any more; list again and watch from there"
    );
    Refusal::new(Code::Compacted, why)
}

struct Watcher {
    shared: Arc<Shared>,
    jobs: Vec<JobId>,
    seen: u64,
    events: mpsc::Sender<Result<WatchEvent, Status>>,
}

impl Watcher {
    async fn run(mut self) {
        let mut applied = self.shared.published.applied();
        let mut leading = self.shared.published.leading();
        let mut quiet_since: Option<Instant> = None;
        loop {
            applied.borrow_and_update();
            let sent = self.news(quiet_since.is_none()).await;
            match sent {
                Ok(true) => quiet_since = Some(Instant::now()),
                Ok(false) => {}
                Err(Some(status)) => {
                    // The watcher may be gone already.
                    let _ = self.events.try_send(Err(status));
                    return;
                }
                Err(None) => return,
            }
            if leading.borrow().is_none() || self.shared.shutdown.is_triggered() {
                let status = Refusal::new(
                    Code::Unavailable,
                    "this coordinator leads no more; watch again from the last index",
                );
                let _ = self.events.try_send(Err(status.into()));
                return;
            }
            let beat = quiet_since.unwrap_or_else(Instant::now) + HEARTBEAT;
            tokio::select! {
                _ = applied.changed() => {}
                _ = leading.changed() => {}
                () = tokio::time::sleep_until(beat) => quiet_since = None,
                () = self.events.closed() => return,
                () = self.shared.shutdown.wait() => {}
            }
        }
    }

    /// Sends what changed; an event without changes if `beat` asks for one. Whether something was sent.
    async fn news(&mut self, beat: bool) -> Result<bool, Option<Status>> {
        let changes = self.shared.published.changes_since(self.seen);
        let changes = changes.map_err(|gone| Some(compacted(gone.floor).into()))?;
        let state = self.state_for(&changes).await?;
        let events = self.events_of(&state, &changes);
        self.seen = changes.index;
        let none = events.is_empty();
        for event in events {
            self.send(event).await?;
        }
        if none && beat {
            let event = WatchEvent {
                index: self.seen,
                changes: Vec::new(),
            };
            self.send(event).await?;
        }
        Ok(!none || beat)
    }

    /// A state that has every job that changed: one may have left the tables since.
    async fn state_for(&self, changes: &Changes) -> Result<Arc<State>, Option<Status>> {
        let state = self.shared.state();
        let left = changes.changed.iter().filter_map(|changed| match changed {
            Changed::Job(id) if self.wants(*id) && state.is_archived(*id) => Some(*id),
            _ => None,
        });
        let left: Vec<JobId> = left.collect();
        let shown = shown::with_archived(&self.shared, state, left).await;
        shown.map_err(|refusal| Some(refusal.into()))
    }

    fn wants(&self, id: JobId) -> bool {
        self.jobs.is_empty() || self.jobs.binary_search(&id).is_ok()
    }

    async fn send(&self, event: WatchEvent) -> Result<(), Option<Status>> {
        let slow = || {
            let why =
                "the watcher reads too slowly and was dropped; watch again from the last index";
            Status::from(Refusal::new(Code::Overloaded, why))
        };
        match self.events.send_timeout(Ok(event), PATIENCE).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Some(slow())),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(None),
        }
    }

    /// The changes as events that fit into a message. Only the last carries the index: what came before it is not complete.
    fn events_of(&self, state: &State, changes: &Changes) -> Vec<WatchEvent> {
        let reasons = self.shared.published.explanations();
        let now_ms = self.shared.clock.now_ms();
        let shown = changes.changed.iter().filter_map(|changed| match changed {
            Changed::Job(id) if self.wants(*id) => Some(Change {
                kind: "job".to_owned(),
                id: id.to_string(),
                job: Some(convert::job::job(state, state.job(*id)?, &reasons, now_ms)),
                node: None,
            }),
            Changed::Node(name) if self.jobs.is_empty() => Some(Change {
                kind: "node".to_owned(),
                id: name.clone(),
                job: None,
                node: Some(convert::node::node(state, state.node(name)?)),
            }),
            Changed::Job(_) | Changed::Node(_) => None,
        });
        let mut events: Vec<WatchEvent> = Vec::new();
        let mut bytes = EVENT_BYTES;
        for change in shown {
            bytes += change.encoded_len();
            if bytes > EVENT_BYTES {
                bytes = change.encoded_len();
                events.push(WatchEvent {
                    index: self.seen,
                    changes: Vec::new(),
                });
            }
            if let Some(event) = events.last_mut() {
                event.changes.push(change);
            }
        }
        if let Some(event) = events.last_mut() {
            event.index = changes.index;
        }
        events
    }
}
