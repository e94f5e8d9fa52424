//! Socket paths of any length: the kernel takes 107 bytes, so the directory is opened and named through `/proc/self/fd`.
//! Does NOT create, bind or connect anything.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A short path to a file of a directory, good as long as this value lives.
#[derive(Debug)]
pub(crate) struct ShortPath {
    path: PathBuf,
    _dir: File,
}

impl ShortPath {
    /// Opens `dir`.
    ///
    /// # Errors
    /// When it is not there or may not be read.
    pub(crate) fn open(dir: &Path, name: &str) -> io::Result<Self> {
        let opened = File::open(dir)?;
        let path = Path::new("/proc/self/fd")
            .join(opened.as_raw_fd().to_string())
            .join(name);
        Ok(Self { path, _dir: opened })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
