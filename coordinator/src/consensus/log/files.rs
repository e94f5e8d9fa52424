//! The files of the log under raft-engine, which remember that the disk failed.
//!
//! raft-engine panics when a sync fails, and once more while it is dropped, so that the process would end without a word on what to
//! do, and its own files forget what the system said. Here the failure is remembered instead, and `engine` asks for it after each write. From then on nothing is written, synced or
//! deleted: what the disk holds is unknown, and no second sync makes it known. A full disk is no failure: raft-engine knows how to
//! go on after that.
//! (The kernel forgets a write error once it is told: <https://wiki.postgresql.org/wiki/Fsync_Errors>.)
//! It does not end the process.

use super::LogError;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The first thing that the disk failed at. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<OnceLock<Failed>>);

struct Failed {
    action: &'static str,
    path: PathBuf,
    reason: String,
}

impl Failure {
    /// Whether the disk did everything it was asked for.
    ///
    /// # Errors
    /// [`LogError::Disk`], from the first failure on.
    pub(super) fn check(&self) -> Result<(), LogError> {
        self.0.get().map_or(Ok(()), |failed| {
            Err(LogError::Disk {
                action: failed.action,
                path: failed.path.clone(),
                reason: failed.reason.clone(),
            })
        })
    }

    fn is_seen(&self) -> bool {
        self.0.get().is_some()
    }

    /// Only the first says what happened; later ones follow from it.
    fn remember(&self, action: &'static str, path: &Path, error: &io::Error) {
        self.0.get_or_init(|| Failed {
            action,
            path: path.to_path_buf(),
            reason: error.to_string(),
        });
    }

    /// Refuses to touch the disk after a failure.
    fn refuse(&self) -> io::Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(failed) => Err(io::Error::other(failed.reason.clone())),
        }
    }
}

/// The operating system's files, with a memory of failure.
#[derive(Default)]
pub(super) struct Files {
    failure: Failure,
    /// Lets the next syncs fail.
    #[cfg(test)]
    pub(super) broken: Arc<std::sync::atomic::AtomicBool>,
}

impl Files {
    /// What fails in these files.
    pub(super) fn failure(&self) -> Failure {
        self.failure.clone()
    }

    fn open_with(&self, path: &Path, how: &mut fs::OpenOptions) -> io::Result<OpenFile> {
        Ok(OpenFile {
            file: how.read(true).open(path)?,
            path: path.to_path_buf(),
            failure: self.failure.clone(),
            #[cfg(test)]
            broken: Arc::clone(&self.broken),
        })
    }
}

impl FileSystem for Files {
    type Handle = OpenFile;
    type Reader = Place;
    type Writer = Place;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<OpenFile> {
        self.failure.refuse()?;
        self.open_with(path.as_ref(), File::options().write(true).create(true))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<OpenFile> {
        let write = permission == Permission::ReadWrite;
        self.open_with(path.as_ref(), File::options().write(write))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.failure.refuse()?;
        fs::remove_file(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        self.failure.refuse()?;
        fs::rename(from, to)
    }

    fn new_reader(&self, file: Arc<OpenFile>) -> io::Result<Place> {
        Ok(Place { file, at: 0 })
    }

    fn new_writer(&self, file: Arc<OpenFile>) -> io::Result<Place> {
        Ok(Place { file, at: 0 })
    }
}

/// An open file of the log.
pub(super) struct OpenFile {
    path: PathBuf,
    file: File,
    failure: Failure,
    #[cfg(test)]
    broken: Arc<std::sync::atomic::AtomicBool>,
}

impl OpenFile {
    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.broken.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Errno::EIO.into());
        }
        self.file.sync_data()
    }
}

impl Handle for OpenFile {
    /// Does nothing after a failure: raft-engine would panic.
    fn truncate(&self, offset: usize) -> io::Result<()> {
        if self.failure.is_seen() {
            return Ok(());
        }
        self.file.set_len(offset as u64)
    }

    fn file_size(&self) -> io::Result<usize> {
        let length = self.file.metadata()?.len();
        usize::try_from(length).map_err(io::Error::other)
    }

    /// Succeeds also when it fails: raft-engine would panic. Who wants to know asks [`Failure::check`].
    fn sync(&self) -> io::Result<()> {
        if !self.failure.is_seen()
            && let Err(error) = self.sync_data()
        {
            self.failure.remember("sync", &self.path, &error);
        }
        Ok(())
    }
}

/// Where somebody reads or writes in an open file.
pub(super) struct Place {
    file: Arc<OpenFile>,
    at: u64,
}

impl Read for Place {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = &self.file;
        file.failure.refuse()?;
        let written = file.file.write_at(bytes, self.at).inspect_err(|error| {
            if !is_full(error) && error.kind() != ErrorKind::Interrupted {
                file.failure.remember("write", &file.path, error);
            }
        })?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Place {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.file.file.metadata()?.len(), by),
        };
        let at = from.checked_add_signed(by);
        self.at = at.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

impl WriteExt for Place {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.at = offset as u64;
        Handle::truncate(&*self.file, offset)
    }

    /// Makes room. A file system that cannot has room made by each write.
    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.file.failure.refuse()?;
        let (offset, size) = (i64::try_from(offset), i64::try_from(size));
        let (offset, size) = offset
            .and_then(|offset| Ok((offset, size?)))
            .map_err(io::Error::other)?;
        match fallocate(&self.file.file, FallocateFlags::empty(), offset, size) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}
