//! The number of the last synced write, in a file of its own beside the log's.
//!
//! A tail that is cut off, or whose last record is changed, looks like a write that a crash tore; the log alone cannot
//! tell. The witness can: it is written after each sync and never synced itself, so that after a power cut it may be
//! behind but never ahead. It does not say what was lost, and an unreadable witness is no witness.

use super::LogError;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const NAME: &str = "last-write";
const BYTES: usize = 12;

/// The open file.
pub struct Witness {
    path: PathBuf,
    file: File,
}

impl Witness {
    /// Opens or creates the file, and says which write it saw last.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn open(dir: &Path) -> Result<(Self, Option<u64>), LogError> {
        let path = dir.join(NAME);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = opened.map_err(LogError::io("open", &path))?;
        let mut bytes = [0; BYTES];
        let read = file.read_at(&mut bytes, 0);
        let read = read.map_err(LogError::io("read", &path))?;
        let seen = (read == BYTES).then(|| decode(&bytes)).flatten();
        if seen.is_none() && read > 0 {
            tracing::warn!(path = %path.display(), "the witness of the last write cannot be read; a tail that was cut off would not be noticed");
        }
        Ok((Self { path, file }, seen))
    }

    /// The write of this number is synced.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn saw(&self, number: u64) -> Result<(), LogError> {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..8]);
        bytes[8..].copy_from_slice(&sum.to_le_bytes());
        self.file
            .write_all_at(&bytes, 0)
            .map_err(LogError::io("write", &self.path))
    }
}

fn decode(bytes: &[u8; BYTES]) -> Option<u64> {
    let (number, sum) = bytes.split_first_chunk::<8>()?;
    let sum = u32::from_le_bytes(<[u8; 4]>::try_from(sum).ok()?);
    (crc32fast::hash(number) == sum).then(|| u64::from_le_bytes(*number))
}
