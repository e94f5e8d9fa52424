//! Segments of history as files `<hash>.seg`: written aside, synced, renamed, the directory synced, and never changed again.
//!
//! What was closed by a command is kept in memory until its file is on disk; no snapshot that lists it counts before. A file that
//! is damaged is moved aside; what is not here is fetched from another member by whoever asks [`Segments::lacking`]. This knows
//! neither the order of segments nor what is in them.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mlctl_proto::ids::clip;
use tokio::sync::Notify;

use crate::machine::OnFatal;
use crate::state::State;
use crate::state::records::{ClosedSegment, Segment};

/// BLAKE3 of a file.
pub type Hash = [u8; 32];

const SUFFIX: &str = ".seg";
/// Segments that may wait for the disk; above that the apply thread writes them itself, at the pace of the disk.
const WAITING_MAX: usize = 8;
/// After the disk was full.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What goes wrong with a segment's file.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// In present tense.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not the bytes that were asked for.
    #[error("segment {number} of history is not what its hash says")]
    Corrupt {
        /// Which one.
        number: u64,
    },
    /// It is not on this member, or not any more.
    #[error(
        "segment {number} of history is not on this coordinator; it is fetched from the others"
    )]
    Lacking {
        /// Which one.
        number: u64,
    },
}

impl SegmentError {
    /// Whether there was no room for it. A write that found none may be tried again into another file; a sync never is.
    pub fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { action, source, .. } if *action != "sync" && full.contains(&source.kind()))
    }
}

/// The segments of one member. Shared between threads.
pub struct Segments {
    dir: PathBuf,
    known: Mutex<Known>,
    /// One at a time: two would write the same file aside.
    writing: Mutex<()>,
    wake: Condvar,
    lacks: Notify,
    came: Notify,
}

#[derive(Default)]
struct Known {
    /// Closed, not yet on disk.
    waiting: BTreeMap<Hash, Arc<Vec<u8>>>,
    /// On disk.
    files: BTreeSet<Hash>,
    /// On disk since before this process, not yet read.
    unread: Vec<Hash>,
    stop: bool,
}

/// The thread that reads what lies there and writes what is closed. Ends with [`Keeper::stop`], or when it is dropped.
pub struct Keeper {
    segments: Arc<Segments>,
    thread: Option<JoinHandle<()>>,
}

impl Segments {
    /// Opens the directory and removes what a crash left half done.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn open(dir: &Path) -> Result<Self, SegmentError> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let mut known = Known::default();
        for item in fs::read_dir(dir).map_err(failed("list", dir))? {
            let path = item.map_err(failed("list", dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.unwrap_or_default();
            if name.ends_with(".tmp") {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            } else if let Some(hash) = hash_in(name) {
                known.files.insert(hash);
            }
        }
        known.unread = known.files.iter().copied().collect();
        Ok(Self {
            dir: dir.to_owned(),
            known: Mutex::new(known),
            writing: Mutex::default(),
            wake: Condvar::new(),
            lacks: Notify::new(),
            came: Notify::new(),
        })
    }

    /// Starts the thread. What the disk refuses ends the process, unless it is only full.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(self: &Arc<Self>, on_fatal: OnFatal) -> io::Result<Keeper> {
        let segments = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("segments".into())
            .spawn(move || segments.work(&on_fatal))?;
        Ok(Keeper {
            segments: Arc::clone(self),
            thread: Some(thread),
        })
    }

    /// Takes a segment that was just closed. Writes it itself only if too many wait.
    ///
    /// # Errors
    /// What the disk refused.
    pub fn keep(&self, closed: ClosedSegment) -> Result<(), SegmentError> {
        let mut known = lock(&self.known);
        // A file from before this process is read before it is relied on: these bytes may be the only good ones.
        if !known.files.contains(&closed.hash) || known.unread.contains(&closed.hash) {
            known.waiting.insert(closed.hash, Arc::new(closed.bytes));
        }
        let many = known.waiting.len() > WAITING_MAX;
        drop(known);
        self.wake.notify_all();
        if many { self.write_waiting() } else { Ok(()) }
    }

