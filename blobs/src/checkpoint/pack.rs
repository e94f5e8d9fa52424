//! Writes the pack: the bytes of all small files, one behind the other, in one file.
//! Does NOT keep a table of them: it follows from the manifest.
use std::fs::File;
use std::path::PathBuf;

use super::disk;
use super::error::{CheckpointError, io};
use super::stamp::Stamp;

/// Written at once, bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// A pack that grows.
pub(super) struct PackWriter {
    path: PathBuf,
    /// Made with the first byte.
    file: Option<File>,
    written: u64,
    buffer: Vec<u8>,
}

impl PackWriter {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            written: 0,
            buffer: Vec::new(),
        }
    }

    /// Appends a file's bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Where it lies and how it looks, or `None` if no small file has a byte.
    pub(super) fn finish(mut self) -> Result<Option<(PathBuf, Stamp)>, CheckpointError> {
        self.flush()?;
        let Some(file) = self.file else {
            return Ok(None);
        };
        file.set_len(self.written)
            .map_err(io("write", &self.path))?;
        let stamp = Stamp::of(&file).map_err(io("look at", &self.path))?;
        Ok(Some((self.path, stamp)))
    }

    fn flush(&mut self) -> Result<(), CheckpointError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => disk::create_new(&self.path)?,
        };
        disk::write_sparse(&file, &self.path, &self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.file = Some(file);
        Ok(())
    }
}
