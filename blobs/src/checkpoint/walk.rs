//! What is in a directory, as entries of a manifest that has no chunks yet. Reads names, kinds and links, not one byte of a file.
//! Does NOT follow links, and refuses by name what no checkpoint holds: sockets, devices, links that leave, names that are not UTF-8.
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use super::beneath::Beneath;
use super::error::{CheckpointError, bad_path, io};
use super::limits::ENTRIES_MAX;
use super::manifest::{Entry, Kind};
use super::names::{path_fault, target_fault};

/// A directory as it was listed.
pub(super) struct Listing {
    pub(super) mode: u16,
    pub(super) entries: Vec<Entry>,
    /// Directories with the time at which a name in them last came or went.
    directories: Vec<(String, (i64, u64))>,
}

impl Listing {
    /// Lists the tree below `root`, sorted.
    pub(super) fn of(tree: &mut Beneath, root: &Path) -> Result<Self, CheckpointError> {
        let (mut found, mut directories) = (Vec::new(), Vec::new());
        let mut todo = vec![String::new()];
        while let Some(folder) = todo.pop() {
            let looked = || io("list", &root.join(&folder));
            let changed = change_of(tree, &folder).map_err(lost(root, &folder, "list"))?;
            let names = tree.names(&folder).map_err(looked())?;
            let names = names.map_err(|name| bad_path(&name, "is a name that is not UTF-8"))?;
            directories.push((folder.clone(), changed));
            for name in names {
                let path = match folder.as_str() {
                    "" => name,
                    folder => format!("{folder}/{name}"),
                };
                let stat = tree.stat(&path);
                let stat = stat.map_err(lost(root, &path, "look at"))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    todo.push(path.clone());
                }
                found.push((path, Looked::from(&stat)));
                if found.len() > ENTRIES_MAX {
                    return Err(CheckpointError::TooLarge);
                }
            }
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let root_stat = rustix::fs::fstat(tree.dir("").map_err(io("open", root))?);
        let mode = Looked::from(&root_stat.map_err(io("look at", root))?).permissions();
        let mut inodes = BTreeMap::new();
        let mut entries = Vec::with_capacity(found.len());
        for (path, stat) in found {
            let kind = kind_of(tree, root, &path, &stat, entries.len() as u32, &mut inodes)?;
            entries.push(Entry { path, kind });
        }
        Ok(Self {
            mode,
            entries,
            directories,
        })
    }

    /// Refuses if a name has come or gone since.
    pub(super) fn confirm(&self, tree: &mut Beneath, root: &Path) -> Result<(), CheckpointError> {
        for (path, before) in &self.directories {
            if !change_of(tree, path).is_ok_and(|now| now == *before) {
                let path = root.join(path);
                return Err(CheckpointError::Changed { path });
            }
        }
        Ok(())
    }
}

/// What was listed a moment ago and is gone was removed meanwhile.
pub(super) fn lost(
    root: &Path,
    path: &str,
    doing: &'static str,
) -> impl FnOnce(io::Error) -> CheckpointError + use<> {
    let path = root.join(path);
    move |error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => CheckpointError::Changed { path },
        _ => io(doing, &path)(error),
    }
}

fn change_of(tree: &mut Beneath, path: &str) -> io::Result<(i64, u64)> {
    let stat = rustix::fs::fstat(tree.dir(path)?)?;
    if stat.st_nlink == 0 {
        // Open, but removed.
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok((stat.st_mtime, stat.st_mtime_nsec))
}

/// What is needed of a file's inode: there may be a million of them.
struct Looked {
    mode: u32,
    names: u32,
    inode: (u64, u64),
    size: u64,
}

impl Looked {
    fn permissions(&self) -> u16 {
        (self.mode & 0o777) as u16
    }
}

impl From<&Stat> for Looked {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            // Whether there is more than one is all that counts.
            names: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            inode: (stat.st_dev, stat.st_ino),
            size: stat.st_size.unsigned_abs(),
        }
    }
}

fn kind_of(
    tree: &mut Beneath,
    root: &Path,
    path: &str,
    stat: &Looked,
    number: u32,
    inodes: &mut BTreeMap<(u64, u64), u32>,
) -> Result<Kind, CheckpointError> {
    if let Some(why) = path_fault(path) {
        return Err(bad_path(path, why));
    }
    let mode = stat.permissions();
    match FileType::from_raw_mode(stat.mode) {
        FileType::Directory => Ok(Kind::Directory { mode }),
        FileType::RegularFile => {
            if stat.names > 1 {
                let first = *inodes.entry(stat.inode).or_insert(number);
                if first != number {
                    return Ok(Kind::Same { entry: first });
                }
            }
            let size = stat.size;
            Ok(Kind::File { mode, size })
        }
        FileType::Symlink => {
            let read = tree
                .parent(path)
                .and_then(|(dir, name)| Ok(rustix::fs::readlinkat(dir, name, Vec::new())?));
            let target = read.map_err(lost(root, path, "read link"))?.into_string();
            let target = target.map_err(|_| bad_path(path, "leads to a name that is not UTF-8"))?;
            match target_fault(path, &target) {
                Some(why) => Err(bad_path(path, why)),
                None => Ok(Kind::Link { target }),
            }
        }
        _ => Err(bad_path(path, "is neither a file, a directory nor a link")),
    }
}
