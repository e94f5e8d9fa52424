//! Files of frames, one per (job, epoch, rank). Appending is idempotent by offset and keeps whole frames only.
//!
//! Knows no node and checks no right: whoever calls has done so. Pieces are not synced: the sender keeps its file.
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::LOG_BYTES_PER_RANK_MAX;
use mlctl_proto::logs::{self, whole};
use tokio::sync::watch;

/// Which log.
pub type Key = (JobId, Epoch, u32);

/// Why a piece was not stored.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It is not made of whole frames.
    #[error(
        "a piece of the log of rank {rank} of job {job} is not made of whole frames; send it again from the start"
    )]
    Damaged {
        /// The job.
        job: JobId,
        /// The rank.
        rank: u32,
    },
    /// The disk or the file system failed.
    #[error("log store: {doing} {}: {source}", path.display())]
    Io {
        /// In present tense.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// What was pushed.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Of its first byte within the framed log.
    pub offset: u64,
    /// Whole frames.
    pub frames: &'a [u8],
    /// The rank has ended; nothing follows.
    pub end: bool,
    /// Bytes that the node itself cut.
    pub dropped: u64,
}

/// How much is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Send from here.
    pub offset: u64,
    /// Nothing more will come.
    pub end: bool,
    /// Bytes that were cut by the cap, here or on the node.
    pub dropped: u64,
}

/// All logs under a directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    cap: u64,
    open: Mutex<BTreeMap<Key, Weak<RankLog>>>,
    /// Moves when any log of the job grows or ends; kept while somebody looks.
    grown: Mutex<BTreeMap<JobId, Weak<watch::Sender<u64>>>>,
}

/// One log that somebody appends to or reads.
#[derive(Debug)]
pub struct RankLog {
    path: PathBuf,
    cap: u64,
    state: Mutex<RankState>,
    grown: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct RankState {
    file: Option<File>,
    /// Bytes in the file: whole frames.
    bytes: u64,
    /// Bytes taken beyond the cap and thrown away.
    cut: u64,
    ended: Option<u64>,
}

impl Logs {
    /// The logs under `dir`, which is made when the first piece comes.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self::with_cap(dir, LOG_BYTES_PER_RANK_MAX)
    }

    fn with_cap(dir: impl Into<PathBuf>, cap: u64) -> Self {
        let inner = Inner {
            dir: dir.into(),
            cap,
            open: Mutex::default(),
            grown: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The log of `key`, as far as it was stored by this or an earlier process. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(&self, key: Key) -> Result<Arc<RankLog>, LogError> {
        if let Some(log) = lock(&self.inner.open).get(&key).and_then(Weak::upgrade) {
            return Ok(log);
        }
        let (job, epoch, rank) = key;
        let path = self
            .inner
            .dir
            .join(job.to_string())
            .join(epoch.to_string())
            .join(format!("{rank}.log"));
        let state = RankState::load(&path)?;
        let fresh = Arc::new(RankLog {
            path,
            cap: self.inner.cap,
            state: Mutex::new(state),
            grown: self.job(job),
        });
        let mut open = lock(&self.inner.open);
        // Two may have loaded it at once; one of them counts.
        if let Some(log) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(log);
        }
        open.retain(|_, log| log.strong_count() > 0);
        open.insert(key, Arc::downgrade(&fresh));
        Ok(fresh)
    }

    /// The ranks of an attempt that have a log here. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn ranks(&self, job: JobId, epoch: Epoch) -> Result<Vec<u32>, LogError> {
        let dir = self.inner.dir.join(job.to_string()).join(epoch.to_string());
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &dir)(error)),
        };
        let rank = |name: &str| name.strip_suffix(".log")?.parse().ok();
        let names = entries
            .filter_map(Result::ok)
            .map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| name.to_str().and_then(rank))
            .collect())
    }

    /// Moves whenever a log of `job` grows or ends.
    pub fn watch(&self, job: JobId) -> (Arc<watch::Sender<u64>>, watch::Receiver<u64>) {
        let sender = self.job(job);
        let receiver = sender.subscribe();
        (sender, receiver)
    }

    fn job(&self, job: JobId) -> Arc<watch::Sender<u64>> {
        let mut grown = lock(&self.inner.grown);
        if let Some(sender) = grown.get(&job).and_then(Weak::upgrade) {
            return sender;
        }
        grown.retain(|_, sender| sender.strong_count() > 0);
        let sender = Arc::new(watch::Sender::new(0));
        grown.insert(job, Arc::downgrade(&sender));
        sender
    }
}

