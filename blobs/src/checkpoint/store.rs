//! The directory in which a node keeps checkpoints. One is held whole and verified, or not at all: its manifest gets its place in
//! `held/` last, when everything it names is on the disk. Does NOT know jobs, nodes or a network, and forgets nothing by itself.
//!
//! ```text
//! lock                one process at a time
//! held/<id>           manifests of checkpoints that are whole
//! incoming/<id>/      a checkpoint on its way, or one that was found damaged: manifest, bitmap, the contents begun
//! sealing/<n>/        a seal that goes on in this process; removed at the next start
//! objects/xx/<id>     contents; each is needed by a manifest of held/ or incoming/ or by a seal, or it is garbage
//! damaged/<id>        contents found changed, kept for the chunks that are still good
//! ```
//! How often a content is needed is counted from the manifests at each start and never written down, so no crash can make it wrong.
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::books::{Books, Outline};
use super::disk;
use super::error::{CheckpointError, bad_path, io};
use super::limits::MANIFEST_BYTES_MAX;
use super::manifest::Manifest;
use super::objects::{Objects, lock};
use super::stamp::Stamp;
use crate::BlobId;

/// How a store behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes that all its contents together may have, each counted once and without holes. Manifests (8 MiB per TB) come on top.
    pub limit_bytes: u64,
    /// Threads that hash; 2 keep up with most disks.
    pub threads: usize,
}

/// A checkpoint that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// BLAKE3 of its manifest.
    pub id: BlobId,
    /// Sum of its files, bytes, holes included.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
}

/// How full a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes kept or promised to what is on its way.
    pub used_bytes: u64,
    /// Bytes allowed.
    pub limit_bytes: u64,
}

/// A directory of checkpoints. Cheap to clone, safe to share between threads; a second process is refused. Its calls block.
#[derive(Clone)]
pub struct CheckpointStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) objects: Objects,
    pub(super) books: Mutex<Books>,
    /// Directories that something is being restored to.
    pub(super) restoring: Mutex<BTreeSet<PathBuf>>,
    next: AtomicU64,
    _lock: File,
}

