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

use super::index::{Index, Shelf};
use super::pointers::Pointer;
use super::segments::Segments;
use crate::published::Published;
use crate::state::codec::{Record, decode_segment};
use crate::state::records::Segment;
use crate::state::{Digest, Row};

/// Groups that may wait.
const QUEUE: usize = 4_096;
/// Between the first write after a sync and the next sync.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// After building it anew failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// sled does not promise to give back what deleted rows took: a data file longer than this, and so many times longer than its
/// rows, is written anew.
const FILE_BYTES_MIN: u64 = 64 << 20;
const FILE_TIMES_MAX: u64 = 6;
/// A file is looked at again once it has grown by this.
const FILE_GROWTH: u64 = 32 << 20;

/// Whether the disk has room for an index.
pub type HasRoom = Arc<dyn Fn() -> bool + Send + Sync>;

enum Message {
    Rows {
        applied: u64,
        digest: Digest,
        rows: Vec<Row>,
    },
    Rebuild,
    /// A segment came that may not be taken in.
    Segments,
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

    /// A segment that was lacking is here.
    pub fn segments(&self) {
        // A full queue is being read, and every message is followed by a look at what is lacking.
        let _ = self.queue.try_send(Message::Segments);
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
        segments: Arc<Segments>,
        shelf: Arc<Shelf>,
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
            segments,
            shelf,
            behind,
            there: false,
            built: 0,
            lagging: true,
            looked_at: FILE_BYTES_MIN,
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
    segments: Arc<Segments>,
    /// Where the index stands.
    shelf: Arc<Shelf>,
    there: bool,
    /// It was filled with the state of this index: older groups are in it.
    built: u64,
    /// Segments may be here that the index has not taken in.
    lagging: bool,
    /// Length of the data file at the last look.
    looked_at: u64,
    unsynced_since: Option<Instant>,
    retry_at: Option<Instant>,
    has_room: HasRoom,
    /// The last try to build it failed, which was said.
    failing: bool,
}

impl Work {
    fn run(mut self, messages: &Receiver<Message>) {
        if !self.behind.load(Ordering::Acquire) {
            match Index::open(&self.dir).and_then(|index| self.put(index)) {
                Ok(()) => {}
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
                })) => {
                    self.lagging |= rows.iter().any(|row| row.table == Segment::TABLE);
                    self.write(applied, digest, rows);
                }
                Ok(Some(Message::Rebuild | Message::Segments)) => self.lagging = true,
                Ok(None) if self.takes_in() => self.take_in_one(),
                Ok(None) => self.flush(),
                Ok(Some(Message::Stop)) | Err(()) => break,
            }
        }
        // The last chance: what could not be built before may be possible now.
        self.retry_at = None;
        self.catch_up();
        self.flush();
        self.shelf.clear();
    }

    /// The next message; `None` when there is time for a segment or it is time to sync, an error when nobody will ever send again.
    fn next(&self, messages: &Receiver<Message>) -> Result<Option<Message>, ()> {
        let wait = match self.unsynced_since {
            _ if self.takes_in() => Duration::ZERO,
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

    /// Whether there may be a segment to take in, and room for it.
    fn takes_in(&self) -> bool {
        self.lagging && self.there && !self.behind.load(Ordering::Acquire) && (self.has_room)()
    }

    fn put(&mut self, index: Index) -> Result<(), String> {
        let taken = index.taken()?;
        self.shelf.put(index, taken);
        self.there = true;
        self.lagging = true;
        Ok(())
    }

    /// Runs a call on the index. Being without one is being behind.
    fn with(&mut self, call: impl FnOnce(&Index) -> Result<(), String>) {
        let outcome = match (self.has_room)() {
            true => self.shelf.with(call),
            false => None,
        };
        match outcome {
            None => self.behind.store(true, Ordering::Release),
            Some(Ok(())) => {
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
            Some(Err(reason)) => self.broken(&reason),
        }
    }

    fn write(&mut self, applied: u64, digest: Digest, rows: Vec<Row>) {
        if applied <= self.built {
            return;
        }
        self.with(|index| index.write(applied, digest, rows));
        if self
            .unsynced_since
            .is_some_and(|since| since.elapsed() >= FLUSH_EVERY)
        {
            self.flush();
        }
    }

    /// Takes one segment in that is listed and here and was not taken in yet. What is not here comes with a message.
    fn take_in_one(&mut self) {
        let state = self.published.state();
        let taken = self.shelf.taken().unwrap_or_default();
        let mut new = state.segments().filter(|one| !taken.contains(&one.number));
        let found = new.find_map(|one| Some((one.number, self.segments.read(one).ok()?)));
        let Some((number, bytes)) = found else {
            self.lagging = false;
            return;
        };
        let placed = match decode_segment(&bytes) {
            Ok(placed) => placed,
            Err(error) => {
                // Its hash holds, so another release wrote it: it is said where somebody reads it, and the index does without.
                tracing::warn!(number, %error, "a segment of history is not in the index");
                self.shelf.took(number);
                return;
            }
        };
        let jobs: Vec<_> = placed
            .iter()
            .filter_map(|one| Some((one.archived.job.id, Pointer::new(number, one)?)))
            .collect();
        self.with(|index| index.take_in(number, &jobs));
        self.shelf.took(number);
    }

    fn flush(&mut self) {
        if self.unsynced_since.take().is_none() {
            return;
        }
        let wrong = self.shelf.with(|index| {
            if !index.in_place() {
                return Some("its directory was deleted or replaced".to_owned());
            }
            index.flush().err()
        });
        if let Some(reason) = wrong.flatten() {
            self.broken(&reason);
            self.catch_up();
        } else if self.bloated() {
            self.behind.store(true, Ordering::Release);
            self.catch_up();
        }
    }

    /// Whether the data file is many times longer than its rows.
    fn bloated(&mut self) -> bool {
        let file = self.shelf.with(Index::file_bytes).unwrap_or(0);
        if file < self.looked_at {
            return false;
        }
        self.looked_at = file.saturating_add(FILE_GROWTH);
        let live = self.shelf.with(Index::live_bytes);
        let Some(Ok(live)) = live else {
            return false;
        };
        let bloated = file > live.saturating_mul(FILE_TIMES_MAX);
        if bloated {
            tracing::info!(
                file,
                live,
                "the index takes much more room than its rows and is written anew"
            );
        }
        bloated
    }

    fn broken(&mut self, reason: &str) {
        tracing::warn!(dir = %self.dir.display(), %reason, "the index is not usable and is built anew; nothing is lost");
        self.gone();
        self.behind.store(true, Ordering::Release);
    }

    fn gone(&mut self) {
        self.shelf.clear();
        self.there = false;
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
            self.gone();
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
        self.gone();
        match fs::remove_dir_all(&self.dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot delete {}: {error}", self.dir.display())),
        }
        let index = Index::open(&self.dir)?;
        index.fill(state.applied_index(), state.digest(), state.rows())?;
        index.flush()?;
        self.built = state.applied_index();
        self.looked_at = FILE_BYTES_MIN;
        self.put(index)?;
        self.unsynced_since = None;
        self.retry_at = None;
        if std::mem::take(&mut self.failing) {
            tracing::info!(dir = %self.dir.display(), "the index is whole again");
        }
        Ok(())
    }
}
