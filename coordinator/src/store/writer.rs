//! The index's own thread, and the feed that leads to it.
//!
//! The feed never blocks the apply thread: when the thread cannot keep up, groups are dropped and the index is
//! filled anew from the published state once the burst is over. The thread sleeps while there is nothing to write, gathers groups
//! for a while before it writes them as one, rests a few times as long as it wrote, and gives way to every other thread: nobody
//! waits for the index. On a disk that is nearly full it writes nothing: what is left there belongs to the log.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::index::{Index, Shelf};
use super::pointers::Pointer;
use super::segments::Segments;
use crate::published::Published;
use crate::state::codec::{Record, decode_segment};
use crate::state::records::Segment;
use crate::state::{Digest, Row};

/// Groups are gathered for so long, or until they have so many rows.
const GATHER_FOR: Duration = Duration::from_secs(2);
const GATHER_ROWS: usize = 1_024;
/// Rows that may wait, and those of one more group: a single command may change thousands.
const ROWS_MAX: usize = 8_192;
/// Between the first write after a sync and the next sync.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// After building it anew failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The rest after a write and after it was built anew, in lengths of that: it takes a tenth of one core at most.
const REST_TIMES: u32 = 9;
const REST_MAX: Duration = Duration::from_secs(60);
/// An index that does not follow is built anew when so few rows passed in so long, or when the burst does not end.
const CALM_ROWS: usize = 1_024;
const CALM_FOR: Duration = Duration::from_secs(1);
const BURST_MAX: Duration = Duration::from_secs(60);
/// sled does not promise to give back what deleted rows took: a data file longer than this, and so many times longer than its
/// rows, is written anew.
const FILE_BYTES_MIN: u64 = 64 << 20;
const FILE_TIMES_MAX: u64 = 6;
/// A file is looked at again once it has grown by this.
const FILE_GROWTH: u64 = 32 << 20;

/// Whether the disk has room for an index.
pub type HasRoom = Arc<dyn Fn() -> bool + Send + Sync>;

/// Where the apply thread puts what it wrote.
#[derive(Clone)]
pub struct Feed(Arc<Inbox>);

/// Between the apply thread and the index's. The thread is woken when it has something new to do, not for each group.
struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// In order; the newest of a row counts.
    rows: Vec<Row>,
    /// As of the last of them.
    applied: u64,
    digest: Digest,
    /// When the first of them came.
    since: Option<Instant>,
    /// The index does not follow: nothing is put here until it is filled anew.
    behind: bool,
    /// Rows that passed meanwhile.
    passed: usize,
    /// A segment came that may not be taken in.
    segments: bool,
    stop: bool,
}

impl Waiting {
    /// Until it is time to write; `None` when there is nothing.
    fn due_in(&self) -> Option<Duration> {
        let left = GATHER_FOR.saturating_sub(self.since?.elapsed());
        Some(if self.rows.len() < GATHER_ROWS {
            left
        } else {
            Duration::ZERO
        })
    }

    /// Forgets the rows: the index is filled from a state that has them.
    fn clear(&mut self) {
        self.rows = Vec::new();
        self.since = None;
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change under this lock leaves it consistent.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.lock());
        self.wake.notify_one();
    }
}

impl Feed {
    /// What a group of entries changed. Dropped when the index cannot keep up, which it then makes good.
    pub fn rows(&self, applied: u64, digest: Digest, rows: Vec<Row>) {
        let mut waiting = self.0.lock();
        if rows.is_empty() {
            return;
        }
        if waiting.behind {
            waiting.passed = waiting.passed.saturating_add(rows.len());
            return;
        }
        let before = waiting.rows.len();
        if before >= ROWS_MAX {
            waiting.clear();
            (waiting.behind, waiting.passed) = (true, before);
        } else {
            waiting.segments |= rows.iter().any(|row| row.table == Segment::TABLE);
            waiting.rows.extend(rows);
            waiting.since.get_or_insert_with(Instant::now);
            (waiting.applied, waiting.digest) = (applied, digest);
        }
        let news = before == 0
            || waiting.behind
            || (before < GATHER_ROWS && waiting.rows.len() >= GATHER_ROWS);
        drop(waiting);
        if news {
            self.0.wake.notify_one();
        }
    }

