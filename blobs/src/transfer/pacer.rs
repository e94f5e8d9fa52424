//! Applies a rate to what is sent: the clock and the waiting around `pace`. One for all transfers of a node.
//! Does NOT look at training: whoever does calls [`Pacer::report`].
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pace::{Bucket, Rate};

/// Shared by all senders of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pacer {
    begun: Instant,
    bucket: Arc<Mutex<Bucket>>,
}

impl Pacer {
    /// A pacer with this rate.
    pub fn new(rate: Rate) -> Self {
        Self {
            begun: Instant::now(),
            bucket: Arc::new(Mutex::new(Bucket::new(rate, 0))),
        }
    }

    /// Whether training suffers right now; for [`Rate::Auto`], to be said at each of its steps or every few seconds.
    pub fn report(&self, busy: bool) {
        let now = self.now_ms();
        self.bucket().report(busy, now);
    }

    /// Another rate from now on.
    pub fn set(&self, rate: Rate) {
        let now = self.now_ms();
        *self.bucket() = Bucket::new(rate, now);
    }

    /// Bytes a second that count now; `None` is no limit.
    pub fn rate(&self) -> Option<u64> {
        let now = self.now_ms();
        self.bucket().rate(now)
    }

    /// Waits until `bytes` may be sent.
    pub(crate) async fn take(&self, bytes: usize) {
        let now = self.now_ms();
        let wait_ms = self.bucket().take(bytes as u64, now);
        if wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        // Its numbers are right after every step.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
