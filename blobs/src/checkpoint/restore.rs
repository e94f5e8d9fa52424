//! A held checkpoint to a directory, whole or not at all: laid out under a hidden name beside it, synced, then renamed. Nothing outside of
//! it is touched, whatever the manifest says. Does NOT fetch: what is not held here is received first.
//!
//! Large files share blocks with the store where they can, else an inode: `share` says why. A job that then writes into such a file
//! in place changes the kept one too, which is noticed; with `share: false` every file has bytes of its own.
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::fs::{AtFlags, CWD, RenameFlags};

use super::beneath::Beneath;
use super::disk;
use super::error::{CheckpointError, io};
use super::fault::{Step, step};
use super::limits::PACKED_BYTES_MAX;
use super::manifest::{Entry, Kind, Manifest, Place};
use super::share::{How, Sharing, Spot, set_mode};
use super::stamp::Stamp;
use super::store::CheckpointStore;
use crate::BlobId;

/// How a checkpoint is laid out.
#[derive(Debug, Clone, Copy)]
pub struct Restore {
    /// A large file may be a reflink or a hard link of the kept one.
    pub share: bool,
    /// All bytes are hashed before, not only those whose stamp differs.
    pub hash: bool,
}

impl Default for Restore {
    fn default() -> Self {
        Self {
            share: true,
            hash: true,
        }
    }
}

/// A checkpoint that was laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Sum of its files, bytes, holes included.
    pub bytes: u64,
    /// Large files that are hard links of the kept ones.
    pub linked: u32,
    /// Large files that are reflinks.
    pub cloned: u32,
    /// Large files with bytes of their own.
    pub copied: u32,
}

impl CheckpointStore {
    /// Lays `id` out as `dest`, which must not be there; its parent must.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when bytes on this disk changed, [`CheckpointError::Taken`] when `dest` is there. Nothing stays then.
    pub fn restore(
        &self,
        id: &BlobId,
        dest: &Path,
        how: Restore,
    ) -> Result<Restored, CheckpointError> {
        let taken = || CheckpointError::Taken {
            path: dest.to_owned(),
        };
        let name = dest.file_name().ok_or_else(taken)?;
        if fs::symlink_metadata(dest).is_ok() {
            return Err(taken());
        }
        let parent = dest.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let mark = BlobId::of(name.as_encoded_bytes()).to_string();
        let aside = parent.join(format!(".mlctl-restoring-{}", &mark[..16]));
        let _one = Restoring::of(self, &aside)?;
        let manifest = self.manifest(id)?;
        let stamps = self.ensure_all(id, &manifest, how.hash)?;
        // An earlier one may have been killed here.
        make_removable(&aside);
        disk::remove_dir(&aside)?;
        let laid = self
            .lay_out(&manifest, &stamps, &aside, how)
            .and_then(|restored| {
                let moved = step(Step::Other).and_then(|()| {
                    let flags = RenameFlags::NOREPLACE;
                    Ok(rustix::fs::renameat_with(CWD, &aside, CWD, dest, flags)?)
                });
                match moved {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
                    other => other.map_err(io("rename to", dest)),
                }?;
                Ok(restored)
            });
        match laid {
            Ok(restored) => disk::sync_dir(parent).map(|()| restored),
            Err(error) => {
                make_removable(&aside);
                // The error that is told is the first one; what stays is removed by the next restore.
                let _ = disk::remove_dir(&aside);
                Err(error)
            }
        }
    }

    fn ensure_all(
        &self,
        id: &BlobId,
        manifest: &Manifest,
        hash: bool,
    ) -> Result<Vec<Stamp>, CheckpointError> {
        (0..manifest.contents().len())
            .map(|number| match hash {
                true => self.ensure_bytes(id, manifest, number),
                false => self.ensure(id, manifest, number),
            })
            .collect()
    }

    fn lay_out(
        &self,
        manifest: &Manifest,
        stamps: &[Stamp],
        aside: &Path,
        how: Restore,
    ) -> Result<Restored, CheckpointError> {
        let failed = |doing| io(doing, aside);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(aside)
            .map_err(failed("make"))?;
        let mut layout = Layout {
            store: self,
            manifest,
            stamps,
            aside,
            how,
            tree: Beneath::open(aside).map_err(failed("open"))?,
            sharing: if how.share {
                Sharing::default()
            } else {
                Sharing::none()
            },
            linked: BTreeSet::new(),
            pack: None,
            done: Restored {
                bytes: manifest.bytes(),
                ..Restored::default()
            },
        };
        layout.files()?;
        layout.links()?;
        layout.modes()?;
        let root = layout.tree.dir("").map_err(failed("open"))?;
        // One call for many thousands of files; the job that waits for them is not running yet.
        rustix::fs::syncfs(root).map_err(io("sync", aside))?;
        Ok(layout.done)
    }
}

/// One restore at a time to a place.
struct Restoring<'a>(&'a CheckpointStore, PathBuf);

impl<'a> Restoring<'a> {
    fn of(store: &'a CheckpointStore, aside: &Path) -> Result<Self, CheckpointError> {
        let restoring = store.inner.restoring.lock();
        let mut restoring = restoring.unwrap_or_else(PoisonError::into_inner);
        if restoring.insert(aside.to_owned()) {
            Ok(Self(store, aside.to_owned()))
        } else {
            let what = aside.display().to_string();
            Err(CheckpointError::Busy { what })
        }
    }
}

impl Drop for Restoring<'_> {
    fn drop(&mut self) {
        let restoring = self.0.inner.restoring.lock();
        let mut restoring = restoring.unwrap_or_else(PoisonError::into_inner);
        restoring.remove(&self.1);
    }
}

