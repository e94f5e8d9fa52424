//! What a node's part of a checkpoint consists of: entries by path, and the chunks of their contents. Checked as if an enemy had
//! written it. Pure. Does NOT say how it is written down: `canon` does.
//!
//! A file larger than [`PACKED_BYTES_MAX`] is a *content* of its own. All smaller ones, in order of path and one behind the other,
//! are one more content, the *pack*. Offsets are not written down but follow from the sizes, so nothing can overlap or leave a gap.
use std::collections::BTreeSet;

use super::error::{CheckpointError, bad_path};
use super::limits::{CHUNK_BYTES, CHUNKS_MAX, ENTRIES_MAX, PACKED_BYTES_MAX};
use super::names::{path_fault, target_fault};
use crate::BlobId;

/// Stands for a chunk of zeros: it is neither stored nor sent, and a hole in the file.
pub const HOLE: BlobId = BlobId::from_bytes([0; 32]);

/// One name in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, `/` between names, no `.` and `..`.
    pub path: String,
    /// What is there.
    pub kind: Kind,
}

/// What an entry is. A mode is the nine permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory, perhaps empty. Every directory has its entry.
    Directory {
        /// Permissions.
        mode: u16,
    },
    /// A file with bytes of its own.
    File {
        /// Permissions.
        mode: u16,
        /// Bytes.
        size: u64,
    },
    /// A symbolic link: relative, and it stays inside.
    Link {
        /// Where it leads, from its own directory.
        target: String,
    },
    /// Another name of the file at an earlier entry.
    Same {
        /// Number of that entry.
        entry: u32,
    },
}

/// Where the bytes of an entry are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It has none.
    Nowhere,
    /// All of a content.
    Content(u32),
    /// In the pack, from this byte on.
    Pack(u64),
}

/// Bytes that are kept as one file in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Follows from size and chunks: equal bytes have equal ids.
    pub id: BlobId,
    /// Bytes, holes included.
    pub size: u64,
    /// One per [`CHUNK_BYTES`]; [`HOLE`] for zeros.
    pub chunks: Vec<BlobId>,
    /// Number of its first chunk in the manifest.
    pub first: u32,
}

impl Content {
    fn new(size: u64, chunks: Vec<BlobId>, first: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("mlctl checkpoint content, version 1");
        hasher.update(&size.to_le_bytes());
        for chunk in &chunks {
            hasher.update(chunk.as_bytes());
        }
        let id = BlobId::from_hash(hasher.finalize());
        Self {
            id,
            size,
            chunks,
            first,
        }
    }

    /// Offset and length of its chunk `index`, bytes.
    pub fn span(&self, index: usize) -> (u64, usize) {
        let at = index as u64 * CHUNK_BYTES;
        (at, CHUNK_BYTES.min(self.size.saturating_sub(at)) as usize)
    }

    /// Bytes that lie on the disk: everything but holes.
    pub fn data_bytes(&self) -> u64 {
        let data = self.chunks.iter().enumerate().filter(|(_, c)| **c != HOLE);
        data.map(|(index, _)| self.span(index).1 as u64).sum()
    }
}

/// One node's part of a checkpoint. Made only by [`Manifest::new`], so it is always sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    mode: u16,
    entries: Vec<Entry>,
    places: Vec<Place>,
    contents: Vec<Content>,
}