impl RankLog {
    /// How much is stored.
    pub fn stored(&self) -> Stored {
        lock(&self.state).stored()
    }

    /// Appends what is new of `piece`; a gap or a repetition changes nothing and is answered with what is stored.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When the piece is not made of whole frames, or the disk fails.
    pub fn append(&self, key: Key, piece: Piece<'_>) -> Result<Stored, LogError> {
        let damaged = || LogError::Damaged {
            job: key.0,
            rank: key.2,
        };
        if whole(piece.frames).map_err(|_| damaged())? != piece.frames.len() {
            return Err(damaged());
        }
        let mut state = lock(&self.state);
        let next = state.bytes + state.cut;
        let known = next.saturating_sub(piece.offset);
        if piece.offset > next || state.ended.is_some() || known > piece.frames.len() as u64 {
            return Ok(state.stored());
        }
        // Both ends keep whole frames, so the seam lies between two of them; if not, the sender's log is another one.
        let (old, new) = piece.frames.split_at(known as usize);
        if whole(old).map_err(|_| damaged())? != old.len() {
            return Err(damaged());
        }
        state.write(&self.path, new, self.cap)?;
        if piece.end {
            state.end(&self.path, piece.dropped)?;
        }
        let stored = state.stored();
        drop(state);
        if piece.end || !new.is_empty() {
            self.grown.send_modify(|version| *version += 1);
        }
        Ok(stored)
    }

    /// Up to `limit` bytes of whole frames from byte `from` of the file; at least one frame if there is one.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(&self, from: u64, limit: usize) -> Result<Vec<u8>, LogError> {
        use std::os::unix::fs::FileExt;
        let left = lock(&self.state).bytes.saturating_sub(from);
        let limit = limit.max(logs::HEADER_BYTES + logs::TEXT_BYTES_MAX);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(limit)];
        if bytes.is_empty() {
            return Ok(bytes);
        }
        let file = File::open(&self.path).map_err(failed("open", &self.path))?;
        file.read_exact_at(&mut bytes, from)
            .map_err(failed("read", &self.path))?;
        // The file was checked when it was loaded and when it grew.
        let keep = whole(&bytes).unwrap_or(0);
        bytes.truncate(keep);
        Ok(bytes)
    }
}

impl RankState {
    /// What an earlier process left: whole frames are kept, a torn end is cut.
    fn load(path: &Path) -> Result<Self, LogError> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut bytes).map_err(failed("read", path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed("open", path)(error)),
        };
        let keep = keep(&bytes);
        let mut state = Self {
            bytes: keep as u64,
            ..Self::default()
        };
        if keep < bytes.len() {
            let file = OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(failed("open", path))?;
            file.set_len(keep as u64).map_err(failed("cut", path))?;
            return Ok(state);
        }
        // The end counts only for exactly the bytes it was written after.
        if let Ok(text) = fs::read_to_string(end_path(path)) {
            let numbers = text.trim().split_once(' ');
            let numbers = numbers.and_then(|(bytes, dropped)| {
                Some((bytes.parse::<u64>().ok()?, dropped.parse::<u64>().ok()?))
            });
            state.ended = numbers
                .filter(|(bytes, _)| *bytes == state.bytes)
                .map(|(_, dropped)| dropped);
        }
        Ok(state)
    }

    fn stored(&self) -> Stored {
        Stored {
            offset: self.bytes + self.cut,
            end: self.ended.is_some(),
            dropped: self.ended.unwrap_or(0) + self.cut,
        }
    }

    fn write(&mut self, path: &Path, new: &[u8], cap: u64) -> Result<(), LogError> {
        if new.is_empty() {
            return Ok(());
        }
        if self.cut > 0 || self.bytes + new.len() as u64 > cap {
            self.cut += new.len() as u64;
            return Ok(());
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open_append(path, self.bytes)?,
        };
        if let Err(error) = file.write_all(new) {
            // What was written of it is cut when the file is opened again.
            return Err(failed("write", path)(error));
        }
        self.bytes += new.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    fn end(&mut self, path: &Path, dropped: u64) -> Result<(), LogError> {
        let end = end_path(path);
        make_parent(&end)?;
        if self.bytes == 0 {
            // A log without a line is still a log that has ended.
            open_append(path, 0)?;
        }
        fs::write(&end, format!("{} {}\n", self.bytes, dropped + self.cut))
            .map_err(failed("write", &end))?;
        self.ended = Some(dropped);
        self.file = None;
        Ok(())
    }
}

