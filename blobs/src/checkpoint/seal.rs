//! A directory that a trainer has finished becomes a held checkpoint. First every file gets a second name in the store, so that the
//! trainer may rotate its own away; then all is hashed, and synced; then it is held. Does NOT decide that a directory is finished.
//!
//! If a file changes on the way the seal fails and leaves nothing: the directory was not finished, and can be sealed again later.
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::beneath::Beneath;
use super::disk;
use super::error::{CheckpointError, io};
use super::hash::{Hashes, Source, hash};
use super::limits::{CLOCK_TICK, PACKED_BYTES_MAX};
use super::manifest::{Kind, Manifest};
use super::pack::PackWriter;
use super::share::{How, Sharing, Spot};
use super::stamp::Stamp;
use super::store::CheckpointStore;
use super::walk::{Listing, lost};
use crate::BlobId;

/// How often a file is hashed whose bytes stay the same while names of it come and go.
const ROUNDS: usize = 4;

/// A checkpoint that was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// BLAKE3 of its manifest.
    pub id: BlobId,
    /// Sum of its files, bytes, holes included.
    pub bytes: u64,
    /// Contents that share an inode with the trainer's file.
    pub linked: u32,
    /// Contents on the same blocks as the trainer's file.
    pub cloned: u32,
    /// Contents with bytes of their own; the pack is one of them.
    pub copied: u32,
}

/// A file of the store that will be a content.
struct Aside {
    path: PathBuf,
    /// The trainer's name for it.
    from: PathBuf,
    stamp: Stamp,
    how: How,
}

/// A directory that goes away with its owner.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = disk::remove_dir(&self.0);
    }
}

impl CheckpointStore {
    /// Seals `dir`, which nobody may write any more, and holds it. The directory itself stays as it is.
    ///
    /// The caller has to know that `dir` is complete when this begins: what was removed before it is listed is not missed. What is
    /// removed or written while its files get their second names is noticed; after that it may go.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] when it is still being written, [`CheckpointError::Path`] for what no checkpoint holds,
    /// [`CheckpointError::NoRoom`] above the limit. Nothing of it is kept then.
    pub fn seal(&self, dir: &Path) -> Result<Sealed, CheckpointError> {
        let work = Work(self.work_path());
        disk::make_dir(&work.0)?;
        let mut tree = Beneath::open(dir).map_err(io("open", dir))?;
        let listing = Listing::of(&mut tree, dir)?;
        let mut asides = gather(&mut tree, dir, &listing, &work.0)?;
        listing.confirm(&mut tree, dir)?;
        if asides.iter().any(|aside| aside.how == How::Linked) {
            // A write that comes after this has another time than the stamps taken above.
            std::thread::sleep(CLOCK_TICK);
        }
        let chunks = hash_asides(&mut asides, self.inner.options.threads)?;
        for aside in &asides {
            disk::sync(&disk::open(&aside.path)?, &aside.path)?;
        }
        let manifest = Manifest::new(listing.mode, listing.entries, chunks)?;
        let ready: Vec<_> = asides.iter().map(|a| (a.path.clone(), a.stamp)).collect();
        let id = self.admit(&manifest.encode()?, &manifest, &ready)?;
        let count = |how| asides.iter().filter(|aside| aside.how == how).count() as u32;
        Ok(Sealed {
            id,
            bytes: manifest.bytes(),
            linked: count(How::Linked),
            cloned: count(How::Cloned),
            copied: count(How::Copied),
        })
    }
}

