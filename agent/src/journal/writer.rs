//! The one thread that appends to the journal and syncs it: everything that came in during a sync goes out with the next one.
//! Does NOT retry: after a failed write or sync nothing more is confirmed, and the agent ends.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};

use super::{JournalError, file};
use crate::core::Record;
use crate::failpoint;

/// Orders that may wait for the thread.
const QUEUE: usize = 1_024;
/// A journal below this is not worth writing anew, bytes.
const LARGE: u64 = 8 * 1024 * 1024;

enum Order {
    Append {
        records: Vec<Record>,
        ticket: Option<u64>,
    },
    Rewrite {
        records: Vec<Record>,
    },
    Close {
        done: oneshot::Sender<()>,
    },
}

/// The handle of the writer. Dropping it ends the thread after what is queued.
#[derive(Debug)]
pub struct Journal {
    orders: mpsc::Sender<Order>,
    synced: watch::Receiver<u64>,
    large: watch::Receiver<bool>,
    failure: Option<oneshot::Receiver<JournalError>>,
    path: PathBuf,
}

impl Journal {
    /// Writes the journal of `dir` anew with `records` and starts the thread.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn start(dir: &Path, id: &str, records: &[Record]) -> Result<Self, JournalError> {
        let (file, bytes) = file::rewrite(dir, id, records)?;
        let path = file::path(dir);
        let (orders, queue) = mpsc::channel(QUEUE);
        let (synced_tx, synced) = watch::channel(0);
        let (large_tx, large) = watch::channel(false);
        let (failure_tx, failure) = oneshot::channel();
        let writer = Writer {
            dir: dir.to_owned(),
            id: id.to_owned(),
            file,
            bytes,
            floor: bytes,
            queue,
            synced: synced_tx,
            large: large_tx,
        };
        let spawned = thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                if let Err(error) = writer.run() {
                    // The receiver is gone only when the agent has ended already.
                    let _ = failure_tx.send(error);
                }
            });
        spawned.map_err(|source| JournalError {
            action: "start the thread of",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            orders,
            synced,
            large,
            failure: Some(failure),
            path,
        })
    }

    /// Appends; with a ticket it is synced and confirmed through [`Journal::synced`]. Waits only for this node's disk.
    ///
    /// # Errors
    /// When the journal has failed: the agent must end.
    pub async fn append(
        &mut self,
        records: Vec<Record>,
        ticket: Option<u64>,
    ) -> Result<(), JournalError> {
        self.order(Order::Append { records, ticket }).await
    }

    /// Replaces everything by `records`.
    ///
    /// # Errors
    /// When the journal has failed: the agent must end.
    pub async fn rewrite(&mut self, records: Vec<Record>) -> Result<(), JournalError> {
        self.order(Order::Rewrite { records }).await
    }

    /// Waits for the next confirmation and returns the highest ticket on disk.
    ///
    /// # Errors
    /// When the journal has failed: the agent must end.
    pub async fn synced(&mut self) -> Result<u64, JournalError> {
        match self.synced.changed().await {
            Ok(()) => Ok(*self.synced.borrow_and_update()),
            Err(_) => Err(self.failed().await),
        }
    }

    /// Has the file grown so much that it should be written anew?
    pub fn is_large(&self) -> bool {
        *self.large.borrow()
    }

    /// Syncs what is queued and ends the thread.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Close { done }).await.is_ok() {
            // An error means that the thread has ended, which is what is waited for.
            let _ = closed.await;
        }
    }

    async fn order(&mut self, order: Order) -> Result<(), JournalError> {
        match self.orders.send(order).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failed().await),
        }
    }

    async fn failed(&mut self) -> JournalError {
        let told = match self.failure.take() {
            Some(failure) => failure.await.ok(),
            None => None,
        };
        let ended = std::io::Error::other("its thread has ended");
        told.unwrap_or_else(|| JournalError {
            action: "write",
            path: self.path.clone(),
            source: ended,
        })
    }
}

struct Writer {
    dir: PathBuf,
    id: String,
    file: File,
    bytes: u64,
    /// Bytes after the last time it was written anew.
    floor: u64,
    queue: mpsc::Receiver<Order>,
    synced: watch::Sender<u64>,
    large: watch::Sender<bool>,
}

