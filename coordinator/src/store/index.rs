//! The only file that names sled: one tree, keys prefixed by table, `applied` and the digest in every batch. Rows of live state
//! come first, then where archived jobs lie, which is no part of that digest.
//!
//! sled panics where others return errors, so every call is caught; a caught panic is an error as any other. Its
//! `flush` alone does not reach the disk: the data file is synced after it.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use mlctl_proto::ids::JobId;

use super::pointers::{POINTERS, Pointer, TAKEN, job_of_key, pointer_key, taken_key};
use crate::state::Digest;

/// sled's data file.
pub(super) const DB: &str = "db";
const CACHE_BYTES: u64 = 4 << 20;
/// In what sled says when another one holds the file, how long that is waited for, and between two tries.
const LOCKED: &str = "could not acquire lock";
const LOCKED_FOR: Duration = Duration::from_secs(1);
const LOCKED_AGAIN: Duration = Duration::from_millis(5);
/// Sorts behind every row: tables count from 0.
const MARK: &[u8] = &[0xff, b'm'];
const MARK_BYTES: usize = 8 + 32;

/// A row as it lies in the index.
pub(super) struct Stored {
    pub(super) table: u8,
    pub(super) key: Vec<u8>,
    pub(super) record: Vec<u8>,
}

/// Everything in an index.
pub(super) struct Loaded {
    pub(super) applied: u64,
    pub(super) digest: Digest,
    pub(super) rows: Vec<Stored>,
}

/// An open index.
pub(super) struct Index {
    dir: PathBuf,
    db: sled::Db,
    file: File,
    identity: (u64, u64),
}

impl Index {
    /// Opens or makes the index in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        let until = Instant::now() + LOCKED_FOR;
        let db = loop {
            let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES);
            match guarded(|| config.flush_every_ms(None).open()) {
                // One that was closed a moment ago may still be held by a thread of sled's that has not ended.
                Err(reason) if reason.contains(LOCKED) && Instant::now() < until => {
                    std::thread::sleep(LOCKED_AGAIN);
                }
                opened => break opened?,
            }
        };
        let path = dir.join(DB);
        let text = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = File::open(&path).map_err(text)?;
        let about = file.metadata().map_err(text)?;
        Ok(Self {
            dir: dir.to_owned(),
            db,
            file,
            identity: (about.dev(), about.ino()),
        })
    }

    /// Whether `dir` still holds the file that was opened: a deleted one takes writes as if nothing were wrong.
    pub(super) fn in_place(&self) -> bool {
        let about = fs::metadata(self.dir.join(DB));
        about.is_ok_and(|about| (about.dev(), about.ino()) == self.identity)
    }

    /// All rows; `None` when it was never filled.
    pub(super) fn load(&self) -> Result<Option<Loaded>, String> {
        let Some(mark) = guarded(|| self.db.get(MARK))? else {
            return Ok(None);
        };
        let Some((applied, digest)) = parse_mark(&mark) else {
            return Err("its mark is damaged".into());
        };
        let rows = guarded_all(|| {
            let mut rows = Vec::new();
            for item in self.db.range(..vec![POINTERS]) {
                let (key, record) = item.map_err(|error| error.to_string())?;
                let (table, key) = key.split_first().ok_or("it holds a row without a key")?;
                rows.push(Stored {
                    table: *table,
                    key: key.to_vec(),
                    record: record.to_vec(),
                });
            }
            Ok(rows)
        })?;
        Ok(Some(Loaded {
            applied,
            digest,
            rows,
        }))
    }

    /// Writes what a group of entries changed, with the index and digest that then hold.
    pub(super) fn write(
        &self,
        applied: u64,
        digest: Digest,
        rows: BTreeMap<(u8, Vec<u8>), Option<Vec<u8>>>,
    ) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for ((table, key), record) in rows {
            let key = row_key(table, &key);
            match record {
                Some(record) => batch.insert(key, record),
                None => batch.remove(key),
            }
        }
        batch.insert(MARK, &mark(applied, digest)[..]);
        guarded(|| self.db.apply_batch(batch))
    }

    /// Fills an empty index. The mark comes last: without it the rest counts for nothing. Row by row: sled frees what a batch
    /// replaced only after the batch, tens of megabytes with 10,000 jobs.
    pub(super) fn fill(
        &self,
        applied: u64,
        digest: Digest,
        rows: impl Iterator<Item = (u8, Vec<u8>, Vec<u8>)>,
    ) -> Result<(), String> {
        for (table, key, record) in rows {
            let key = row_key(table, &key);
            guarded(|| self.db.insert(key, record))?;
        }
        let marked = mark(applied, digest);
        guarded(|| self.db.insert(MARK, &marked[..])).map(drop)
    }

    /// Takes a segment in: where each of its jobs lies, and that it was taken in.
    pub(super) fn take_in(&self, number: u64, jobs: &[(JobId, Pointer)]) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for (id, pointer) in jobs {
            batch.insert(pointer_key(*id), pointer.to_bytes());
        }
        batch.insert(taken_key(number), &[1]);
        guarded(|| self.db.apply_batch(batch))
    }

    /// The segments that were taken in.
    pub(super) fn taken(&self) -> Result<BTreeSet<u64>, String> {
        guarded_all(|| {
            let mut taken = BTreeSet::new();
            for item in self.db.scan_prefix([TAKEN]) {
                let (key, _) = item.map_err(|error| error.to_string())?;
                let number = key.get(1..).and_then(|number| number.try_into().ok());
                let number: [u8; 8] = number.ok_or("a segment's mark is damaged")?;
                taken.insert(u64::from_be_bytes(number));
            }
            Ok(taken)
        })
    }

    fn pointer(&self, id: JobId) -> Result<Option<Pointer>, String> {
        let bytes = guarded(|| self.db.get(pointer_key(id)))?;
        Ok(bytes.and_then(|bytes| Pointer::from_bytes(&bytes)))
    }

    fn pointers(
        &self,
        after: Option<JobId>,
        owner: &str,
        limit: usize,
    ) -> Result<Vec<(JobId, Pointer)>, String> {
        let mut begin = after.map_or_else(|| vec![POINTERS], pointer_key);
        if after.is_some() {
            // The next key there can be.
            begin.push(0);
        }
        guarded_all(|| {
            let mut rows = Vec::new();
            for item in self.db.range(begin.clone()..vec![TAKEN]) {
                let (key, bytes) = item.map_err(|error| error.to_string())?;
                let row = job_of_key(&key).zip(Pointer::from_bytes(&bytes));
                let row = row.ok_or("a row of history is damaged")?;
                if row.1.may_be_of(owner) {
                    rows.push(row);
                }
                if rows.len() == limit {
                    break;
                }
            }
            Ok(rows)
        })
    }

    /// Bytes of all rows, for comparison with what they take on the disk.
    pub(super) fn live_bytes(&self) -> Result<u64, String> {
        guarded_all(|| {
            let mut bytes = 0_u64;
            for item in self.db.iter() {
                let (key, value) = item.map_err(|error| error.to_string())?;
                bytes += (key.len() + value.len()) as u64;
            }
            Ok(bytes)
        })
    }

    /// What the index takes on the disk, its long records included, which lie beside the data file.
    pub(super) fn file_bytes(&self) -> u64 {
        let data = self.file.metadata().map_or(0, |about| about.len());
        let beside = fs::read_dir(self.dir.join("blobs")).into_iter().flatten();
        let lengths = beside.filter_map(|item| item.ok()?.metadata().ok());
        lengths.fold(data, |sum, about| sum + about.len())
    }

    /// Brings everything written so far to the disk.
    pub(super) fn flush(&self) -> Result<(), String> {
        guarded(|| self.db.flush())?;
        let synced = self.file.sync_data();
        synced.map_err(|error| format!("sync of its data file: {error}"))
    }
}

