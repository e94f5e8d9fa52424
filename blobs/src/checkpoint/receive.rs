//! A checkpoint on its way to this node. Its manifest comes first and says what is wanted; each chunk is verified before it is written at
//! its place; what was written is noted, so that after a crash almost nothing comes twice; it is held when the last chunk is synced.
//! Does NOT talk to anybody: whoever does asks [`Receive::want`] and calls [`Receive::write`], from as many threads as it likes.
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::bits::Bits;
use super::books::Outline;
use super::disk;
use super::error::{CheckpointError, io};
use super::hash::name_of;
use super::limits::{CHUNK_BYTES, PERSIST_AFTER, PERSIST_BYTES, PERSIST_PARTS};
use super::manifest::{HOLE, Kind, Manifest, Place};
use super::share::set_mode;
use super::stamp::Stamp;
use super::store::{CheckpointStore, read_manifest};
use super::twins::Twins;
use crate::BlobId;

/// A checkpoint that is being received. Dropped before it is finished, it stays and can go on later.
pub struct Receive {
    pub(super) store: CheckpointStore,
    pub(super) id: BlobId,
    pub(super) manifest: Manifest,
    pub(super) dir: PathBuf,
    twins: Twins,
    /// Bytes between two notes.
    step: u64,
    progress: Mutex<Progress>,
    /// One note at a time, or an older one could replace a newer one.
    noting: Mutex<()>,
}

