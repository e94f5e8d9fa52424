//! The logs of all attempts on this member, one directory each: `JOB/EPOCH/`. Who is loaded, who grew, and what is to be copied.
//!
//! Knows no node and checks no right: whoever calls has done so. Blocks on the disk.
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::{LOG_HEAD_BYTES, LOG_TAIL_BYTES};
use tokio::sync::{Notify, broadcast, watch};

use super::held::parse_open;
use super::meta::{Limits, Meta};
use super::rank::{Chunk, Place, Rank};
use super::{LogError, Piece, Stored, failed};

/// Which log.
pub type Key = (JobId, Epoch, u32);

/// News of kept logs that a slow listener may be behind.
const KEPT: usize = 4_096;

/// All logs under a directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    limits: Limits,
    open: Mutex<BTreeMap<(JobId, Epoch), Weak<AttemptLogs>>>,
    /// Moves when any log of the job grows or ends; kept while somebody looks.
    grown: Mutex<BTreeMap<JobId, Weak<watch::Sender<u64>>>>,
    /// Attempts with something that no other member may have yet.
    unkept: Mutex<BTreeMap<(JobId, Epoch), Arc<AttemptLogs>>>,
    /// A log has ended.
    ended: Notify,
    /// Ended logs that another member has too.
    kept: broadcast::Sender<Arc<Vec<Key>>>,
}

/// The logs of one attempt.
#[derive(Debug)]
pub struct AttemptLogs {
    place: Arc<Place>,
    ranks: Mutex<BTreeMap<u32, Arc<Rank>>>,
}

/// One log that somebody appends to or reads.
#[derive(Debug, Clone)]
pub struct RankLog {
    logs: Logs,
    attempt: Arc<AttemptLogs>,
    rank: Arc<Rank>,
}

impl Logs {
    /// The logs under `dir`, which is made when the first piece comes.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let limits = Limits {
            head: LOG_HEAD_BYTES,
            tail: LOG_TAIL_BYTES,
        };
        Self::limited(dir, limits)
    }

    /// As [`Logs::new`], with other limits for each rank.
    pub fn limited(dir: impl Into<PathBuf>, limits: Limits) -> Self {
        let inner = Inner {
            dir: dir.into(),
            limits,
            open: Mutex::default(),
            grown: Mutex::default(),
            unkept: Mutex::default(),
            ended: Notify::new(),
            kept: broadcast::Sender::new(KEPT),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Where they lie.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// How much is kept of each rank.
    pub fn limits(&self) -> Limits {
        self.inner.limits
    }

    /// The logs of an attempt, as far as they were stored by this or an earlier process.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn attempt(&self, job: JobId, epoch: Epoch) -> Result<Arc<AttemptLogs>, LogError> {
        let key = (job, epoch);
        let known = |open: &BTreeMap<_, Weak<AttemptLogs>>| open.get(&key).and_then(Weak::upgrade);
        if let Some(attempt) = known(&lock(&self.inner.open)) {
            return Ok(attempt);
        }
        let place = Place {
            dir: self.inner.dir.join(job.to_string()).join(epoch.to_string()),
            job,
            epoch,
            limits: self.inner.limits,
            grown: self.job(job),
        };
        let fresh = Arc::new(AttemptLogs::load(place)?);
        let mut open = lock(&self.inner.open);
        // Two may have loaded it at once; one of them counts.
        if let Some(attempt) = known(&open) {
            return Ok(attempt);
        }
        open.retain(|_, attempt| attempt.strong_count() > 0);
        open.insert(key, Arc::downgrade(&fresh));
        Ok(fresh)
    }

    /// The log of `key`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(&self, (job, epoch, rank): Key) -> Result<RankLog, LogError> {
        let attempt = self.attempt(job, epoch)?;
        Ok(RankLog {
            logs: self.clone(),
            rank: attempt.rank(rank),
            attempt,
        })
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

    /// Attempts with something that is to be copied.
    pub fn unkept(&self) -> Vec<Arc<AttemptLogs>> {
        lock(&self.inner.unkept).values().cloned().collect()
    }

    /// What `attempt` had is kept. It is unkept again when something is added, so this is said before its pieces are listed.
    pub fn keeping(&self, attempt: &AttemptLogs) {
        lock(&self.inner.unkept).remove(&attempt.key());
    }

    /// Something of `attempt` is not kept yet.
    pub fn not_kept(&self, attempt: &Arc<AttemptLogs>) {
        let mut unkept = lock(&self.inner.unkept);
        unkept
            .entry(attempt.key())
            .or_insert_with(|| Arc::clone(attempt));
    }

    /// Returns when a log has ended since the last time.
    pub async fn one_ended(&self) {
        self.inner.ended.notified().await;
    }

    /// Another member has all of these, which have ended.
    pub fn kept(&self, keys: Vec<Key>) {
        // Nobody may be listening.
        let _ = self.inner.kept.send(Arc::new(keys));
    }

    /// What [`Logs::kept`] says from now on.
    pub fn hear_kept(&self) -> broadcast::Receiver<Arc<Vec<Key>>> {
        self.inner.kept.subscribe()
    }
}

impl AttemptLogs {
    fn load(place: Place) -> Result<Self, LogError> {
        let mut pieces: BTreeMap<u32, Vec<Meta>> = BTreeMap::new();
        let mut found: BTreeMap<u32, u64> = BTreeMap::new();
        for name in names(&place.dir)? {
            if let Some(piece) = Meta::parse(&name) {
                pieces.entry(piece.rank).or_default().push(piece);
            } else if let Some((rank, from)) = parse_open(&name) {
                let newest = found.entry(rank).or_default();
                *newest = (*newest).max(from);
            }
        }
        let place = Arc::new(place);
        let mut ranks: BTreeMap<u32, Arc<Rank>> = BTreeMap::new();
        let all = pieces.keys().chain(found.keys()).copied();
        for rank in all.collect::<std::collections::BTreeSet<u32>>() {
            let mut pieces = pieces.remove(&rank).unwrap_or_default();
            pieces.sort_unstable();
            let rank_log = Rank::new(&place, rank, pieces, found.get(&rank).copied());
            ranks.insert(rank, Arc::new(rank_log));
        }
        Ok(Self {
            place,
            ranks: Mutex::new(ranks),
        })
    }