/// Gives every large file a second name in `work`, and copies the small ones into the pack. In order of contents.
fn gather(
    tree: &mut Beneath,
    root: &Path,
    listing: &Listing,
    work: &Path,
) -> Result<Vec<Aside>, CheckpointError> {
    let sharing = Sharing::default();
    let mut asides = Vec::new();
    let mut pack = PackWriter::new(work.join("pack"));
    for entry in &listing.entries {
        let Kind::File { size, .. } = entry.kind else {
            continue;
        };
        let from = root.join(&entry.path);
        let opened = tree.read(&entry.path);
        let file = opened.map_err(lost(root, &entry.path, "open"))?;
        let before = Stamp::of(&file).map_err(io("look at", &from))?;
        if before.size != size {
            return Err(CheckpointError::Changed { path: from });
        }
        if size <= PACKED_BYTES_MAX {
            pack.push(&small_bytes(&file, &from, before)?)?;
            continue;
        }
        let parent = tree.parent(&entry.path);
        let (dir, name) = parent.map_err(lost(root, &entry.path, "open"))?;
        let name = Path::new(name);
        let path = work.join(asides.len().to_string());
        let how = match sharing.bring(&file, Spot { dir, name }, Spot::at(&path), true) {
            // It was rotated away just now.
            Err(CheckpointError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(CheckpointError::Changed { path: from });
            }
            other => other?,
        };
        let stamp = Stamp::of(&disk::open(&path)?).map_err(io("look at", &path))?;
        let same = match how {
            // The name that was linked may have been given to another file since it was opened.
            How::Linked => stamp,
            How::Cloned | How::Copied => Stamp::of(&file).map_err(io("look at", &from))?,
        };
        if !same.same_bytes(&before) || stamp.size != size {
            return Err(CheckpointError::Changed { path: from });
        }
        asides.push(Aside {
            path,
            from,
            stamp,
            how,
        });
    }
    if let Some((path, stamp)) = pack.finish()? {
        let (from, how) = (root.to_owned(), How::Copied);
        asides.push(Aside {
            path,
            from,
            stamp,
            how,
        });
    }
    Ok(asides)
}

/// All bytes of a small file that stood still while they were read.
fn small_bytes(file: &File, from: &Path, before: Stamp) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes = Vec::with_capacity(before.size as usize);
    let mut upto = file.take(before.size + 1);
    upto.read_to_end(&mut bytes).map_err(io("read", from))?;
    let after = Stamp::of(file).map_err(io("look at", from))?;
    if bytes.len() as u64 == before.size && after.same_bytes(&before) {
        Ok(bytes)
    } else {
        let path = from.to_owned();
        Err(CheckpointError::Changed { path })
    }
}

/// Hashes all of them, and again those whose inode changed meanwhile, until each was hashed while it stood still.
fn hash_asides(asides: &mut [Aside], threads: usize) -> Result<Vec<Vec<BlobId>>, CheckpointError> {
    let mut chunks: Vec<Option<Hashes>> = vec![None; asides.len()];
    let mut todo: Vec<usize> = (0..asides.len()).collect();
    for _ in 0..ROUNDS {
        let sources: Vec<Source> = todo
            .iter()
            .map(|number| Source {
                path: asides[*number].path.clone(),
                size: asides[*number].stamp.size,
            })
            .collect();
        let hashed = hash(&sources, threads)?;
        let mut again = Vec::new();
        for (number, hashes) in todo.into_iter().zip(hashed) {
            let aside = &mut asides[number];
            let file = disk::open(&aside.path)?;
            let now = Stamp::of(&file).map_err(io("look at", &aside.path))?;
            let path = aside.from.clone();
            let before = chunks[number].replace(hashes);
            let differs = before.is_some() && before != chunks[number];
            if differs || !now.same_bytes(&aside.stamp) {
                return Err(CheckpointError::Changed { path });
            }
            if now != aside.stamp {
                aside.stamp = now;
                again.push(number);
            }
        }
        todo = again;
        if todo.is_empty() {
            break;
        }
    }
    if let Some(number) = todo.first() {
        let path = asides[*number].from.clone();
        return Err(CheckpointError::Changed { path });
    }
    let complete = |hashes: Option<Hashes>| hashes?.into_iter().collect::<Option<Vec<_>>>();
    let mut all = Vec::new();
    for (hashes, aside) in chunks.into_iter().zip(asides) {
        let path = aside.from.clone();
        all.push(complete(hashes).ok_or(CheckpointError::Changed { path })?);
    }
    Ok(all)
}