    /// Brings every closed segment to the disk.
    ///
    /// # Errors
    /// What the disk refused; the rest still waits.
    pub fn write_waiting(&self) -> Result<(), SegmentError> {
        let _alone = lock(&self.writing);
        loop {
            let next = {
                let known = lock(&self.known);
                known
                    .waiting
                    .first_key_value()
                    .map(|(hash, bytes)| (*hash, Arc::clone(bytes)))
            };
            let Some((hash, bytes)) = next else {
                return Ok(());
            };
            self.write(&hash, &bytes)?;
            let mut known = lock(&self.known);
            known.files.insert(hash);
            known.waiting.remove(&hash);
        }
    }

    /// Those of `state` that are not here.
    pub fn lacking(&self, state: &State) -> Vec<Arc<Segment>> {
        let known = lock(&self.known);
        let here = |hash| known.files.contains(hash) || known.waiting.contains_key(hash);
        let all = state.segments();
        all.filter(|segment| !here(&segment.hash))
            .cloned()
            .collect()
    }

    /// Returns when it may be that some are lacking.
    pub async fn lacks(&self) {
        self.lacks.notified().await;
    }

    /// Has whoever fetches look again.
    pub fn look_again(&self) {
        self.lacks.notify_one();
    }

    /// Is ready when one has come from another member.
    pub fn came(&self) -> tokio::sync::futures::Notified<'_> {
        self.came.notified()
    }

    /// The whole file, its hash verified.
    ///
    /// # Errors
    /// [`SegmentError::Lacking`] when it is not here; one that is damaged is moved aside and counts as that.
    pub fn read(&self, segment: &Segment) -> Result<Arc<Vec<u8>>, SegmentError> {
        let number = segment.number;
        if let Some(bytes) = lock(&self.known).waiting.get(&segment.hash) {
            return Ok(Arc::clone(bytes));
        }
        match self.verified(&segment.hash)? {
            Some(bytes) => Ok(Arc::new(bytes)),
            None => Err(SegmentError::Lacking { number }),
        }
    }

    /// A part of a file. Whoever asks verifies what it gets.
    ///
    /// # Errors
    /// As [`Segments::read`].
    pub fn read_part(
        &self,
        segment: &Segment,
        range: &Range<usize>,
    ) -> Result<Vec<u8>, SegmentError> {
        let lacking = SegmentError::Lacking {
            number: segment.number,
        };
        let whole = lock(&self.known).waiting.get(&segment.hash).map(Arc::clone);
        if let Some(whole) = whole {
            return whole.get(range.clone()).map(<[u8]>::to_vec).ok_or(lacking);
        }
        let path = self.path(&segment.hash);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(&segment.hash);
                return Err(lacking);
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let length = file.metadata().map_err(failed("look at", &path))?.len();
        if range.end as u64 > length {
            return Err(lacking);
        }
        let mut part = vec![0; range.len()];
        file.read_exact_at(&mut part, range.start as u64)
            .map_err(failed("read", &path))?;
        Ok(part)
    }

    /// The file with this hash, for another member.
    ///
    /// # Errors
    /// What the disk refused.
    pub fn for_peer(&self, hash: &Hash) -> Result<Option<Vec<u8>>, SegmentError> {
        let whole = lock(&self.known).waiting.get(hash).map(Arc::clone);
        match whole {
            Some(whole) => Ok(Some(Vec::clone(&whole))),
            None => self.verified(hash),
        }
    }

    /// Stores what another member sent.
    ///
    /// # Errors
    /// [`SegmentError::Corrupt`] if it is not that segment, or what the disk refused.
    pub fn receive(&self, segment: &Segment, bytes: &[u8]) -> Result<(), SegmentError> {
        if *blake3::hash(bytes).as_bytes() != segment.hash {
            return Err(SegmentError::Corrupt {
                number: segment.number,
            });
        }
        {
            let _alone = lock(&self.writing);
            self.write(&segment.hash, bytes)?;
        }
        lock(&self.known).files.insert(segment.hash);
        self.came.notify_waiters();
        Ok(())
    }

    fn work(&self, on_fatal: &OnFatal) {
        loop {
            let unread = {
                let mut known = lock(&self.known);
                while !known.stop && known.waiting.is_empty() && known.unread.is_empty() {
                    let woken = self.wake.wait(known);
                    known = woken.unwrap_or_else(PoisonError::into_inner);
                }
                if known.stop && known.waiting.is_empty() {
                    return;
                }
                known.unread.pop()
            };
            match self.write_waiting() {
                Ok(()) => {}
                Err(error) if error.is_full() => {
                    tracing::warn!(%error, "a segment of history waits for room on the disk; nothing is lost");
                    if !self.pause() {
                        return;
                    }
                }
                Err(error) => return on_fatal(error.to_string()),
            }
            if let Some(hash) = unread
                && let Err(error) = self.verified(&hash)
            {
                tracing::error!(%error, "a segment of history cannot be read");
            }
        }
    }

    /// Waits before the disk is tried again. False: the end has come.
    fn pause(&self) -> bool {
        let known = lock(&self.known);
        let woken = self
            .wake
            .wait_timeout_while(known, RETRY_AFTER, |known| !known.stop);
        !woken.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    /// Reads a file and compares its hash. One that is damaged is moved aside.
    fn verified(&self, hash: &Hash) -> Result<Option<Vec<u8>>, SegmentError> {
        let path = self.path(hash);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(hash);
                return Ok(None);
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if blake3::hash(&bytes).as_bytes() == hash {
            return Ok(Some(bytes));
        }
        let aside = path.with_extension("damaged");
        tracing::error!(path = %path.display(), "a segment of history is damaged; it is moved aside and fetched from the other coordinators");
        match fs::rename(&path, &aside) {
            Ok(()) => {}
            // Another reader was first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("rename", &path)(error)),
        }
        self.forget(hash);
        Ok(None)
    }

    fn forget(&self, hash: &Hash) {
        if lock(&self.known).files.remove(hash) {
            tracing::debug!(segment = %clip(&name(hash)), "not here any more");
        }
        self.lacks.notify_one();
    }

    fn write(&self, hash: &Hash, bytes: &[u8]) -> Result<(), SegmentError> {
        let path = self.path(hash);
        // From before a crash, or from another member: the same name is the same bytes, if they are whole.
        if fs::metadata(&path).is_ok() && self.verified(hash)?.is_some() {
            return Ok(());
        }
        let aside = path.with_extension("tmp");
        let mut file = File::create(&aside).map_err(failed("create", &aside))?;
        if let Err(error) = file.write_all(bytes) {
            // The space it took is needed; what cannot be removed is at the next start.
            let _ = fs::remove_file(&aside);
            return Err(failed("write", &aside)(error));
        }
        file.sync_all().map_err(failed("sync", &aside))?;
        fs::rename(&aside, &path).map_err(failed("rename", &aside))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("sync", &self.dir))
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.dir.join(name(hash))
    }
}

impl Keeper {
    /// Writes what waits and ends the thread.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        lock(&self.segments.known).stop = true;
        self.segments.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic is of no consequence: what waited is closed again at the next start.
            let _ = thread.join();
        }
    }
}

fn name(hash: &Hash) -> String {
    format!("{}{SUFFIX}", blake3::Hash::from_bytes(*hash).to_hex())
}

fn hash_in(name: &str) -> Option<Hash> {
    let hex = name.strip_suffix(SUFFIX)?;
    blake3::Hash::from_hex(hex).ok().map(Into::into)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SegmentError + use<> {
    let path = path.to_path_buf();
    move |source| SegmentError::Io {
        action,
        path,
        source,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