impl Manifest {
    /// Checks everything and puts it together. `mode` is that of the directory itself; `chunks` has one list per content.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(
        mode: u16,
        entries: Vec<Entry>,
        chunks: Vec<Vec<BlobId>>,
    ) -> Result<Self, CheckpointError> {
        check_mode("", mode)?;
        check_entries(&entries)?;
        let (places, sizes) = layout(&entries)?;
        if sizes.len() != chunks.len() {
            return Err(CheckpointError::Format(
                "it lacks contents, or has too many",
            ));
        }
        let mut contents = Vec::new();
        let mut first = 0;
        for (size, chunks) in sizes.into_iter().zip(chunks) {
            if chunks.len() as u64 != size.div_ceil(CHUNK_BYTES) {
                return Err(CheckpointError::Format(
                    "a content has not the chunks of its size",
                ));
            }
            let content = Content::new(size, chunks, first);
            first += content.chunks.len() as u32;
            contents.push(content);
        }
        Ok(Self {
            mode,
            entries,
            places,
            contents,
        })
    }

    /// Permissions of the directory itself.
    pub fn mode(&self) -> u16 {
        self.mode
    }

    /// Everything in it, sorted by path; a directory stands before what is in it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Every entry with where its bytes are.
    pub fn placed(&self) -> impl Iterator<Item = (&Entry, Place)> {
        self.entries.iter().zip(self.places.iter().copied())
    }

    /// Its contents: large files in order of path, then the pack if there is one.
    pub fn contents(&self) -> &[Content] {
        &self.contents
    }

    /// The pack, if there are small files with bytes.
    pub fn pack(&self) -> Option<&Content> {
        let packed = self.places.iter().any(|p| matches!(p, Place::Pack(_)));
        self.contents.last().filter(|_| packed)
    }

    /// Number of chunks, holes included.
    pub fn chunks(&self) -> u32 {
        let last = self.contents.last();
        last.map_or(0, |content| content.first + content.chunks.len() as u32)
    }

    /// The number of the content in which chunk `index` lies, and its place in that.
    pub fn chunk(&self, index: u32) -> Option<(usize, usize)> {
        let behind = self.contents.partition_point(|c| c.first <= index);
        let number = behind.checked_sub(1)?;
        let content = self.contents.get(number)?;
        let inside = (index - content.first) as usize;
        (inside < content.chunks.len()).then_some((number, inside))
    }

    /// Sum of the files' sizes, holes included, bytes.
    pub fn bytes(&self) -> u64 {
        self.contents.iter().map(|content| content.size).sum()
    }

    /// The file whose content has number `content`; empty for the pack.
    pub fn path_of(&self, content: usize) -> &str {
        let mut placed = self.placed();
        let found = placed.find(|(_, p)| *p == Place::Content(content as u32));
        found.map_or("", |(entry, _)| entry.path.as_str())
    }
}

fn check_mode(path: &str, mode: u16) -> Result<(), CheckpointError> {
    if mode & !0o777 == 0 {
        Ok(())
    } else {
        Err(bad_path(path, "has more than the nine permission bits"))
    }
}

fn check_entries(entries: &[Entry]) -> Result<(), CheckpointError> {
    if entries.len() > ENTRIES_MAX {
        return Err(CheckpointError::TooLarge);
    }
    let mut directories = BTreeSet::new();
    let mut before: Option<&str> = None;
    for (number, entry) in entries.iter().enumerate() {
        let path = entry.path.as_str();
        if let Some(why) = path_fault(path) {
            return Err(bad_path(path, why));
        }
        if before.is_some_and(|before| before >= path) {
            return Err(bad_path(path, "stands twice or out of order"));
        }
        before = Some(path);
        if let Some((parent, _)) = path.rsplit_once('/')
            && !directories.contains(parent)
        {
            return Err(bad_path(
                path,
                "does not lie in a directory of the checkpoint",
            ));
        }
        match &entry.kind {
            Kind::Directory { mode } => {
                check_mode(path, *mode)?;
                directories.insert(path);
            }
            Kind::File { mode, .. } => check_mode(path, *mode)?,
            Kind::Link { target } => {
                if let Some(why) = target_fault(path, target) {
                    return Err(bad_path(path, why));
                }
            }
            Kind::Same { entry } => {
                let file = entries[..number].get(*entry as usize);
                if !file.is_some_and(|e| matches!(e.kind, Kind::File { .. })) {
                    return Err(bad_path(path, "is another name of no earlier file"));
                }
            }
        }
    }
    Ok(())
}

/// Where the bytes of each entry go, and the size of each content.
pub(super) fn layout(entries: &[Entry]) -> Result<(Vec<Place>, Vec<u64>), CheckpointError> {
    let (mut places, mut sizes) = (Vec::new(), Vec::new());
    let (mut pack, mut chunks) = (0_u64, 0_u64);
    for entry in entries {
        let place = match &entry.kind {
            Kind::File { size, .. } if *size > PACKED_BYTES_MAX => {
                chunks = chunks.saturating_add(size.div_ceil(CHUNK_BYTES));
                sizes.push(*size);
                Place::Content(sizes.len() as u32 - 1)
            }
            Kind::File { size, .. } if *size > 0 => {
                pack += size;
                Place::Pack(pack - size)
            }
            _ => Place::Nowhere,
        };
        if chunks > CHUNKS_MAX {
            return Err(CheckpointError::TooLarge);
        }
        places.push(place);
    }
    if pack > 0 {
        chunks += pack.div_ceil(CHUNK_BYTES);
        sizes.push(pack);
    }
    if chunks > CHUNKS_MAX {
        return Err(CheckpointError::TooLarge);
    }
    Ok((places, sizes))
}