impl CheckpointStore {
    /// Opens or makes the store in `dir`. What a seal had begun is removed, what a receive had begun stays and can go on, what no manifest
    /// needs is collected, and a checkpoint that lacks a content is not held any more.
    ///
    /// # Errors
    /// When another process has it open, or the disk fails.
    pub fn open(dir: impl Into<PathBuf>, options: Options) -> Result<Self, CheckpointError> {
        let dir = dir.into();
        disk::make_dir(&dir)?;
        let lock = lock(&dir)?;
        disk::remove_dir(&dir.join("sealing"))?;
        for part in ["held", "incoming", "sealing", "objects", "damaged"] {
            disk::make_dir(&dir.join(part))?;
        }
        let objects = Objects::open(dir.join("objects"), options.threads)?;
        let inner = Inner {
            dir,
            options,
            objects,
            books: Mutex::default(),
            restoring: Mutex::default(),
            next: AtomicU64::new(0),
            _lock: lock,
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        store.read_books()?;
        store.collect()?;
        Ok(store)
    }

    /// What is held, by id.
    pub fn held(&self) -> Vec<Held> {
        let books = self.books();
        let held = books.held.iter().map(|(id, outline)| Held {
            id: *id,
            bytes: outline.bytes,
            files: outline.files,
        });
        held.collect()
    }

    /// Whether it is held.
    pub fn is_held(&self, id: &BlobId) -> bool {
        self.books().held.contains_key(id)
    }

    /// What was begun to be received and is not whole, and what was found damaged.
    pub fn incoming(&self) -> Vec<BlobId> {
        self.books().incoming.keys().copied().collect()
    }

    /// Ids of manifests that the disk lost. Until each is received again or abandoned nothing is collected.
    pub fn unreadable(&self) -> Vec<BlobId> {
        self.books().unreadable.iter().copied().collect()
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        Usage {
            used_bytes: self.books().used(),
            limit_bytes: self.inner.options.limit_bytes,
        }
    }

    /// Bytes that could be added now: what its limit and the disk leave.
    ///
    /// # Errors
    /// When the disk cannot be asked.
    pub fn free_bytes(&self) -> Result<u64, CheckpointError> {
        let usage = self.usage();
        let left = usage.limit_bytes.saturating_sub(usage.used_bytes);
        Ok(left.min(disk::free_bytes(&self.inner.dir)?))
    }

    /// The bytes of a held manifest, to be sent before its chunks.
    ///
    /// # Errors
    /// When it is not held, or its bytes are not those that were.
    pub fn manifest_bytes(&self, id: &BlobId) -> Result<Vec<u8>, CheckpointError> {
        if !self.is_held(id) {
            return Err(CheckpointError::NotHeld { id: *id });
        }
        read_manifest(&self.inner.dir.join("held").join(id.to_string()), id)
    }

    /// The manifest of a held checkpoint.
    ///
    /// # Errors
    /// As [`CheckpointStore::manifest_bytes`].
    pub fn manifest(&self, id: &BlobId) -> Result<Manifest, CheckpointError> {
        Manifest::decode(&self.manifest_bytes(id)?)
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        // Every change of the books is made of steps that cannot panic.
        let books = self.inner.books.lock();
        books.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn held_path(&self, id: &BlobId) -> PathBuf {
        self.inner.dir.join("held").join(id.to_string())
    }

    pub(super) fn incoming_path(&self, id: &BlobId) -> PathBuf {
        self.inner.dir.join("incoming").join(id.to_string())
    }

    pub(super) fn damaged_path(&self, content: &BlobId) -> PathBuf {
        self.inner.dir.join("damaged").join(content.to_string())
    }

    /// A new directory in `sealing/`.
    pub(super) fn work_path(&self) -> PathBuf {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.dir.join("sealing").join(number.to_string())
    }

    /// Refuses what would go over the limit or what the disk has no room for. `written` bytes would be new on the disk.
    pub(super) fn check_room(
        &self,
        books: &Books,
        outline: &Outline,
        written: u64,
    ) -> Result<(), CheckpointError> {
        let needed = books.added_by(outline);
        let free = self.inner.options.limit_bytes.saturating_sub(books.used());
        if needed > free {
            return Err(CheckpointError::NoRoom { needed, free });
        }
        let free = disk::free_bytes(&self.inner.dir)?;
        if written > free {
            let needed = written;
            return Err(CheckpointError::NoRoom { needed, free });
        }
        Ok(())
    }

    /// Makes a checkpoint held whose contents lie verified and synced in files aside, in order of its contents.
    pub(super) fn admit(
        &self,
        bytes: &[u8],
        manifest: &Manifest,
        asides: &[(PathBuf, Stamp)],
    ) -> Result<BlobId, CheckpointError> {
        let id = BlobId::of(bytes);
        let outline = Outline::of(manifest);
        {
            let mut books = self.books();
            if books.held.contains_key(&id) {
                return Ok(id);
            }
            self.check_room(&books, &outline, 0)?;
            // From here on nothing of it is garbage.
            books.pin(&outline);
        }
        let write = || disk::write_whole(&self.held_path(&id), bytes);
        let placed = self.place(manifest, asides);
        match placed.and_then(|()| self.hold(&id, &outline, write)) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.release(&outline)?;
                Err(error)
            }
        }
    }

    /// The moment at which a checkpoint becomes held: `write` gives its manifest its place. Its contents are needed already.
    pub(super) fn hold(
        &self,
        id: &BlobId,
        outline: &Outline,
        write: impl FnOnce() -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        // Under the lock: a content that is found damaged meanwhile is either seen to be gone, or this checkpoint is seen to need it.
        let mut books = self.books();
        let gone = |content: &BlobId| !self.inner.objects.is_there(content);
        let missing = outline.contents.iter().filter(|(c, _)| gone(c)).count() as u64;
        if missing > 0 {
            return Err(CheckpointError::Incomplete { id: *id, missing });
        }
        write()?;
        books.unreadable.remove(id);
        if let Some(twice) = books.held.insert(*id, outline.clone()) {
            books.unpin(&twice);
        }
        Ok(())
    }

    fn place(
        &self,
        manifest: &Manifest,
        asides: &[(PathBuf, Stamp)],
    ) -> Result<(), CheckpointError> {
        let contents = manifest.contents();
        for (content, (aside, stamp)) in contents.iter().zip(asides) {
            self.inner.objects.place(aside, &content.id, *stamp)?;
            disk::remove_file(&self.damaged_path(&content.id))?;
        }
        self.inner.objects.sync(contents.iter().map(|c| &c.id))
    }

    /// Takes a need back and removes what nothing needs any more.
    pub(super) fn release(&self, outline: &Outline) -> Result<(), CheckpointError> {
        // Under the lock, so that nobody begins to need a content while it goes.
        let mut books = self.books();
        for content in books.unpin(outline) {
            self.inner.objects.remove(&content)?;
            disk::remove_file(&self.damaged_path(&content))?;
        }
        Ok(())
    }

