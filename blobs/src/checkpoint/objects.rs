//! The kept contents: `objects/<two digits>/<content id>`, each verified when it came, and beside it the stamp by which it is known to be
//! unchanged since. Does NOT count who needs them.
//!
//! A stamp need not survive a power cut: without one the bytes are hashed again.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disk;
use super::error::{CheckpointError, io};
use super::hash::{Source, hash};
use super::manifest::Content;
use super::stamp::Stamp;
use crate::BlobId;

/// How long a directory that is in use is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// The folder of contents.
pub(super) struct Objects {
    dir: PathBuf,
    threads: usize,
}

/// The disk cannot give back what was written.
fn is_lost(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

impl Objects {
    /// Makes what is missing of its folders.
    pub(super) fn open(dir: PathBuf, threads: usize) -> Result<Self, CheckpointError> {
        for number in 0..=255_u8 {
            let part = dir.join(format!("{number:02x}"));
            if !part.is_dir() {
                disk::make_dir(&part)?;
            }
        }
        disk::sync_dir(&dir)?;
        Ok(Self { dir, threads })
    }

    pub(super) fn path(&self, id: &BlobId) -> PathBuf {
        let name = id.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    fn stamp_path(&self, id: &BlobId) -> PathBuf {
        self.path(id).with_extension("stamp")
    }

    pub(super) fn is_there(&self, id: &BlobId) -> bool {
        self.path(id).is_file()
    }

    /// Notes how `id` looks now that its bytes are known to be right.
    pub(super) fn note(&self, id: &BlobId, stamp: Stamp) {
        let path = self.stamp_path(id);
        let aside = path.with_extension("new");
        // Without a note the bytes are hashed once more; with half of one as well.
        let _ = fs::write(&aside, stamp.to_text()).and_then(|()| fs::rename(&aside, &path));
    }

    fn noted(&self, id: &BlobId) -> Option<Stamp> {
        let text = disk::read_small(&self.stamp_path(id), 256).ok()?;
        Stamp::from_text(std::str::from_utf8(&text).ok()?)
    }

    /// The stamp of `id` if it is what it was when its bytes were last verified.
    pub(super) fn trusted(&self, id: &BlobId) -> Option<Stamp> {
        let now = Stamp::from(&fs::metadata(self.path(id)).ok()?);
        (self.noted(id)? == now).then_some(now)
    }

    /// After a name of `id` came or went by our own doing: `before` was trusted, and only the change time may differ.
    pub(super) fn still(&self, id: &BlobId, before: Stamp) {
        if let Ok(meta) = fs::metadata(self.path(id)) {
            let now = Stamp::from(&meta);
            if now.same_bytes(&before) {
                self.note(id, now);
            }
        }
    }

    /// Hashes the whole of it and returns the chunks that are not what they must be.
    pub(super) fn check(&self, content: &Content) -> Result<Vec<u32>, CheckpointError> {
        let path = self.path(&content.id);
        let all = || Ok((0..content.chunks.len() as u32).collect());
        let Ok(before) = fs::metadata(&path) else {
            return all();
        };
        let size = content.size;
        let path = path.clone();
        let hashes = match hash(&[Source { path, size }], self.threads) {
            // The disk has lost something of it: what, the next reader need not find out.
            Err(CheckpointError::Io { source, .. }) if is_lost(&source) => {
                return all();
            }
            other => other?,
        };
        let pairs = hashes[0].iter().zip(&content.chunks).enumerate();
        let bad = pairs.filter(|(_, (found, named))| found.as_ref() != Some(*named));
        let mut bad: Vec<u32> = bad.map(|(number, _)| number as u32).collect();
        let before = Stamp::from(&before);
        if bad.is_empty() && before.size != size {
            // Grown behind its end: the last chunk is not the last one any more.
            bad.push(content.chunks.len() as u32 - 1);
        }
        if bad.is_empty() {
            self.still(&content.id, before);
        }
        Ok(bad)
    }

    /// Moves the file `aside`, whose bytes were verified and synced when it looked like `stamp`, to its place.
    pub(super) fn place(
        &self,
        aside: &Path,
        id: &BlobId,
        stamp: Stamp,
    ) -> Result<(), CheckpointError> {
        let path = self.path(id);
        let there = fs::metadata(&path).ok().map(|meta| Stamp::from(&meta));
        if let Some(there) = there {
            // Ours goes if the one that is there is good, or is the same inode: renaming would then do nothing at all.
            let trusted = self.trusted(id).is_some();
            if trusted || there.same_bytes(&stamp) {
                disk::remove_file(aside)?;
                self.still(id, if trusted { there } else { stamp });
                return Ok(());
            }
        }
        disk::rename(aside, &path)?;
        self.still(id, stamp);
        Ok(())
    }

    /// Makes the places of all `ids` durable.
    pub(super) fn sync<'a>(
        &self,
        ids: impl Iterator<Item = &'a BlobId>,
    ) -> Result<(), CheckpointError> {
        let parts: std::collections::BTreeSet<u8> = ids.map(|id| id.as_bytes()[0]).collect();
        for part in parts {
            disk::sync_dir(&self.dir.join(format!("{part:02x}")))?;
        }
        Ok(())
    }

    pub(super) fn open_file(&self, id: &BlobId) -> Result<File, CheckpointError> {
        disk::open(&self.path(id))
    }

    /// Removes it and its stamp; returns the bytes that it had on the disk.
    pub(super) fn remove(&self, id: &BlobId) -> Result<u64, CheckpointError> {
        use std::os::unix::fs::MetadataExt;
        let path = self.path(id);
        let bytes = fs::metadata(&path).map_or(0, |meta| meta.blocks() * 512);
        disk::remove_file(&path)?;
        disk::remove_file(&self.stamp_path(id))?;
        Ok(bytes)
    }

    /// Moves it out of the way as damaged.
    pub(super) fn set_aside(&self, id: &BlobId, to: &Path) -> Result<(), CheckpointError> {
        disk::remove_file(&self.stamp_path(id))?;
        let path = self.path(id);
        if path.exists() {
            disk::rename(&path, to)?;
        }
        Ok(())
    }

    /// Everything that lies here and is named by a content, and the files that are not.
    pub(super) fn list(&self) -> Result<(Vec<BlobId>, Vec<PathBuf>), CheckpointError> {
        let (mut ids, mut others) = (Vec::new(), Vec::new());
        for part in disk::names(&self.dir)? {
            let part = self.dir.join(part);
            let names = disk::names(&part)?;
            for name in &names {
                match name.parse::<BlobId>() {
                    Ok(id) => ids.push(id),
                    Err(_) => {
                        let of = name.strip_suffix(".stamp");
                        if !of.is_some_and(|of| names.iter().any(|n| n == of)) {
                            others.push(part.join(name));
                        }
                    }
                }
            }
        }
        Ok((ids, others))
    }
}

/// Takes the directory for this process. Waits a moment: while somebody who had it starts a program, that has the lock as well.
pub(super) fn lock(dir: &Path) -> Result<File, CheckpointError> {
    use rustix::fs::FlockOperation::NonBlockingLockExclusive;
    let path = dir.join("lock");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let file = options.open(&path).map_err(io("open", &path))?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = dir.display().to_string();
                return Err(CheckpointError::Busy { what });
            }
            Err(error) => return Err(io("lock", &path)(error)),
        }
    }
}