fn row_key(table: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(table);
    bytes.extend_from_slice(key);
    bytes
}

fn mark(applied: u64, digest: Digest) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[..8].copy_from_slice(&applied.to_le_bytes());
    bytes[8..].copy_from_slice(&digest.to_bytes());
    bytes
}

fn parse_mark(bytes: &[u8]) -> Option<(u64, Digest)> {
    let bytes: &[u8; MARK_BYTES] = bytes.try_into().ok()?;
    let (applied, digest) = bytes.split_first_chunk::<8>()?;
    let digest: [u8; 32] = digest.try_into().ok()?;
    Some((u64::from_le_bytes(*applied), Digest::from_bytes(digest)))
}

/// Where the index stands for readers while it is usable. Readers ask and do not keep it: it is thrown away at any moment.
#[derive(Default)]
pub struct Shelf {
    open: RwLock<Option<(Index, BTreeSet<u64>)>>,
}

impl Shelf {
    /// Puts an index there, which has taken `taken` in.
    pub(super) fn put(&self, index: Index, taken: BTreeSet<u64>) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some((index, taken));
    }

    /// Takes it away and closes it.
    pub(super) fn clear(&self) {
        let old = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // sled may panic where it closes, too, and nobody needs what it says there.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
    }

    /// Runs `call` with the index, if it is there.
    pub(super) fn with<T>(&self, call: impl FnOnce(&Index) -> T) -> Option<T> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(|(index, _)| call(index))
    }

    /// Segments that the index has taken in; `None` while there is no index.
    pub(super) fn taken(&self) -> Option<BTreeSet<u64>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(|(_, taken)| taken.clone())
    }

    /// A segment was taken in.
    pub(super) fn took(&self, number: u64) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, taken)) = open.as_mut() {
            taken.insert(number);
        }
    }

    /// Where an archived job lies, if the index is there and knows.
    pub(super) fn pointer(&self, id: JobId) -> Option<Pointer> {
        self.with(|index| index.pointer(id).ok().flatten())?
    }

    /// Where archived jobs after `after` lie that may be `owner`'s, the lowest `limit` ids; `None` if the index does not
    /// know all of `segments`.
    pub(super) fn pointers(
        &self,
        segments: &BTreeSet<u64>,
        after: Option<JobId>,
        owner: &str,
        limit: usize,
    ) -> Option<Vec<(JobId, Pointer)>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let (index, taken) = open.as_ref()?;
        if !segments.is_subset(taken) {
            return None;
        }
        index.pointers(after, owner, limit).ok()
    }
}

/// Runs a walk over rows; a panic is an error.
fn guarded_all<T>(walk: impl Fn() -> Result<T, String>) -> Result<T, String> {
    let outcome = catch_unwind(AssertUnwindSafe(walk));
    outcome.unwrap_or_else(|_| Err("sled panicked while it read".into()))
}

/// Runs a call into sled; a panic is an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    // Whatever state sled is in after a panic, the index is deleted.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("sled panicked".into()),
    }
}