struct Progress {
    have: Bits,
    /// Contents with bytes that are not synced.
    dirty: BTreeSet<usize>,
    unsynced: u64,
    noted: Instant,
    /// A sync failed: what is on the disk has to be found out anew.
    failed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CheckpointStore {
    /// Begins to receive the checkpoint with this manifest, or goes on. `None` if it is held already.
    ///
    /// What is here is not wanted again: contents of any checkpoint, and chunks of those in `near`, of a damaged copy, and of what was
    /// written before a crash. All of it is verified, which takes as long as hashing it.
    ///
    /// # Errors
    /// When the manifest is not sound, when there is no room for it ([`CheckpointError::NoRoom`], and nothing was begun), when
    /// somebody is receiving it already.
    pub fn receive(
        &self,
        manifest: &[u8],
        near: &[BlobId],
    ) -> Result<Option<Receive>, CheckpointError> {
        let (bytes, id) = (manifest, BlobId::of(manifest));
        let manifest = Manifest::decode(bytes)?;
        let outline = Outline::of(&manifest);
        let dir = self.incoming_path(&id);
        {
            let mut books = self.books();
            if books.held.contains_key(&id) {
                drop(books);
                if read_manifest(&self.held_path(&id), &id).is_err() {
                    disk::write_whole(&self.held_path(&id), bytes)?;
                }
                return Ok(None);
            }
            if !books.receiving.contains(&id) && !books.incoming.contains_key(&id) {
                self.check_room(&books, &outline, books.added_by(&outline))?;
                disk::make_dir(&dir)?;
                disk::write_whole(&dir.join("manifest"), bytes)?;
                disk::sync_dir(&self.inner.dir.join("incoming"))?;
                books.pin(&outline);
                books.incoming.insert(id, outline);
                if books.unreadable.remove(&id) {
                    disk::remove_file(&self.held_path(&id))?;
                }
            }
            if !books.receiving.insert(id) {
                let what = id.to_string();
                return Err(CheckpointError::Busy { what });
            }
        }
        let receive = Receive {
            store: self.clone(),
            id,
            dir,
            twins: Twins::of(&manifest),
            step: PERSIST_BYTES,
            progress: Mutex::new(Progress {
                have: Bits::new(manifest.chunks()),
                dirty: BTreeSet::new(),
                unsynced: 0,
                noted: Instant::now(),
                failed: false,
            }),
            noting: Mutex::new(()),
            manifest,
        };
        receive.begin(near).map(Some)
    }

    /// Looks whether a checkpoint is whole, byte by byte, and if not begins to receive what it lacks. `None` if it is.
    /// Needs no other node where `near` or a damaged copy still has the chunks: then nothing is wanted and it can be finished at once.
    ///
    /// # Errors
    /// When it is neither held nor on its way, or the disk fails.
    pub fn mend(&self, id: &BlobId, near: &[BlobId]) -> Result<Option<Receive>, CheckpointError> {
        if self.is_held(id) {
            match self.verify(id) {
                Ok(_) => return Ok(None),
                Err(CheckpointError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if !self.books().incoming.contains_key(id) {
            return Err(CheckpointError::NotHeld { id: *id });
        }
        let manifest = read_manifest(&self.incoming_path(id).join("manifest"), id)?;
        self.receive(&manifest, near)
    }
}

impl Receive {
    /// The checkpoint's id.
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// What it will be.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The chunks that have to come. Of equal chunks only the first is among them.
    pub fn want(&self) -> Bits {
        let progress = lock(&self.progress);
        let mut want = Bits::new(self.manifest.chunks());
        for twins in self.twins.groups(&self.manifest) {
            if let Some(first) = twins.iter().find(|number| !progress.have.get(**number)) {
                want.set(*first, true);
            }
        }
        want
    }

    /// Bytes of the chunks that have to come.
    pub fn want_bytes(&self) -> u64 {
        let length = |number| {
            let (content, inside) = self.manifest.chunk(number)?;
            Some(self.manifest.contents()[content].span(inside).1 as u64)
        };
        self.want().iter().filter_map(length).sum()
    }

    /// Takes chunk `index`: verified, then written wherever it belongs. One that is there already is no error.
    ///
    /// # Errors
    /// [`CheckpointError::WrongChunk`] if it is something else; nothing was written then.
    pub fn write(&self, index: u32, bytes: &[u8]) -> Result<(), CheckpointError> {
        let wrong = CheckpointError::WrongChunk { id: self.id, index };
        let Some((content, inside)) = self.manifest.chunk(index) else {
            return Err(wrong);
        };
        let content = &self.manifest.contents()[content];
        let named = content.chunks[inside];
        if bytes.len() != content.span(inside).1 || name_of(bytes) != named {
            return Err(wrong);
        }
        if named != HOLE {
            self.take(&named, bytes)?;
        }
        let due = {
            let progress = lock(&self.progress);
            progress.failed
                || progress.unsynced >= self.step
                || (progress.unsynced > 0 && progress.noted.elapsed() >= PERSIST_AFTER)
        };
        if due { self.persist() } else { Ok(()) }
    }

    /// Writes verified bytes to every place of this chunk that lacks them.
    pub(super) fn take(&self, chunk: &BlobId, bytes: &[u8]) -> Result<(), CheckpointError> {
        for number in self.twins.of_chunk(&self.manifest, chunk) {
            let place = self.manifest.chunk(*number);
            let Some((content, inside)) = place.filter(|_| !self.has(*number)) else {
                continue;
            };
            let path = self.content_path(content);
            let size = self.manifest.contents()[content].size;
            let file = disk::open_sparse(&path, size)?;
            let (at, _) = self.manifest.contents()[content].span(inside);
            disk::write_sparse(&file, &path, bytes, at)?;
            let mut progress = lock(&self.progress);
            progress.have.set(*number, true);
            progress.dirty.insert(content);
            progress.unsynced += bytes.len() as u64;
        }
        Ok(())
    }

    /// Syncs what was written and notes it. Done by itself every 256 MiB and, when something is written, every two seconds.
    ///
    /// # Errors
    /// When the disk fails. After a failed sync nobody knows what is on the disk: that content is thrown away, nothing more is taken,
    /// and [`CheckpointStore::receive`] begins again with what is left.
    pub fn persist(&self) -> Result<(), CheckpointError> {
        let _one = lock(&self.noting);
        let (have, dirty) = {
            let mut progress = lock(&self.progress);
            if progress.failed {
                let source =
                    std::io::Error::other("a sync failed before; begin to receive it again");
                return Err(io("go on in", &self.dir)(source));
            }
            progress.unsynced = 0;
            progress.noted = Instant::now();
            (progress.have.clone(), std::mem::take(&mut progress.dirty))
        };
        for content in &dirty {
            if let Err(error) = self.sync_content(*content) {
                lock(&self.progress).failed = true;
                // What was noted of it goes first, then the bytes.
                disk::remove_file(&self.dir.join("bitmap"))?;
                disk::remove_file(&self.content_path(*content))?;
                return Err(error);
            }
        }
        let mut bytes = have.as_bytes().to_vec();
        bytes.extend_from_slice(BlobId::of(have.as_bytes()).as_bytes());
        disk::write_whole(&self.dir.join("bitmap"), &bytes)
    }

    fn sync_content(&self, content: usize) -> Result<(), CheckpointError> {
        let path = self.content_path(content);
        let file = disk::open(&path)?;
        disk::sync(&file, &path)?;
        disk::forget(&file);
        Ok(())
    }

    /// Holds the checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Incomplete`] when chunks are missing; it stays and can go on.
    pub fn finish(self) -> Result<BlobId, CheckpointError> {
        self.persist()?;
        let missing = self.missing();
        if missing > 0 {
            let id = self.id;
            return Err(CheckpointError::Incomplete { id, missing });
        }
        let objects = &self.store.inner.objects;
        for (number, content) in self.manifest.contents().iter().enumerate() {
            let path = self.content_path(number);
            if !path.exists() {
                if objects.is_there(&content.id) {
                    continue;
                }
                // One of only zeros: nothing of it came, and all of it is a hole. Any other was found damaged since it was asked for.
                let data = content.chunks.iter().filter(|c| **c != HOLE).count();
                if data > 0 {
                    let (id, missing) = (self.id, data as u64);
                    return Err(CheckpointError::Incomplete { id, missing });
                }
            }
            let file = disk::open_sparse(&path, content.size)?;
            set_mode(&file, self.mode_of(number)).map_err(io("change", &path))?;
            disk::sync(&file, &path)?;
            let stamp = Stamp::of(&file).map_err(io("look at", &path))?;
            objects.place(&path, &content.id, stamp)?;
            disk::remove_file(&self.store.damaged_path(&content.id))?;
        }
        objects.sync(self.manifest.contents().iter().map(|c| &c.id))?;
        let held = self.store.held_path(&self.id);
        let outline = Outline::of(&self.manifest);
        self.store.hold(&self.id, &outline, || {
            disk::rename(&self.dir.join("manifest"), &held)?;
            disk::sync_dir(&self.store.inner.dir.join("held"))
        })?;
        // Its needs are those of the held one now.
        self.store.books().incoming.remove(&self.id);
        disk::remove_dir(&self.dir)?;
        Ok(self.id)
    }

    /// Permissions of the first file with this content; those of the pack are nobody's affair.
    fn mode_of(&self, content: usize) -> u16 {
        let mut placed = self.manifest.placed();
        let file = placed.find(|(_, place)| *place == Place::Content(content as u32));
        match file.map(|(entry, _)| &entry.kind) {
            // A store that could not read it again would be of no use.
            Some(Kind::File { mode, .. }) if mode & 0o400 != 0 => *mode,
            _ => 0o600,
        }
    }

    pub(super) fn content_path(&self, content: usize) -> PathBuf {
        self.dir.join(content.to_string())
    }

    pub(super) fn has(&self, number: u32) -> bool {
        lock(&self.progress).have.get(number)
    }

    /// Is this chunk missing anywhere?
    pub(super) fn lacks(&self, chunk: &BlobId) -> bool {
        let mut places = self.twins.of_chunk(&self.manifest, chunk).iter();
        places.any(|number| !self.has(*number))
    }

    pub(super) fn missing(&self) -> u64 {
        let progress = lock(&self.progress);
        u64::from(progress.have.len() - progress.have.count())
    }

    fn numbers(&self, content: usize) -> std::ops::Range<u32> {
        let content = &self.manifest.contents()[content];
        content.first..content.first + content.chunks.len() as u32
    }

    /// All of it is here.
    fn have_all(&self, content: usize) {
        let mut progress = lock(&self.progress);
        for number in self.numbers(content) {
            progress.have.set(number, true);
        }
    }

    /// Nothing of it is here but its holes.
    fn forget(&self, have: &mut Bits, content: usize) {
        let chunks = &self.manifest.contents()[content].chunks;
        for (number, chunk) in self.numbers(content).zip(chunks) {
            have.set(number, *chunk == HOLE);
        }
    }

    /// Finds out what is here already.
    fn begin(mut self, near: &[BlobId]) -> Result<Self, CheckpointError> {
        let noted = self.noted();
        for (number, content) in self.manifest.contents().iter().enumerate() {
            if self.store.inner.objects.is_there(&content.id) {
                match self.store.ensure(&self.id, &self.manifest, number) {
                    Ok(_) => {
                        // What came of it before it was here in another way is of no use any more.
                        disk::remove_file(&self.content_path(number))?;
                        self.have_all(number);
                        continue;
                    }
                    Err(CheckpointError::Damaged { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let mut progress = lock(&self.progress);
            self.forget(&mut progress.have, number);
            let file = fs::metadata(self.content_path(number));
            if file.is_ok_and(|meta| meta.len() == content.size)
                && let Some(noted) = &noted
            {
                for number in self.numbers(number).filter(|number| noted.get(*number)) {
                    progress.have.set(number, true);
                }
            }
        }
        self.fill(near)?;
        self.persist()?;
        self.step = (self.want_bytes() / PERSIST_PARTS).clamp(CHUNK_BYTES, PERSIST_BYTES);
        Ok(self)
    }

    /// What was noted before. One that the disk changed says nothing: then the bytes are hashed instead.
    fn noted(&self) -> Option<Bits> {
        let length = self.manifest.chunks();
        let max = length.div_ceil(8) as usize + 33;
        let bytes = disk::read_small(&self.dir.join("bitmap"), max).ok()?;
        let (bits, check) = bytes.split_last_chunk::<32>()?;
        let good = BlobId::of(bits).as_bytes() == check;
        good.then(|| Bits::from_bytes(bits, length)).flatten()
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        self.store.books().receiving.remove(&self.id);
    }
}