/// How many bytes are whole frames up to the first that is none.
fn keep(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(Some((_, used))) = logs::decode(&bytes[at..]) {
        at += used;
    }
    at
}

fn open_append(path: &Path, bytes: u64) -> Result<File, LogError> {
    make_parent(path)?;
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed("open", path))?;
    file.set_len(bytes).map_err(failed("cut", path))?;
    Ok(file)
}

fn make_parent(path: &Path) -> Result<(), LogError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(failed("make", dir))
}

fn end_path(path: &Path) -> PathBuf {
    path.with_extension("end")
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io {
        doing,
        path,
        source,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A failed write leaves the counters as they were.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::logs::Frame;

    const KEY: Key = (JobId::new(1, 1), Epoch::new(1, 1), 0);

    fn frames(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            let frame = Frame {
                flags: 0,
                time_ms: 1,
                text: line.as_bytes(),
            };
            logs::encode(frame, &mut out);
        }
        out
    }

    fn piece(offset: u64, frames: &[u8], end: bool) -> Piece<'_> {
        Piece {
            offset,
            frames,
            end,
            dropped: 0,
        }
    }

    #[test]
    fn pieces_are_stored_once_and_in_order() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let logs = Logs::new(dir.path());
        let log = logs.open(KEY).expect("opens");
        let (one, two) = (frames(&["one"]), frames(&["two", "three"]));
        let both = [one.clone(), two.clone()].concat();
        let all = both.len() as u64;
        for (offset, bytes, end, want) in [
            (all, &two, false, 0),
            (0, &one, false, one.len() as u64),
            (0, &one, false, one.len() as u64),
            (0, &both, false, all),
            (all, &Vec::new(), true, all),
            (all, &one, false, all),
        ] {
            let stored = log.append(KEY, piece(offset, bytes, end)).expect("stored");
            assert_eq!(stored.offset, want);
        }
        assert!(log.stored().end);
        assert_eq!(log.read(0, 1 << 20).expect("read"), both);
        assert_eq!(log.read(one.len() as u64, 1).expect("read"), two);
    }

    #[test]
    fn damaged_pieces_change_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = Logs::new(dir.path()).open(KEY).expect("opens");
        let good = frames(&["line"]);
        let longer = [good.clone(), frames(&["more"])].concat();
        for bytes in [&good[..good.len() - 1], &[0; 40], &good[1..]] {
            assert!(log.append(KEY, piece(0, bytes, false)).is_err());
        }
        assert_eq!(log.stored(), Stored::default());
        log.append(KEY, piece(0, &good, false)).expect("stored");
        let other = frames(&["x", "a log with other seams"]);
        assert!(other.len() > good.len() && longer.len() > good.len());
        assert!(log.append(KEY, piece(0, &other, false)).is_err());
    }

    #[test]
    fn a_restart_keeps_whole_frames_and_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bytes = frames(&["one", "two"]);
        let log = Logs::new(dir.path()).open(KEY).expect("opens");
        log.append(KEY, piece(0, &bytes, true)).expect("stored");
        let before = log.stored();
        assert_eq!(
            Logs::new(dir.path()).open(KEY).expect("opens").stored(),
            before
        );
        let path = dir.path().join("1/1/0.log");
        let torn = &bytes[..bytes.len() - 1];
        fs::write(&path, torn).expect("written");
        let again = Logs::new(dir.path()).open(KEY).expect("opens");
        let first = frames(&["one"]).len() as u64;
        assert_eq!(
            (again.stored().offset, again.stored().end),
            (first, false),
            "the end was for more bytes"
        );
        again.append(KEY, piece(0, &bytes, true)).expect("stored");
        assert_eq!(fs::read(&path).expect("there"), bytes);
    }

    #[test]
    fn beyond_the_cap_bytes_are_counted_and_thrown_away() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let line = frames(&["0123456789"]);
        let size = line.len() as u64;
        let logs = Logs::with_cap(dir.path(), size + 1);
        let log = logs.open(KEY).expect("opens");
        for n in 0..3 {
            let stored = log
                .append(KEY, piece(n * size, &line, n == 2))
                .expect("stored");
            assert_eq!(stored.offset, (n + 1) * size);
        }
        assert_eq!(
            log.stored(),
            Stored {
                offset: 3 * size,
                end: true,
                dropped: 2 * size
            }
        );
        assert_eq!(log.read(0, 1 << 20).expect("read"), line);
    }
}