impl Writer {
    fn run(mut self) -> Result<(), JournalError> {
        let mut pending = Vec::new();
        let mut ticket = None;
        while let Some(order) = self.queue.blocking_recv() {
            let mut next = Some(order);
            let mut closing = None;
            // Everything that is there already goes out with one sync.
            while let Some(order) = next {
                match order {
                    Order::Append {
                        records,
                        ticket: confirm,
                    } => {
                        for record in &records {
                            file::append(record, &mut pending)
                                .map_err(|e| self.error("append to", e))?;
                        }
                        ticket = confirm.or(ticket);
                    }
                    Order::Rewrite { records } => {
                        self.flush(&mut pending, &mut ticket)?;
                        (self.file, self.bytes) = file::rewrite(&self.dir, &self.id, &records)?;
                        self.floor = self.bytes;
                        self.large.send_replace(false);
                    }
                    Order::Close { done } => closing = Some(done),
                }
                next = if closing.is_none() {
                    self.queue.try_recv().ok()
                } else {
                    None
                };
            }
            self.flush(&mut pending, &mut ticket)?;
            if let Some(done) = closing {
                // Nobody waits any more: that is fine.
                let _ = done.send(());
                return Ok(());
            }
        }
        Ok(())
    }

    fn flush(
        &mut self,
        pending: &mut Vec<u8>,
        ticket: &mut Option<u64>,
    ) -> Result<(), JournalError> {
        if !pending.is_empty() {
            failpoint::hit("journal.writing");
            self.file
                .write_all(pending)
                .map_err(|error| self.error("append to", error))?;
            self.bytes += pending.len() as u64;
            pending.clear();
            failpoint::hit("journal.written");
        }
        if let Some(ticket) = ticket.take() {
            self.file
                .sync_data()
                .map_err(|error| self.error("sync", error))?;
            failpoint::hit("journal.synced");
            self.synced.send_replace(ticket);
        }
        if self.bytes > LARGE && self.bytes / 4 > self.floor {
            self.large
                .send_if_modified(|large| !std::mem::replace(large, true));
        }
        Ok(())
    }

    fn error(&self, action: &'static str, source: std::io::Error) -> JournalError {
        JournalError {
            action,
            path: file::path(&self.dir),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::load;
    use mlctl_proto::ids::{Epoch, JobId};

    fn tombstone(n: u64) -> Record {
        Record::Tombstone {
            job: JobId::new(1, n),
            epoch: Epoch::new(1, 1),
        }
    }

    #[tokio::test]
    async fn what_is_confirmed_is_there_also_after_a_rewrite() {
        let dir = tempfile::tempdir().expect("dir");
        let mut journal = Journal::start(dir.path(), "id", &[tombstone(1)]).expect("started");
        for n in 2..20 {
            journal
                .append(vec![tombstone(n)], Some(n))
                .await
                .expect("queued");
        }
        while journal.synced().await.expect("synced") < 19 {}
        let on_disk = load(dir.path()).expect("read").records;
        assert_eq!(on_disk, (1..20).map(tombstone).collect::<Vec<_>>());
        journal.rewrite(vec![tombstone(50)]).await.expect("queued");
        journal
            .append(vec![tombstone(51)], None)
            .await
            .expect("queued");
        journal.close().await;
        let loaded = load(dir.path()).expect("read");
        assert_eq!(
            (loaded.id.as_deref(), loaded.records),
            (Some("id"), vec![tombstone(50), tombstone(51)])
        );
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_written_says_so_and_confirms_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let mut journal = Journal::start(dir.path(), "id", &[]).expect("started");
        // Renaming over a folder that is not empty cannot work.
        std::fs::remove_file(dir.path().join("journal")).expect("removed");
        std::fs::create_dir_all(dir.path().join("journal/x")).expect("made");
        journal.rewrite(vec![tombstone(1)]).await.expect("queued");
        let error = journal.synced().await.expect_err("failed");
        assert!(
            error.to_string().contains("cannot write the journal"),
            "{error}"
        );
        assert!(journal.append(vec![tombstone(2)], Some(2)).await.is_err());
    }
}
