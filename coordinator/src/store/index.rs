//! The only file that names sled: one tree, keys prefixed by table, `applied` and the digest in every batch.
//!
//! sled panics where others return errors, so every call is caught; a caught panic is an error as any other. Its
//! `flush` alone does not reach the disk: the data file is synced after it.
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::state::{Digest, Row};

/// sled's data file.
pub(super) const DB: &str = "db";
const CACHE_BYTES: u64 = 16 << 20;
/// Rows written in one batch while everything is written anew.
const BATCH_ROWS: usize = 1_000;
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
        let db = guarded(|| {
            sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(None)
                .open()
        })?;
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
        let mut rows = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for item in self.db.range(..MARK.to_vec()) {
                let (key, record) = item.map_err(|error| error.to_string())?;
                let (table, key) = key.split_first().ok_or("it holds a row without a key")?;
                rows.push(Stored {
                    table: *table,
                    key: key.to_vec(),
                    record: record.to_vec(),
                });
            }
            Ok::<(), String>(())
        }));
        outcome.unwrap_or_else(|_| Err("sled panicked while it read".into()))?;
        Ok(Some(Loaded {
            applied,
            digest,
            rows,
        }))
    }

    /// Writes what a group of entries changed, with the index and digest that then hold.
    pub(super) fn write(&self, applied: u64, digest: Digest, rows: Vec<Row>) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for row in rows {
            let key = row_key(row.table, &row.key);
            match row.record {
                Some(record) => batch.insert(key, record),
                None => batch.remove(key),
            }
        }
        batch.insert(MARK, &mark(applied, digest)[..]);
        guarded(|| self.db.apply_batch(batch.clone()))
    }

    /// Fills an empty index. The mark comes last: without it the rest counts for nothing.
    pub(super) fn fill(
        &self,
        applied: u64,
        digest: Digest,
        rows: impl Iterator<Item = (u8, Vec<u8>, Vec<u8>)>,
    ) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        let mut count = 0;
        for (table, key, record) in rows {
            batch.insert(row_key(table, &key), record);
            count += 1;
            if count % BATCH_ROWS == 0 {
                let full = std::mem::take(&mut batch);
                guarded(|| self.db.apply_batch(full.clone()))?;
            }
        }
        batch.insert(MARK, &mark(applied, digest)[..]);
        guarded(|| self.db.apply_batch(batch.clone()))
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

/// Runs a call into sled; a panic is an error.
fn guarded<T>(call: impl Fn() -> sled::Result<T>) -> Result<T, String> {
    // Whatever state sled is in after a panic, the index is deleted.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("sled panicked".into()),
    }
}