    /// The attempt.
    pub fn key(&self) -> (JobId, Epoch) {
        (self.place.job, self.place.epoch)
    }

    /// How many ranks have a log here.
    pub fn count(&self) -> usize {
        lock(&self.ranks).len()
    }

    /// The ranks that have a log here.
    pub fn ranks(&self) -> Vec<u32> {
        lock(&self.ranks).keys().copied().collect()
    }

    fn rank(&self, rank: u32) -> Arc<Rank> {
        let mut ranks = lock(&self.ranks);
        let fresh = || Arc::new(Rank::new(&self.place, rank, Vec::new(), None));
        Arc::clone(ranks.entry(rank).or_insert_with(fresh))
    }

    fn all(&self) -> Vec<Arc<Rank>> {
        lock(&self.ranks).values().cloned().collect()
    }

    /// Seals what is open and lists the sound pieces.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn settle(&self) -> Result<Vec<Meta>, LogError> {
        let mut all = Vec::new();
        for rank in self.all() {
            all.extend(rank.settle()?);
        }
        Ok(all)
    }

    /// Seals what is open, and takes the pieces that no other member may have: they are on the disk itself, and the caller's to copy.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn take_fresh(&self) -> Result<Vec<Meta>, LogError> {
        let mut fresh = Vec::new();
        for rank in self.all() {
            fresh.extend(rank.take_fresh()?);
        }
        self.sync(&fresh)?;
        Ok(fresh)
    }

    /// Pieces of [`AttemptLogs::take_fresh`] that were not copied.
    pub fn give_back(&self, pieces: &[Meta]) {
        for piece in pieces {
            self.rank(piece.rank).give_back(*piece);
        }
    }

    /// Returns when these are on the disk itself.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self, pieces: &[Meta]) -> Result<(), LogError> {
        match pieces {
            [] => Ok(()),
            pieces => sync_all(&self.place.dir, pieces),
        }
    }

    /// The bytes of a piece; another one of the same range may have taken its place.
    ///
    /// # Errors
    /// When it is not there or damaged, or the disk fails.
    pub fn bytes_of(&self, meta: &Meta) -> Result<Vec<u8>, LogError> {
        self.rank(meta.rank).bytes_of(meta)
    }

    /// Takes a piece that another member has sealed.
    ///
    /// # Errors
    /// When the bytes are not those of `meta`, or the disk fails.
    pub fn put(&self, meta: Meta, bytes: &[u8]) -> Result<(), LogError> {
        self.rank(meta.rank).put(meta, bytes)
    }

    /// Those that have ended.
    pub fn ended(&self) -> Vec<Key> {
        let (job, epoch) = self.key();
        let ranks = self.all().into_iter();
        let ended = ranks.filter(|rank| rank.stored().is_ok_and(|stored| stored.end));
        ended.map(|rank| (job, epoch, rank.number())).collect()
    }

    /// Whether every log that is here has ended.
    pub fn all_ended(&self) -> bool {
        let ended = |rank: &Arc<Rank>| rank.stored().is_ok_and(|stored| stored.end);
        self.all().iter().all(ended)
    }
}

impl RankLog {
    /// How much is stored.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn stored(&self) -> Result<Stored, LogError> {
        self.rank.stored()
    }

    /// Appends what is new of `piece`; a gap or a repetition changes nothing and is answered with what is stored.
    ///
    /// # Errors
    /// When the piece is not made of whole frames, or the disk fails.
    pub fn append(&self, piece: Piece<'_>) -> Result<Stored, LogError> {
        let stored = self.rank.append(piece)?;
        self.logs.not_kept(&self.attempt);
        if piece.end {
            self.logs.inner.ended.notify_one();
        }
        Ok(stored)
    }

    /// The log has ended and its node asks whether it is kept: that is looked into.
    pub fn ask_kept(&self) {
        self.logs.not_kept(&self.attempt);
        self.logs.inner.ended.notify_one();
    }

    /// Up to `limit` bytes of whole frames from byte `from` on, at least one frame if there is one.
    ///
    /// # Errors
    /// When the disk fails. Damage is no error: see [`Chunk`].
    pub fn read(&self, from: u64, limit: usize) -> Result<Chunk, LogError> {
        self.rank.read(from, limit)
    }
}

/// The names in `dir`; none if it is not there.
fn names(dir: &Path) -> Result<Vec<String>, LogError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", dir)(error)),
    };
    let names = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.into_string().ok()).collect())
}

/// Few pieces are synced one by one; for many one sync of the file system is quicker.
fn sync_all(dir: &Path, pieces: &[Meta]) -> Result<(), LogError> {
    const ONE_BY_ONE: usize = 32;
    let root = fs::File::open(dir).map_err(failed("open", dir))?;
    if pieces.len() > ONE_BY_ONE {
        return nix::unistd::syncfs(&root)
            .map_err(io::Error::from)
            .map_err(failed("sync", dir));
    }
    for piece in pieces {
        let path = dir.join(piece.name());
        match fs::File::open(&path).and_then(|file| file.sync_data()) {
            // It was replaced or rotated away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(failed("sync", &path))?,
        }
    }
    root.sync_all().map_err(failed("sync", dir))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
