//! A directory of blobs. A blob is there whole and verified, or not at all: written aside, hashed, synced, renamed.
//! Does not count references and deletes nothing by itself.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::BlobId;

/// Why a blob could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes that came are not the bytes that were named.
    #[error("blob {named} arrived as {found}: its bytes were changed on the way; send it again")]
    Mismatch {
        /// The id that was announced.
        named: BlobId,
        /// The id of what came.
        found: BlobId,
    },
    /// The disk or the file system failed.
    #[error("blob store: {doing} {path}")]
    Io {
        /// In present tense, such as `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        doing,
        path,
        source,
    }
}

/// A directory of verified blobs. Cheap to clone, safe to share.
#[derive(Debug, Clone)]
pub struct Store {
    dir: Arc<PathBuf>,
    next: Arc<AtomicU64>,
}

impl Store {
    /// Opens or makes the store in `dir`, and removes what an earlier process had begun and not finished.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        let incoming = dir.join("incoming");
        if incoming.exists() {
            fs::remove_dir_all(&incoming).map_err(io("clear", &incoming))?;
        }
        fs::create_dir_all(&incoming).map_err(io("make", &incoming))?;
        Ok(Self {
            dir: Arc::new(dir),
            next: Arc::new(AtomicU64::new(0)),
        })
    }

    /// Where `id` lies if it is here. Two levels keep directories small.
    pub fn path(&self, id: &BlobId) -> PathBuf {
        let name = id.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// Whether `id` is here. What is here was verified when it came.
    pub fn has(&self, id: &BlobId) -> bool {
        self.path(id).is_file()
    }

    /// Opens `id` for reading.
    pub fn open_blob(&self, id: &BlobId) -> Result<File, StoreError> {
        let path = self.path(id);
        File::open(&path).map_err(io("open", &path))
    }

    /// Reads `id` whole and verifies it again; for small blobs such as manifests.
    pub fn read(&self, id: &BlobId) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        self.open_blob(id)?
            .read_to_end(&mut bytes)
            .map_err(io("read", &self.path(id)))?;
        let found = BlobId::of(&bytes);
        if found == *id {
            Ok(bytes)
        } else {
            Err(StoreError::Mismatch { named: *id, found })
        }
    }

    /// Keeps `bytes` and returns their id. Durable when it returns.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<BlobId, StoreError> {
        let id = BlobId::of(bytes);
        if !self.has(&id) {
            let mut incoming = self.begin(id)?;
            incoming.write(bytes)?;
            incoming.commit()?;
        }
        Ok(id)
    }

    /// Begins to receive the blob that will prove to be `id`.
    pub fn begin(&self, id: BlobId) -> Result<Incoming, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self
            .dir
            .join("incoming")
            .join(format!("{}-{number}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io("create", &path))?;
        Ok(Incoming {
            target: self.path(&id),
            id,
            path,
            file,
            hasher: blake3::Hasher::new(),
            done: false,
        })
    }
}

/// A blob on its way in. Dropped before [`Incoming::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    id: BlobId,
    path: PathBuf,
    target: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    done: bool,
}

impl Incoming {
    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        self.hasher.count()
    }

    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(io("write", &self.path))
    }

    /// Verifies the whole and makes it durable under its id.
    pub fn commit(mut self) -> Result<(), StoreError> {
        let found = BlobId::from_hash(self.hasher.finalize());
        if found != self.id {
            return Err(StoreError::Mismatch {
                named: self.id,
                found,
            });
        }
        self.file.sync_all().map_err(io("sync", &self.path))?;
        let dir = self.target.parent().unwrap_or(Path::new("."));
        let made = !dir.exists();
        fs::create_dir_all(dir).map_err(io("make", dir))?;
        fs::rename(&self.path, &self.target).map_err(io("rename", &self.target))?;
        self.done = true;
        sync_dir(dir)?;
        match dir.parent() {
            Some(parent) if made => sync_dir(parent),
            _ => Ok(()),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.done {
            // Nothing more can be done about a file that will not go; `open` clears the folder.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path().join("blobs")).expect("opens");
        let id = store.put_bytes(b"hello").expect("kept");
        assert!(store.has(&id));
        assert_eq!(store.read(&id).expect("there"), b"hello");

        let other = BlobId::of(b"other");
        let mut wrong = store.begin(other).expect("begun");
        wrong.write(b"tampered").expect("written");
        assert!(matches!(wrong.commit(), Err(StoreError::Mismatch { .. })));
        assert!(!store.has(&other));

        let mut half = store.begin(other).expect("begun");
        half.write(b"oth").expect("written");
        drop(half);
        let left = fs::read_dir(dir.path().join("blobs/incoming"))
            .expect("there")
            .count();
        assert_eq!((store.has(&other), left), (false, 0));
    }

    #[test]
    fn damage_on_disk_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("opens");
        let id = store.put_bytes(b"hello").expect("kept");
        fs::write(store.path(&id), b"jello").expect("written");
        assert!(matches!(store.read(&id), Err(StoreError::Mismatch { .. })));
    }
}