    /// The state was replaced as a whole.
    pub fn rebuild(&self) {
        self.0.tell(|waiting| {
            waiting.clear();
            (waiting.behind, waiting.segments) = (true, true);
        });
    }

    /// A segment that was lacking is here.
    pub fn segments(&self) {
        self.0.tell(|waiting| waiting.segments = true);
    }
}

/// The thread. Ends with [`Writer::stop`].
pub struct Writer {
    inbox: Arc<Inbox>,
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
        let inbox = Arc::new(Inbox {
            waiting: Mutex::new(Waiting {
                behind: !current,
                ..Waiting::default()
            }),
            wake: Condvar::new(),
        });
        let work = Work {
            dir: dir.to_owned(),
            published,
            inbox: Arc::clone(&inbox),
            segments,
            shelf,
            there: false,
            built: 0,
            lagging: true,
            looked_at: FILE_BYTES_MIN,
            unsynced_since: None,
            not_before: None,
            behind_since: None,
            rests_until: Instant::now(),
            has_room,
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("index".into())
            .spawn(move || {
                crate::background::give_way();
                work.run();
            })?;
        Ok((Feed(Arc::clone(&inbox)), Self { inbox, thread }))
    }

    /// Whether the index does not follow.
    #[cfg(test)]
    pub(super) fn is_behind(&self) -> bool {
        self.inbox.lock().behind
    }

