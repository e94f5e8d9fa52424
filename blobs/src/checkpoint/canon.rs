//! The bytes of a manifest: one spelling for each, so that its BLAKE3 is its name. Version 1, little-endian, no compression.
//! Does NOT judge what is read beyond its spelling: [`Manifest::new`] does. Bytes may come from an enemy.
//!
//! ```text
//! "mlckpt" version:u16 mode:u16 entries:u32
//! entry:   kind:u8 path:(u16, bytes), then  0 directory: mode:u16 | 1 file: mode:u16 size:u64 | 2 link: (u16, bytes) | 3 same: u32
//! content: runs until its chunks are complete; run: u32, its highest bit says hole, the rest how many; of data each 32 bytes
//! ```
use super::error::CheckpointError;
use super::limits::{CHUNK_BYTES, ENTRIES_MAX, MANIFEST_BYTES_MAX};
use super::manifest::{Content, Entry, HOLE, Kind, Manifest, layout};
use crate::BlobId;

const MAGIC: &[u8; 6] = b"mlckpt";
const VERSION: u16 = 1;
const HOLES: u32 = 1 << 31;

impl Manifest {
    /// The canonical bytes.
    ///
    /// # Errors
    /// When they would be too many for anybody to take.
    pub fn encode(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.mode().to_le_bytes());
        out.extend_from_slice(&(self.entries().len() as u32).to_le_bytes());
        for entry in self.entries() {
            put_entry(&mut out, entry);
        }
        for content in self.contents() {
            put_runs(&mut out, content);
        }
        if out.len() > MANIFEST_BYTES_MAX {
            return Err(CheckpointError::TooLarge);
        }
        Ok(out)
    }

    /// Reads and checks what somebody sent.
    ///
    /// # Errors
    /// When it is no manifest, an unsound one, or one in another spelling.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(CheckpointError::TooLarge);
        }
        let mut reader = Reader(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(CheckpointError::Format("it does not begin as one"));
        }
        if reader.u16()? != VERSION {
            return Err(CheckpointError::Format("its version is not known here"));
        }
        let mode = reader.u16()?;
        let count = reader.u32()? as usize;
        if count > ENTRIES_MAX {
            return Err(CheckpointError::TooLarge);
        }
        // The count is a claim: memory grows with what is really there.
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(reader.entry()?);
        }
        let (_, sizes) = layout(&entries)?;
        let mut contents = Vec::new();
        for size in sizes {
            contents.push(reader.runs(size.div_ceil(CHUNK_BYTES))?);
        }
        if !reader.0.is_empty() {
            return Err(CheckpointError::Format("bytes follow its end"));
        }
        Self::new(mode, entries, contents)
    }
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let text = |out: &mut Vec<u8>, text: &str| {
        // The check of paths and targets keeps both far below.
        out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    out.push(match entry.kind {
        Kind::Directory { .. } => 0,
        Kind::File { .. } => 1,
        Kind::Link { .. } => 2,
        Kind::Same { .. } => 3,
    });
    text(out, &entry.path);
    match &entry.kind {
        Kind::Directory { mode } => out.extend_from_slice(&mode.to_le_bytes()),
        Kind::File { mode, size } => {
            out.extend_from_slice(&mode.to_le_bytes());
            out.extend_from_slice(&size.to_le_bytes());
        }
        Kind::Link { target } => text(out, target),
        Kind::Same { entry } => out.extend_from_slice(&entry.to_le_bytes()),
    }
}

fn put_runs(out: &mut Vec<u8>, content: &Content) {
    for run in content.chunks.chunk_by(|a, b| (*a == HOLE) == (*b == HOLE)) {
        let count = run.len() as u32;
        if run[0] == HOLE {
            out.extend_from_slice(&(count | HOLES).to_le_bytes());
        } else {
            out.extend_from_slice(&count.to_le_bytes());
            for chunk in run {
                out.extend_from_slice(chunk.as_bytes());
            }
        }
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CheckpointError> {
        let cut = self.0.split_at_checked(count);
        let (taken, rest) = cut.ok_or(CheckpointError::Format("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let cut = self.0.split_first_chunk::<N>();
        let (taken, rest) = cut.ok_or(CheckpointError::Format("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, CheckpointError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, CheckpointError> {
        let length = self.u16()?;
        let text = std::str::from_utf8(self.take(length.into())?);
        text.map(str::to_owned)
            .map_err(|_| CheckpointError::Format("a name is not UTF-8"))
    }

    fn entry(&mut self) -> Result<Entry, CheckpointError> {
        let [kind] = self.array()?;
        let path = self.text()?;
        let kind = match kind {
            0 => Kind::Directory { mode: self.u16()? },
            1 => Kind::File {
                mode: self.u16()?,
                size: u64::from_le_bytes(self.array()?),
            },
            2 => Kind::Link {
                target: self.text()?,
            },
            3 => Kind::Same { entry: self.u32()? },
            _ => return Err(CheckpointError::Format("it has an entry of no known kind")),
        };
        Ok(Entry { path, kind })
    }

    /// `count` is bounded by the layout, so holes cannot claim more memory than the largest checkpoint needs.
    fn runs(&mut self, count: u64) -> Result<Vec<BlobId>, CheckpointError> {
        let mut chunks = Vec::new();
        let mut before = None;
        while (chunks.len() as u64) < count {
            let run = self.u32()?;
            let (hole, length) = (run & HOLES != 0, (run & !HOLES) as usize);
            if length == 0 || length as u64 > count - chunks.len() as u64 || before == Some(hole) {
                return Err(CheckpointError::Format(
                    "a run of chunks is not as it must be",
                ));
            }
            before = Some(hole);
            if hole {
                chunks.resize(chunks.len() + length, HOLE);
                continue;
            }
            for _ in 0..length {
                let chunk = BlobId::from_bytes(self.array()?);
                if chunk == HOLE {
                    return Err(CheckpointError::Format("a hole is written as data"));
                }
                chunks.push(chunk);
            }
        }
        Ok(chunks)
    }
}

#[cfg(test)]
#[path = "canon_tests.rs"]
mod tests;