    /// Sees to it that content `number` is what it must be: at a glance if its stamp is right, else by hashing it. Damage is set aside.
    pub(super) fn ensure(
        &self,
        id: &BlobId,
        manifest: &Manifest,
        number: usize,
    ) -> Result<Stamp, CheckpointError> {
        let content = &manifest.contents()[number];
        match self.inner.objects.trusted(&content.id) {
            Some(stamp) => Ok(stamp),
            None => self.ensure_bytes(id, manifest, number),
        }
    }

    /// The same, without believing the stamp.
    pub(super) fn ensure_bytes(
        &self,
        id: &BlobId,
        manifest: &Manifest,
        number: usize,
    ) -> Result<Stamp, CheckpointError> {
        let content = &manifest.contents()[number];
        let bad = self.inner.objects.check(content)?;
        if bad.is_empty() {
            let path = self.inner.objects.path(&content.id);
            let meta = std::fs::metadata(&path);
            return Ok(Stamp::from(&meta.map_err(io("look at", &path))?));
        }
        self.condemn(&content.id)?;
        Err(CheckpointError::Damaged {
            id: *id,
            chunks: bad.len() as u64,
            path: manifest.path_of(number).to_owned(),
        })
    }

    /// A content was found changed: it is set aside, and no checkpoint that needs it is held any more.
    pub(super) fn condemn(&self, content: &BlobId) -> Result<(), CheckpointError> {
        let mut books = self.books();
        for id in books.holders_of(content) {
            self.unhold(&mut books, &id)?;
        }
        let aside = self.damaged_path(content);
        self.inner.objects.set_aside(content, &aside)
    }

    /// A checkpoint that is not whole goes from `held/` to `incoming/`: what it lacks can be received again.
    fn unhold(&self, books: &mut Books, id: &BlobId) -> Result<(), CheckpointError> {
        let dir = self.incoming_path(id);
        disk::make_dir(&dir)?;
        disk::rename(&self.held_path(id), &dir.join("manifest"))?;
        disk::sync_dir(&dir)?;
        disk::sync_dir(&self.inner.dir.join("held"))?;
        if let Some(outline) = books.held.remove(id)
            && let Some(twice) = books.incoming.insert(*id, outline)
        {
            books.unpin(&twice);
        }
        Ok(())
    }

    /// Builds the books from what is on the disk.
    fn read_books(&self) -> Result<(), CheckpointError> {
        let mut books = self.books();
        for name in disk::names(&self.inner.dir.join("incoming"))? {
            let dir = self.inner.dir.join("incoming").join(&name);
            let read = known(&name).map(|id| (id, read_outline(&dir.join("manifest"), &id)));
            match read {
                Ok((id, Ok(outline))) => {
                    books.pin(&outline);
                    books.incoming.insert(id, outline);
                }
                // Its manifest is written before anything else: nothing had come yet. One that the disk changed can come again.
                Err(_) | Ok((_, Err(CheckpointError::Format(_)))) => disk::remove_dir(&dir)?,
                Ok((_, Err(_))) if !dir.join("manifest").exists() => disk::remove_dir(&dir)?,
                Ok((_, Err(error))) => return Err(error),
            }
        }
        for name in disk::names(&self.inner.dir.join("held"))? {
            let path = self.inner.dir.join("held").join(&name);
            let Ok(id) = known(&name) else {
                disk::remove_file(&path)?;
                continue;
            };
            let outline = match read_outline(&path, &id) {
                Ok(outline) => outline,
                Err(CheckpointError::Format(_)) => {
                    books.unreadable.insert(id);
                    continue;
                }
                Err(error) => return Err(error),
            };
            books.pin(&outline);
            let whole = outline
                .contents
                .iter()
                .all(|(content, _)| self.inner.objects.is_there(content));
            books.held.insert(id, outline);
            if !whole {
                self.unhold(&mut books, &id)?;
            }
        }
        Ok(())
    }
}

fn known(name: &str) -> Result<BlobId, CheckpointError> {
    name.parse()
        .map_err(|_| bad_path(name, "is no checkpoint's id"))
}

fn read_outline(path: &Path, id: &BlobId) -> Result<Outline, CheckpointError> {
    let manifest = Manifest::decode(&read_manifest(path, id)?)?;
    Ok(Outline::of(&manifest))
}

/// Reads a manifest and compares it with its name.
pub(super) fn read_manifest(path: &Path, id: &BlobId) -> Result<Vec<u8>, CheckpointError> {
    let bytes = disk::read_small(path, MANIFEST_BYTES_MAX + 1)?;
    if BlobId::of(&bytes) == *id {
        Ok(bytes)
    } else {
        Err(CheckpointError::Format(
            "the disk changed it; receive it again from another holder",
        ))
    }
}
