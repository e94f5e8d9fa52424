//! The index's own thread, and the feed that leads to it.
//!
//! The feed never blocks the apply thread: when the thread cannot keep up, groups are dropped and the index is
//! filled anew from the published state. The thread sleeps while there is nothing to write. On a disk that is nearly full
//! it writes nothing: what is left there belongs to the log.
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::index::Index;
use crate::published::Published;
use crate::state::{Digest, Row};

/// Groups that may wait.
const QUEUE: usize = 4_096;
/// Between the first write after a sync and the next sync.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// After building it anew failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Whether the disk has room for an index.
pub type HasRoom = Arc<dyn Fn() -> bool + Send + Sync>;

enum Message {
    Rows {
        applied: u64,
        digest: Digest,
        rows: Vec<Row>,
    },
    Rebuild,
    Stop,
}

/// Where the apply thread puts what it wrote.
#[derive(Clone)]
pub struct Feed {
    queue: SyncSender<Message>,
    behind: Arc<AtomicBool>,
}

impl Feed {
    /// What a group of entries changed. Dropped when the index cannot keep up, which it then makes good.
    pub fn rows(&self, applied: u64, digest: Digest, rows: Vec<Row>) {
        if rows.is_empty() || self.behind.load(Ordering::Acquire) {
            return;
        }
        let message = Message::Rows {
            applied,
            digest,
            rows,
        };
        if self.queue.try_send(message).is_err() {
            self.behind.store(true, Ordering::Release);
        }
    }

    /// The state was replaced as a whole.
    pub fn rebuild(&self) {
        self.behind.store(true, Ordering::Release);
        // A full queue is being read: the thread looks at the flag after each message.
        let _ = self.queue.try_send(Message::Rebuild);
    }
}

/// The thread. Ends with [`Writer::stop`].
pub struct Writer {
    queue: SyncSender<Message>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread for the index in `dir`. `current` says that the index there is what the process started from.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        dir: &Path,
        published: Arc<Published>,
        current: bool,
        has_room: HasRoom,
    ) -> std::io::Result<(Feed, Self)> {
        let (queue, messages) = sync_channel(QUEUE);
        let behind = Arc::new(AtomicBool::new(!current));
        let feed = Feed {
            queue: queue.clone(),
            behind: Arc::clone(&behind),
        };
        let work = Work {
            dir: dir.to_owned(),
            published,
            behind,
            index: None,
            built: 0,
            unsynced_since: None,
            retry_at: None,
            has_room,
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("index".into())
            .spawn(move || work.run(&messages))?;
        Ok((feed, Self { queue, thread }))
    }

    /// Writes what waits, syncs it and ends. Returns false if that took longer than `deadline`.
    pub fn stop(self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        let mut stop = Some(Message::Stop);
        while !self.thread.is_finished() {
            if let Some(message) = stop.take()
                && let Err(std::sync::mpsc::TrySendError::Full(message)) =
                    self.queue.try_send(message)
            {
                stop = Some(message);
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.thread.join().is_ok()
    }
}

struct Work {
    dir: PathBuf,
    published: Arc<Published>,
    behind: Arc<AtomicBool>,
    index: Option<Index>,
    /// It was filled with the state of this index: older groups are in it.
    built: u64,
    unsynced_since: Option<Instant>,
    retry_at: Option<Instant>,
    has_room: HasRoom,
    /// The last try to build it failed, which was said.
    failing: bool,
}

impl Work {
    fn run(mut self, messages: &Receiver<Message>) {
        if !self.behind.load(Ordering::Acquire) {
            match Index::open(&self.dir) {
                Ok(index) => self.index = Some(index),
                Err(reason) => self.broken(&reason),
            }
        }
        loop {
            self.catch_up();
            match self.next(messages) {
                Ok(Some(Message::Rows {
                    applied,
                    digest,
                    rows,
                })) => self.write(applied, digest, rows),
                Ok(Some(Message::Rebuild)) => {}
                Ok(None) => self.flush(),
                Ok(Some(Message::Stop)) | Err(()) => break,
            }
        }
        // The last chance: what could not be built before may be possible now.
        self.retry_at = None;
        self.catch_up();
        self.flush();
    }

    /// The next message; `None` when it is time to sync, an error when nobody will ever send again.
    fn next(&self, messages: &Receiver<Message>) -> Result<Option<Message>, ()> {
        let wait = match self.unsynced_since {
            Some(since) => FLUSH_EVERY.saturating_sub(since.elapsed()),
            // The feed is silent while the index is behind: it wakes up by itself to try again.
            None if self.behind.load(Ordering::Acquire) => RETRY_AFTER,
            None => return messages.recv().map(Some).map_err(|_| ()),
        };
        match messages.recv_timeout(wait) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        }
    }

    fn write(&mut self, applied: u64, digest: Digest, rows: Vec<Row>) {
        if applied <= self.built {
            return;
        }
        let Some(index) = self.index.as_ref().filter(|_| (self.has_room)()) else {
            // Being without an index is being behind.
            self.behind.store(true, Ordering::Release);
            return;
        };
        match index.write(applied, digest, rows) {
            Ok(()) => {
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
            Err(reason) => self.broken(&reason),
        }
        if self
            .unsynced_since
            .is_some_and(|since| since.elapsed() >= FLUSH_EVERY)
        {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.unsynced_since.take().is_none() {
            return;
        }
        let Some(index) = &self.index else { return };
        if !index.in_place() {
            self.broken("its directory was deleted or replaced");
            self.catch_up();
        } else if let Err(reason) = index.flush() {
            self.broken(&reason);
            self.catch_up();
        }
    }

    fn broken(&mut self, reason: &str) {
        tracing::warn!(dir = %self.dir.display(), %reason, "the index is not usable and is built anew; nothing is lost");
        self.index = None;
        self.behind.store(true, Ordering::Release);
    }

    /// Fills the index anew if groups were dropped or it broke.
    fn catch_up(&mut self) {
        let waits = self.retry_at.is_some_and(|at| Instant::now() < at);
        if waits || !self.behind.load(Ordering::Acquire) || !(self.has_room)() {
            return;
        }
        if let Err(reason) = self.rebuild() {
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(dir = %self.dir.display(), %reason, "the index cannot be built; tried again every 5 s");
            }
            self.index = None;
            // A part of an index only takes space away; it is deleted again before the next try.
            let _ = fs::remove_dir_all(&self.dir);
            self.behind.store(true, Ordering::Release);
            self.retry_at = Some(Instant::now() + RETRY_AFTER);
        }
    }

    fn rebuild(&mut self) -> Result<(), String> {
        // Before the state is taken: a group that comes after this line is either in that state or in the queue.
        self.behind.store(false, Ordering::Release);
        let state = self.published.state();
        self.index = None;
        match fs::remove_dir_all(&self.dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot delete {}: {error}", self.dir.display())),
        }
        let index = Index::open(&self.dir)?;
        index.fill(state.applied_index(), state.digest(), state.rows())?;
        index.flush()?;
        self.built = state.applied_index();
        self.index = Some(index);
        self.unsynced_since = None;
        self.retry_at = None;
        if std::mem::take(&mut self.failing) {
            tracing::info!(dir = %self.dir.display(), "the index is whole again");
        }
        Ok(())
    }
}
