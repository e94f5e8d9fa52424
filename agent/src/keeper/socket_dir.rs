//! Socket paths of any length: the kernel takes 107 bytes, so the directory is opened and named through `/proc/self/fd`.
//! Does NOT create, bind or connect anything.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
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
    /// When it is not there or may not be passed through.
    pub(crate) fn open(dir: &Path, name: &str) -> io::Result<Self> {
        // Only a way through it: who may pass need not be allowed to list it.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(dir)?;
        let path = Path::new("/proc/self/fd")
            .join(opened.as_raw_fd().to_string())
            .join(name);
        Ok(Self { path, _dir: opened })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
