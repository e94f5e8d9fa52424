//! The checkpoints that others are sending to this node right now: one sender for each, and which lanes are theirs.
//! Does NOT receive anything.
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::error::LinkError;
use super::link::Link;
use super::protocol::Refusal;
use crate::BlobId;

/// A sender that comes again, because it was killed before, waits so long for what it had begun to end.
const TAKE_OVER: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct Sessions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    next: u64,
    running: BTreeMap<BlobId, Running>,
}

struct Running {
    token: u64,
    node: String,
    stop: watch::Sender<bool>,
    /// Lanes that may still join.
    lanes: u8,
    joins: mpsc::Sender<Link>,
}

/// One of them, until it is dropped.
pub(super) struct Session<'a> {
    sessions: &'a Sessions,
    id: BlobId,
    pub(super) token: u64,
    /// Lanes that have joined.
    pub(super) joins: mpsc::Receiver<Link>,
    /// True when the same sender has come again.
    pub(super) stop: watch::Receiver<bool>,
}

impl Sessions {
    /// Begins one. The same node that comes again takes over; another one has to wait until the first is done.
    pub(super) async fn begin(&self, id: BlobId, node: &str) -> Result<Session<'_>, LinkError> {
        let busy = |text| Err(LinkError::refused(Refusal::Busy, text));
        let begun = tokio::time::Instant::now();
        loop {
            {
                let mut inner = self.lock();
                match inner.running.get(&id) {
                    None => return Ok(self.insert(&mut inner, id, node)),
                    Some(other) if other.node != node => {
                        return busy("another node is sending this checkpoint");
                    }
                    Some(older) => older.stop.send_replace(true),
                };
            }
            if begun.elapsed() > TAKE_OVER {
                return busy("what this node sent before is still being looked at; come again");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn insert(&self, inner: &mut Inner, id: BlobId, node: &str) -> Session<'_> {
        inner.next += 1;
        let token = inner.next;
        let (stop, stopped) = watch::channel(false);
        let (joins, joined) = mpsc::channel(usize::from(super::protocol::LANES_MAX));
        let running = Running {
            token,
            node: node.to_owned(),
            stop,
            lanes: 0,
            joins,
        };
        inner.running.insert(id, running);
        Session {
            sessions: self,
            id,
            token,
            joins: joined,
            stop: stopped,
        }
    }

    /// Hands a lane to its transfer. Gives it back when there is none for it.
    pub(super) fn join(&self, token: u64, link: Link) -> Result<(), Link> {
        let mut inner = self.lock();
        let found = inner.running.values_mut();
        let found = found
            .filter(|running| running.token == token && running.node == link.node)
            .find(|running| running.lanes > 0);
        match found {
            Some(running) => {
                running.lanes -= 1;
                running.joins.try_send(link).map_err(|e| e.into_inner())
            }
            None => Err(link),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session<'_> {
    /// So many lanes may join.
    pub(super) fn admit(&self, lanes: u8) {
        if let Some(running) = self.sessions.lock().running.get_mut(&self.id) {
            running.lanes = lanes;
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.sessions.lock().running.remove(&self.id);
    }
}
