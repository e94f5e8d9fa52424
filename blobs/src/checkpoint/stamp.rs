//! How a file is recognised as unchanged without reading it: inode, size, and when its bytes and its inode last changed.
//! Does NOT prove anything alone: a stamp that differs means that the bytes are hashed again, and then a new one is noted.
//!
//! A program can set the modification time back but not the change time, which is why both count. The change time also moves when a
//! name of the file comes or goes, so a trainer that removes its own copy costs one hash of it and nothing else.
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// What the file system says about a file. Times are nanoseconds and only compared for equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// The same but for the change time: all that renaming and linking by ourselves may move.
    pub(super) fn same_bytes(&self, other: &Self) -> bool {
        let changed = self.changed;
        *self == Self { changed, ..*other }
    }

    pub(super) fn to_text(self) -> String {
        let (m, c) = (self.modified, self.changed);
        format!(
            "1 {} {} {} {} {} {} .",
            self.inode, self.size, m.0, m.1, c.0, c.1
        )
    }

    /// `None` for anything that [`Stamp::to_text`] did not write, such as half of it.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let ["1", inode, size, ms, mn, cs, cn, "."] = words[..] else {
            return None;
        };
        Some(Self {
            inode: inode.parse().ok()?,
            size: size.parse().ok()?,
            modified: (ms.parse().ok()?, mn.parse().ok()?),
            changed: (cs.parse().ok()?, cn.parse().ok()?),
        })
    }
}

impl From<&std::fs::Metadata> for Stamp {
    fn from(meta: &std::fs::Metadata) -> Self {
        Self {
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_whole_or_not_at_all() {
        let file = tempfile::tempfile().expect("a temporary file");
        let stamp = Stamp::of(&file).expect("there");
        let text = stamp.to_text();
        assert_eq!(Stamp::from_text(&text), Some(stamp));
        for cut in 0..text.len() {
            assert_eq!(Stamp::from_text(&text[..cut]), None);
        }
    }
}
