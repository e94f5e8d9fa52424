//! The same bytes under a second name, as cheaply as the file systems allow: reflink, else hard link, else copy.
//! Does NOT sync, and does not judge whether the bytes are right.
//!
//! The order is a decision:
//! 1. **Reflink** (`FICLONE`: XFS, Btrfs, bcachefs). No bytes move, none are added, and the new file is an inode of its own: what a
//!    trainer later writes into its own file does not reach ours, and a job that resumes cannot damage the store. Always tried first.
//! 2. **Small files are copied** whatever the file system: up to 64 KiB go into a checkpoint's pack. Bytes of our own cost less there
//!    than a name, an inode and a stamp for each, and those are the files that trainers do rewrite in place (`trainer_state.json`).
//! 3. **Hard link** for the large ones elsewhere (ext4). Costs nothing and keeps the bytes when the trainer rotates its directory
//!    away; but both names are one inode, so a program that writes into the file in place changes the checkpoint. That is why each
//!    kept file has a *stamp* that is compared before it is served; one that differs is hashed again, and changed bytes are
//!    damage that is noticed and mended, never served. Trainers write new files and rename, so this is rare; to copy every large file
//!    instead would double the bytes that each checkpoint writes to its disk.
//! 4. **Copy** where neither works: another file system, links forbidden to us (`fs.protected_hardlinks`), too many names.
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::beneath::create_at;
use super::disk::{next_data, write_sparse};
use super::error::{CheckpointError, io};
use super::fault::{Step, step};

/// Bytes copied at once.
const BUFFER_BYTES: usize = 1 << 20;

/// How the second name came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// An inode of its own on the same blocks.
    Cloned,
    /// The same inode.
    Linked,
    /// Bytes of its own.
    Copied,
}

/// A name in an open directory.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a Path,
}

impl<'a> Spot<'a> {
    /// By a path of our own.
    pub(super) fn at(name: &'a Path) -> Self {
        Self { dir: CWD, name }
    }
}

/// What two file systems were found unable to do: asked once, not for every file.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    no_clone: AtomicBool,
    no_link: AtomicBool,
}

impl Sharing {
    /// Neither clones nor links: bytes of its own.
    pub(super) fn none() -> Self {
        Self {
            no_clone: true.into(),
            no_link: true.into(),
        }
    }

    /// Gives the open file `file`, whose name is `from`, the name `to` as well. `link` says whether one inode may serve both.
    pub(super) fn bring(
        &self,
        file: &File,
        from: Spot<'_>,
        to: Spot<'_>,
        link: bool,
    ) -> Result<How, CheckpointError> {
        let failed = |doing| io(doing, to.name);
        step(Step::Write).map_err(failed("create"))?;
        if !self.no_clone.load(Ordering::Relaxed) {
            let made = create_at(to.dir, to.name).map_err(failed("create"))?;
            match rustix::fs::ioctl_ficlone(&made, file) {
                Ok(()) => return Ok(How::Cloned),
                Err(Errno::NOSPC | Errno::DQUOT) => {
                    return Err(failed("clone")(io::ErrorKind::StorageFull.into()));
                }
                Err(_) => self.no_clone.store(true, Ordering::Relaxed),
            }
            rustix::fs::unlinkat(to.dir, to.name, AtFlags::empty())
                .map_err(io("remove", to.name))?;
        }
        if link && !self.no_link.load(Ordering::Relaxed) {
            match rustix::fs::linkat(from.dir, from.name, to.dir, to.name, AtFlags::empty()) {
                Ok(()) => return Ok(How::Linked),
                Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP) => {
                    self.no_link.store(true, Ordering::Relaxed);
                }
                Err(Errno::MLINK) => {}
                Err(error) => return Err(failed("link")(error.into())),
            }
        }
        let made = create_at(to.dir, to.name).map_err(failed("create"))?;
        copy(file, &made.into(), to.name)?;
        Ok(How::Copied)
    }
}

/// Copies all bytes; holes stay holes.
fn copy(from: &File, to: &File, path: &Path) -> Result<(), CheckpointError> {
    let size = from.metadata().map_err(io("look at", path))?.len();
    to.set_len(size).map_err(io("write", path))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = 0;
    while let Some(data) = next_data(from, at).map_err(io("read", path))? {
        if data >= size {
            break;
        }
        let read = from.read_at(&mut buffer, data).map_err(io("read", path))?;
        if read == 0 {
            break;
        }
        write_sparse(to, path, &buffer[..read], data)?;
        at = data + read as u64;
    }
    Ok(())
}

/// Sets the nine permission bits of a file that is ours alone.
pub(super) fn set_mode(file: &impl AsFd, mode: u16) -> io::Result<()> {
    let mode = rustix::fs::Mode::from_raw_mode(mode.into());
    Ok(rustix::fs::fchmod(file, mode)?)
}