    /// Writes what waits, syncs it and ends. Returns false if that took longer than `deadline`.
    pub fn stop(self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        self.inbox.tell(|waiting| waiting.stop = true);
        while !self.thread.is_finished() {
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
    inbox: Arc<Inbox>,
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
    /// It is not built anew before.
    not_before: Option<Instant>,
    /// A burst is let pass since then.
    behind_since: Option<Instant>,
    /// What waits is not written before.
    rests_until: Instant,
    has_room: HasRoom,
    /// The last try to build it failed, which was said.
    failing: bool,
}

impl Work {
    fn run(mut self) {
        if !self.is_behind() {
            match Index::open(&self.dir).and_then(|index| self.put(index)) {
                Ok(()) => {}
                Err(reason) => self.broken(&reason),
            }
        }
        loop {
            self.catch_up();
            if self.wait() {
                break;
            }
            self.do_what_is_due();
        }
        // The last chance: what could not be built before may be possible now, and nothing passes any more.
        self.not_before = None;
        self.inbox.lock().passed = 0;
        self.write();
        self.catch_up();
        self.flush();
        self.shelf.clear();
    }

    /// Waits until there is something to do. Whether that is to stop.
    fn wait(&mut self) -> bool {
        let has_room = (self.has_room)();
        let mut waiting = self.inbox.lock();
        loop {
            self.lagging |= std::mem::take(&mut waiting.segments);
            if waiting.stop {
                return true;
            }
            let flush = self.unsynced_since;
            let flush = flush.map(|since| FLUSH_EVERY.saturating_sub(since.elapsed()));
            // It wakes up by itself when it may be built.
            let rebuild = waiting.behind.then(|| match self.not_before {
                _ if !has_room => RETRY_AFTER,
                Some(at) => at.saturating_duration_since(Instant::now()),
                None => Duration::ZERO,
            });
            let takes_in = self.lagging && self.there && has_room && !waiting.behind;
            let take_in = takes_in.then_some(Duration::ZERO);
            let due = [self.due_in(&waiting), flush, rebuild, take_in];
            let due = due.into_iter().flatten().min();
            let wake = &self.inbox.wake;
            waiting = match due {
                Some(Duration::ZERO) => return false,
                Some(due) => {
                    let (waiting, waited) = wake
                        .wait_timeout(waiting, due)
                        .unwrap_or_else(PoisonError::into_inner);
                    if waited.timed_out() {
                        return false;
                    }
                    waiting
                }
                None => wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Writes and syncs when it is time for that, and takes a segment in when there is nothing to write.
    fn do_what_is_due(&mut self) {
        let due = self.due_in(&self.inbox.lock());
        if due.is_some_and(|due| due.is_zero()) {
            let began = Instant::now();
            self.write();
            self.rests_until = Instant::now() + (began.elapsed() * REST_TIMES).min(GATHER_FOR);
        }
        if self
            .unsynced_since
            .is_some_and(|since| since.elapsed() >= FLUSH_EVERY)
        {
            self.flush();
        }
        if due.is_none_or(|due| !due.is_zero()) && self.takes_in() {
            self.take_in_one();
        }
    }

    /// Until it is time to write; `None` when there is nothing.
    fn due_in(&self, waiting: &Waiting) -> Option<Duration> {
        let rest = self.rests_until.saturating_duration_since(Instant::now());
        Some(waiting.due_in()?.max(rest))
    }

    fn is_behind(&self) -> bool {
        self.inbox.lock().behind
    }

    /// From now on the index does not follow.
    fn fall_behind(&self) {
        let mut waiting = self.inbox.lock();
        waiting.clear();
        waiting.behind = true;
    }

    /// Whether there may be a segment to take in, and room for it.
    fn takes_in(&self) -> bool {
        self.lagging && self.there && !self.is_behind() && (self.has_room)()
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
            None => self.fall_behind(),
            Some(Ok(())) => {
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
            Some(Err(reason)) => self.broken(&reason),
        }
    }

    fn write(&mut self) {
        let (applied, digest, rows) = {
            let mut waiting = self.inbox.lock();
            if waiting.since.take().is_none() {
                return;
            }
            (
                waiting.applied,
                waiting.digest,
                std::mem::take(&mut waiting.rows),
            )
        };
        // What was built meanwhile has it already.
        if applied > self.built {
            let rows = rows
                .into_iter()
                .map(|row| ((row.table, row.key), row.record));
            let newest: BTreeMap<_, _> = rows.collect();
            self.with(|index| index.write(applied, digest, newest));
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
            self.fall_behind();
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
        self.fall_behind();
    }

    fn gone(&mut self) {
        self.shelf.clear();
        self.there = false;
    }

    /// Fills the index anew if groups were dropped or it broke.
    fn catch_up(&mut self) {
        let waits = self.not_before.is_some_and(|at| Instant::now() < at);
        if waits || !self.is_behind() || !(self.has_room)() || self.lets_a_burst_pass() {
            return;
        }
        if let Err(reason) = self.rebuild() {
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(dir = %self.dir.display(), %reason, "the index cannot be built; tried again every 5 s");
            }
            self.gone();
            // A part of an index only takes space away; it is deleted again before the next try.
            let _ = fs::remove_dir_all(&self.dir);
            self.fall_behind();
            self.not_before = Some(Instant::now() + RETRY_AFTER);
        }
    }

    /// Whether so much still passes that an index built now would be behind again at once; then it is looked at again later.
    fn lets_a_burst_pass(&mut self) -> bool {
        let now = Instant::now();
        let passed = std::mem::take(&mut self.inbox.lock().passed);
        let since = *self.behind_since.get_or_insert(now);
        let passes = passed > CALM_ROWS && now - since < BURST_MAX;
        if passes {
            self.not_before = Some(now + CALM_FOR);
        }
        passes
    }

    fn rebuild(&mut self) -> Result<(), String> {
        let began = Instant::now();
        // Before the state is taken: a group that comes after this line is either in that state or put here, or both.
        self.inbox.lock().behind = false;
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
        self.behind_since = None;
        self.not_before = Some(Instant::now() + (began.elapsed() * REST_TIMES).min(REST_MAX));
        if std::mem::take(&mut self.failing) {
            tracing::info!(dir = %self.dir.display(), "the index is whole again");
        }
        Ok(())
    }
}