/// A directory without permission to write keeps what is in it, even from its owner.
fn make_removable(dir: &Path) {
    // What cannot be changed or listed makes the removal fail, and that is told.
    if fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir()) {
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                make_removable(&entry.path());
            }
        }
    }
}

/// A second name for a file that was laid out before.
fn link_within(
    firsts: &mut Beneath,
    first: &str,
    tree: &mut Beneath,
    path: &str,
) -> io::Result<()> {
    let (from, from_name) = firsts.parent(first)?;
    let (to, to_name) = tree.parent(path)?;
    Ok(rustix::fs::linkat(
        from,
        from_name,
        to,
        to_name,
        AtFlags::empty(),
    )?)
}

struct Layout<'a> {
    store: &'a CheckpointStore,
    manifest: &'a Manifest,
    stamps: &'a [Stamp],
    aside: &'a Path,
    how: Restore,
    tree: Beneath,
    sharing: Sharing,
    /// Contents that have a name here on the store's inode. A second one would tie two files of the job together.
    linked: BTreeSet<BlobId>,
    pack: Option<File>,
    done: Restored,
}

impl Layout<'_> {
    /// Directories and files, in order: a directory comes before what is in it.
    fn files(&mut self) -> Result<(), CheckpointError> {
        let manifest = self.manifest;
        let mut firsts = Beneath::open(self.aside).map_err(io("open", self.aside))?;
        for (entry, place) in manifest.placed() {
            let path = self.aside.join(&entry.path);
            step(Step::Write).map_err(io("create", &path))?;
            match (&entry.kind, place) {
                (Kind::Directory { .. }, _) => {
                    self.tree.make_dir(&entry.path).map_err(io("make", &path))?;
                }
                (Kind::File { mode, .. }, Place::Content(number)) => {
                    self.large(entry, *mode, number as usize)?;
                }
                (Kind::File { mode, size }, place) => self.small(entry, *mode, *size, place)?,
                (Kind::Same { entry: first }, _) => {
                    let first = &manifest.entries()[*first as usize].path;
                    let linked = link_within(&mut firsts, first, &mut self.tree, &entry.path);
                    linked.map_err(io("link", &path))?;
                }
                (Kind::Link { .. }, _) => {}
            }
        }
        Ok(())
    }

    fn large(&mut self, entry: &Entry, mode: u16, number: usize) -> Result<(), CheckpointError> {
        let path = self.aside.join(&entry.path);
        let id = self.manifest.contents()[number].id;
        let objects = &self.store.inner.objects;
        let file = objects.open_file(&id)?;
        let meta = file.metadata().map_err(io("look at", &path))?;
        let link = self.how.share
            && meta.permissions().mode() & 0o7777 == u32::from(mode)
            && !self.linked.contains(&id);
        let (dir, name) = self.tree.parent(&entry.path).map_err(io("open", &path))?;
        let to = Spot {
            dir,
            name: Path::new(name),
        };
        let kept = objects.path(&id);
        match self.sharing.bring(&file, Spot::at(&kept), to, link)? {
            How::Linked => {
                objects.still(&id, self.stamps[number]);
                self.linked.insert(id);
                self.done.linked += 1;
                return Ok(());
            }
            How::Cloned => self.done.cloned += 1,
            How::Copied => self.done.copied += 1,
        }
        let made = self.tree.read(&entry.path).map_err(io("open", &path))?;
        set_mode(&made, mode).map_err(io("change", &path))
    }

    fn small(
        &mut self,
        entry: &Entry,
        mode: u16,
        size: u64,
        place: Place,
    ) -> Result<(), CheckpointError> {
        let path = self.aside.join(&entry.path);
        let mut made = self.tree.create(&entry.path).map_err(io("create", &path))?;
        if let (Place::Pack(at), Some(pack)) = (place, self.manifest.pack()) {
            let file = match &self.pack {
                Some(file) => file,
                None => self
                    .pack
                    .insert(self.store.inner.objects.open_file(&pack.id)?),
            };
            let mut bytes = [0; PACKED_BYTES_MAX as usize];
            let bytes = &mut bytes[..size as usize];
            file.read_exact_at(bytes, at)
                .map_err(io("read for", &path))?;
            made.write_all(bytes).map_err(io("write", &path))?;
        }
        set_mode(&made, mode).map_err(io("change", &path))
    }

    /// Symbolic links come after every file, so that none of these is reached through one.
    fn links(&mut self) -> Result<(), CheckpointError> {
        for entry in self.manifest.entries() {
            if let Kind::Link { target } = &entry.kind {
                let path = self.aside.join(&entry.path);
                let (dir, name) = self.tree.parent(&entry.path).map_err(io("open", &path))?;
                rustix::fs::symlinkat(target.as_str(), dir, name).map_err(io("link", &path))?;
            }
        }
        Ok(())
    }

    /// Directories get their permissions last and from the inside out: one may forbid to write in it.
    fn modes(&mut self) -> Result<(), CheckpointError> {
        let directories = self.manifest.entries().iter().rev();
        let directories = directories.filter_map(|entry| match entry.kind {
            Kind::Directory { mode } => Some((entry.path.as_str(), mode)),
            _ => None,
        });
        for (path, mode) in directories.chain([("", self.manifest.mode())]) {
            let set = self.tree.dir(path).and_then(|dir| set_mode(&dir, mode));
            set.map_err(io("change", &self.aside.join(path)))?;
        }
        Ok(())
    }
}
