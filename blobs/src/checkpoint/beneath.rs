//! A directory whose inside is reached name by name, and never through a symbolic link: whatever somebody puts in the way meanwhile,
//! nothing outside of it is read, written or linked. Does NOT check paths: they are those of a checked manifest, or were just listed.
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};

/// An open directory, and the last one inside that was needed: neighbours are cheap.
pub(super) struct Beneath {
    root: OwnedFd,
    last: Option<(String, OwnedFd)>,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Beneath {
    /// Opens `dir`, which must be no link itself; links on the way to it are followed.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let root = rustix::fs::openat(CWD, dir, DIRECTORY, Mode::empty())?;
        Ok(Self { root, last: None })
    }

    /// The directory `path` inside; the root for an empty one.
    pub(super) fn dir(&mut self, path: &str) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let mut at: Option<OwnedFd> = None;
            for name in path.split('/') {
                let from = at.as_ref().unwrap_or(&self.root);
                at = Some(rustix::fs::openat(from, name, DIRECTORY, Mode::empty())?);
            }
            self.last = at.map(|fd| (path.to_owned(), fd));
        }
        let last = self.last.as_ref();
        Ok(last.map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// The directory in which `path` lies, and its name there.
    pub(super) fn parent<'a>(&mut self, path: &'a str) -> io::Result<(BorrowedFd<'_>, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.dir(parent)?, name))
    }

    /// What is at `path`; a link itself, not where it leads.
    pub(super) fn stat(&mut self, path: &str) -> io::Result<Stat> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens a file for reading. Does not wait for the other end of a pipe.
    pub(super) fn read(&mut self, path: &str) -> io::Result<File> {
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?.into())
    }

    /// Makes a file that is not there yet.
    pub(super) fn create(&mut self, path: &str) -> io::Result<File> {
        let (dir, name) = self.parent(path)?;
        Ok(create_at(dir, Path::new(name))?.into())
    }

    /// Makes a directory, for now open to its owner alone.
    pub(super) fn make_dir(&mut self, path: &str) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::mkdirat(dir, name, Mode::RWXU)?)
    }

    /// The names in the directory `path`, sorted. A name that is not UTF-8 is an error that shows it.
    pub(super) fn names(&mut self, path: &str) -> io::Result<Result<Vec<String>, String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.dir(path)?)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => names.push(name.to_owned()),
                Err(_) => return Ok(Err(entry.file_name().to_string_lossy().into_owned())),
            }
        }
        names.sort_unstable();
        Ok(Ok(names))
    }
}

/// Makes a file that is not there yet, readable and writable by its owner.
pub(super) fn create_at(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::RUSR | Mode::WUSR,
    )?)
}
