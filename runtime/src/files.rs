//! Reading and writing whole files: bounded, atomic, and private where they hold a key.
//!
//! Knows nothing of what is in them.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// No configuration file, key or certificate is larger, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It holds a key and others can read it.
    #[error("{path} holds a private key and others may read it (mode {mode:04o}); run `chmod 600 {path}`", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Too large for what it should be.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes: not a file of mlctl", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not UTF-8.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FileError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound if action == "read" => Self::Missing { path },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    read(path, false)
}

/// The text of a file that holds a key; refused when anybody but its owner may read or change it.
pub(crate) fn read_private(path: &Path) -> Result<String, FileError> {
    read(path, true)
}

fn read(path: &Path, private: bool) -> Result<String, FileError> {
    let failed = |source| FileError::io("read", path, source);
    let file = File::open(path).map_err(failed)?;
    if private {
        // Asked of the open file, so that the answer is about what is read below.
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(FileError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
        });
    }
    String::from_utf8(bytes).map_err(|_| FileError::NotText {
        path: path.to_owned(),
    })
}

/// Writes a file whole or not at all, readable by its owner only (0600), and makes its folders (0700) where they
/// are missing. It is on disk when this returns. An old file of that name is replaced.
///
/// # Errors
/// When the system refuses; the old file is then as it was.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o600)
}

/// As [`write_private`], readable by everybody (0644).
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o644)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let folder = folder_of(path);
    make_folder(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{:016x}.tmp", rand::random::<u64>()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(folder));
    written.map_err(|source| {
        // Best effort: what is left behind is private and never read.
        let _ = fs::remove_file(&temporary);
        FileError::io("write", path, source)
    })
}

/// Makes a folder and those above it where they are missing, open to their owner only.
pub(crate) fn make_folder(folder: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| FileError::io("make the folder", folder, source))
}

/// Makes a rename inside `folder` survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder a path is in; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn private_files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a/b/key.pem");
        write_private(&path, b"one").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        let refused = read_private(&path).expect_err("others may read it");
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
        assert!(matches!(refused, FileError::Exposed { mode: 0o644, .. }));
        assert_eq!(read_text(&path).expect("public read"), "one");
        write_private(&path, b"two").expect("replaced");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_private(&path).expect("read"), "two");
        assert_eq!(mode(path.parent().expect("folder")), 0o700);
        let entries = fs::read_dir(path.parent().expect("folder")).expect("list");
        assert_eq!(entries.count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn bad_files_are_told_apart() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("file");
        assert!(matches!(read_text(&path), Err(FileError::Missing { .. })));
        fs::write(&path, [0xff, 0xfe]).expect("written");
        assert!(matches!(read_text(&path), Err(FileError::NotText { .. })));
        fs::write(&path, vec![b'a'; 1024 * 1024 + 1]).expect("written");
        assert!(matches!(read_text(&path), Err(FileError::TooLarge { .. })));
        assert!(matches!(read_text(dir.path()), Err(FileError::Io { .. })));
        // A folder in the way: refused, and nothing is left behind.
        let blocked = dir.path().join("folder");
        fs::create_dir_all(blocked.join("inside")).expect("folder");
        assert!(matches!(
            write_private(&blocked, b"x"),
            Err(FileError::Io { .. })
        ));
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 2);
    }
}
