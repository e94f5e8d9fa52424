//! What a checkpoint directory holds at one moment, as data, and which parts of its files the rules want to see.
//! Does NOT read anything: whoever made the listing did.

use super::safetensors;

/// A file of these that is larger than this is not read, bytes.
pub const WHOLE_BYTES_MAX: u64 = 8 << 20;
/// Bytes wanted of the beginning of an archive.
pub const HEAD_BYTES: u64 = 16;
/// Bytes wanted of the end of an archive: the three records that close one.
pub const TAIL_BYTES: u64 = 98;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link. No rule follows one.
    Link,
    /// A socket, a pipe, a device.
    Other,
}

/// What changes whenever somebody writes. Comparable on one node only; times are those of the file system, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// When content was last written. A program can set it.
    pub mtime_ns: i64,
    /// When content, name or rights last changed. Nobody can set it.
    pub ctime_ns: i64,
    /// Which file it is.
    pub inode: u64,
}

/// What was read of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Content {
    /// Nothing: no rule wants it, or it is too large.
    #[default]
    Unread,
    /// All of it.
    Whole(Vec<u8>),
    /// Its beginning.
    Head(Vec<u8>),
    /// Its beginning and its end.
    Ends {
        /// [`HEAD_BYTES`] at most.
        head: Vec<u8>,
        /// [`TAIL_BYTES`] at most.
        tail: Vec<u8>,
    },
}

/// What of a file the rules want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing.
    Nothing,
    /// All of it.
    Whole,
    /// Eight bytes, and as many more as [`safetensors::header_bytes`] says of them.
    Header,
    /// Its beginning and its end.
    Ends,
}

/// What the rules want of a file of this name and size, bytes.
pub fn wanted(path: &str, size: u64) -> Want {
    let name = base(path);
    let small = size <= WHOLE_BYTES_MAX;
    let text = name.ends_with(".index.json")
        || [
            ".metadata",
            ".mlctl-complete",
            "trainer_state.json",
            "_CHECKPOINT_METADATA",
        ]
        .contains(&name);
    if text && small {
        Want::Whole
    } else if name.ends_with(safetensors::ENDING) {
        Want::Header
    } else if [".pt", ".pth", ".pth.tar", ".bin", ".ckpt"]
        .iter()
        .any(|ending| name.ends_with(ending))
    {
        Want::Ends
    } else {
        Want::Nothing
    }
}

/// One entry below a checkpoint's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the checkpoint's directory, `/` between parts; empty: that directory, or that file, itself.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Of a file, bytes; else 0.
    pub size: u64,
    /// What changes with it.
    pub mark: Mark,
    /// What was read of it.
    pub content: Content,
}

impl Entry {
    /// The last part of its path.
    pub fn name(&self) -> &str {
        base(&self.path)
    }

    /// The part of its path before the last one, without the slash.
    pub(super) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

fn base(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// What lies in a checkpoint's directory, or the one file that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Its name in the job's checkpoint directory.
    pub name: String,
    /// The directory or file itself.
    pub root: Entry,
    /// What is below it, in order of path.
    pub entries: Vec<Entry>,
    /// There is more than anybody looks at.
    pub cut: bool,
}

impl Listing {
    /// The file at `path`.
    pub(super) fn file(&self, path: &str) -> Option<&Entry> {
        self.files().find(|entry| entry.path == path)
    }

    /// All regular files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Entry> {
        let files = |entry: &&Entry| entry.kind == Kind::File;
        self.entries.iter().filter(files)
    }

    /// Regular files that lie in the directory itself.
    pub(super) fn top(&self) -> impl Iterator<Item = &Entry> {
        self.files().filter(|entry| entry.folder().is_empty())
    }

    /// What tells this state from any other.
    pub fn fingerprint(&self) -> Fingerprint {
        let files = self.entries.iter().filter(|entry| entry.kind != Kind::Dir);
        let row = |entry: &Entry| (entry.path.clone(), entry.size, entry.mark);
        let own = (self.root.kind != Kind::Dir).then_some(&self.root);
        Fingerprint(own.into_iter().chain(files).map(row).collect())
    }
}

/// What of a mark changes only when bytes are written, or the file is another one.
fn written(mark: &Mark) -> (i64, u64) {
    (mark.mtime_ns, mark.inode)
}

/// Names, sizes and marks of all files of a checkpoint at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint(Vec<(String, u64, Mark)>);

impl Fingerprint {
    /// Whether this file was there already, just as it is.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let row = (entry.path.as_str(), entry.size, written(&entry.mark));
        let mut rows = self.0.iter();
        rows.any(|(path, size, mark)| (path.as_str(), *size, written(mark)) == row)
    }

    /// Whether nothing was written in between. A file that is sealed gets a second name, and loses it again some day, which changes when it
    /// last changed and none of its bytes.
    pub fn same_bytes(&self, now: &Fingerprint) -> bool {
        self.rows().eq(now.rows())
    }

    /// Of every file in order of path: path, size in bytes, when it was last written in nanoseconds, and which file it is.
    pub fn rows(&self) -> impl Iterator<Item = (&str, u64, i64, u64)> {
        let rows = self.0.iter();
        rows.map(|(path, size, mark)| {
            let (mtime_ns, inode) = written(mark);
            (path.as_str(), *size, mtime_ns, inode)
        })
    }

    /// The first file of which `now` says something else: written to, replaced, new or gone. `None`: nothing has changed.
    pub fn changed<'a>(&'a self, now: &'a Fingerprint) -> Option<&'a str> {
        let other = |row: &&(String, u64, Mark), rows: &[(String, u64, Mark)]| {
            rows.binary_search_by(|at| at.0.cmp(&row.0))
                .map_or(true, |at| rows[at] != **row)
        };
        let gone = self.0.iter().find(|row| other(row, &now.0));
        let new = || now.0.iter().find(|row| other(row, &self.0));
        gone.or_else(new).map(|row| row.0.as_str())
    }
}
