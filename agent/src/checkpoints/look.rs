//! Reads what lies in a job's checkpoint directory, and who has files of it open for writing.
//! Does NOT judge, follows no link, and reads only the parts of files that a rule wants.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::rules::{is_final, is_one_file};
use super::seal::Writers;
use super::seal::listing::{
    Content, Entry, HEAD_BYTES, Kind, Listing, Mark, TAIL_BYTES, WHOLE_BYTES_MAX, Want, wanted,
};
use super::seal::safetensors::header_bytes;

/// Entries of one checkpoint that are looked at.
const ENTRIES_MAX: usize = 20_000;
/// Directories within directories that are looked at.
const DEPTH_MAX: usize = 16;

/// The names in `dir` that may be checkpoints: directories with final names, and files that can be one by themselves; in order. A missing `dir` has none.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let candidates = entries.filter_map(|entry| {
        let kind = entry.file_type().ok()?;
        let name = entry.file_name().into_string().ok()?;
        let file = kind.is_file() && is_one_file(&name);
        (is_final(&name) && (kind.is_dir() || file)).then_some(name)
    });
    let mut names: Vec<String> = candidates.collect();
    names.sort_unstable();
    names
}

/// What `dir/name` holds; with `contents`, what rules want of files as well.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn listing(dir: &Path, name: &str, contents: bool) -> io::Result<Listing> {
    let path = dir.join(name);
    let found = fs::symlink_metadata(&path)?;
    let mut root = entry(String::new(), &found);
    if root.kind == Kind::File && contents {
        root.content = read(&path, name, root.size);
    }
    let mut listing = Listing {
        name: name.into(),
        root,
        entries: Vec::new(),
        cut: false,
    };
    if listing.root.kind == Kind::Dir {
        walk(&path, "", &mut listing, contents, 0)?;
    }
    listing.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(listing)
}

fn walk(
    at: &Path,
    below: &str,
    listing: &mut Listing,
    contents: bool,
    depth: usize,
) -> io::Result<()> {
    for found in fs::read_dir(at)? {
        let found = found?;
        if listing.entries.len() == ENTRIES_MAX || depth == DEPTH_MAX {
            listing.cut = true;
            return Ok(());
        }
        let name = found.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        // Gone since: it was somebody's temporary file.
        let Ok(metadata) = found.metadata() else {
            continue;
        };
        let mut entry = entry(path.clone(), &metadata);
        if entry.kind == Kind::File && contents {
            entry.content = read(&found.path(), &path, entry.size);
        }
        let inside = entry.kind == Kind::Dir;
        listing.entries.push(entry);
        if inside {
            walk(&found.path(), &path, listing, contents, depth + 1)?;
        }
    }
    Ok(())
}

fn entry(path: String, metadata: &Metadata) -> Entry {
    let nanoseconds =
        |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    let kind = match metadata.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Dir,
        kind if kind.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    Entry {
        path,
        kind,
        size: if kind == Kind::File {
            metadata.len()
        } else {
            0
        },
        mark: Mark {
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        },
        content: Content::Unread,
    }
}

/// What a rule wants of a file. One that cannot be read is unread: no rule takes that for whole.
fn read(path: &Path, name: &str, size: u64) -> Content {
    let read = || -> io::Result<Content> {
        let want = wanted(name, size);
        if want == Want::Nothing {
            return Ok(Content::Unread);
        }
        // A file of the job's user: it may have become a link or a pipe since.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        Ok(match want {
            Want::Nothing => Content::Unread,
            Want::Whole => Content::Whole(some(&mut file, WHOLE_BYTES_MAX)?),
            Want::Header => {
                let mut head = some(&mut file, 8)?;
                let length = head.first_chunk().and_then(|first| header_bytes(*first));
                head.extend(some(&mut file, length.unwrap_or(0))?);
                Content::Head(head)
            }
            Want::Ends => {
                let head = some(&mut file, HEAD_BYTES)?;
                file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
                let tail = some(&mut file, TAIL_BYTES)?;
                Content::Ends { head, tail }
            }
        })
    };
    read().unwrap_or_default()
}

fn some(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    file.take(bytes).read_to_end(&mut read)?;
    Ok(read)
}

/// Who has a file of `dir/name` open for writing, by the descriptors of every process. A file that is only mapped has none and is not seen.
pub fn writers(dir: &Path, listing: &Listing) -> Writers {
    let Ok(own) = fs::symlink_metadata(dir.join(&listing.name)) else {
        return Writers::Unknown;
    };
    let files = listing.entries.iter().chain([&listing.root]);
    let inodes: BTreeSet<u64> = files
        .filter(|entry| entry.kind == Kind::File)
        .map(|entry| entry.mark.inode)
        .collect();
    let mut answer = Writers::Nobody;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if process
            .file_name()
            .to_string_lossy()
            .parse::<u32>()
            .is_err()
        {
            continue;
        }
        match writes(&process.path(), own.dev(), &inodes) {
            Ok(true) => return Writers::Somebody,
            Ok(false) => {}
            // Only processes of the job's user matter.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let uid = process.metadata().map(|process| process.uid());
                if uid.is_ok_and(|uid| uid == own.uid()) {
                    answer = Writers::Unknown;
                }
            }
            // It has ended.
            Err(_) => {}
        }
    }
    answer
}

fn writes(process: &Path, device: u64, inodes: &BTreeSet<u64>) -> io::Result<bool> {
    for descriptor in fs::read_dir(process.join("fd"))?.flatten() {
        // Through the link, so that it does not matter under which path the process sees the file.
        let Ok(file) = fs::metadata(descriptor.path()) else {
            continue;
        };
        if file.dev() != device || !inodes.contains(&file.ino()) {
            continue;
        }
        let info = process.join("fdinfo").join(descriptor.file_name());
        let info = fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        // A flag that cannot be read may be any.
        if flags.is_none_or(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_directory_is_read_as_far_as_rules_want() {
        let dir = tempfile::tempdir().expect("dir");
        let step = dir.path().join("step-1");
        fs::create_dir_all(step.join("sub")).expect("made");
        fs::write(step.join("sub/.metadata"), b"abc").expect("written");
        fs::write(step.join("model.pt"), vec![7; 200]).expect("written");
        fs::write(
            step.join("w.safetensors"),
            [[2, 0, 0, 0, 0, 0, 0, 0], *b"{}xxxxxx"].concat(),
        )
        .expect("written");
        fs::write(step.join("log"), b"x").expect("written");
        std::os::unix::fs::symlink("/etc", step.join("away")).expect("linked");
        let listing = listing(dir.path(), "step-1", true).expect("read");
        let rows: Vec<(&str, Kind, u64, &Content)> = listing
            .entries
            .iter()
            .map(|entry| (entry.path.as_str(), entry.kind, entry.size, &entry.content))
            .collect();
        let ends = Content::Ends {
            head: vec![7; 16],
            tail: vec![7; 98],
        };
        let head = Content::Head(b"\x02\0\0\0\0\0\0\0{}".to_vec());
        let (unread, whole) = (Content::Unread, Content::Whole(b"abc".to_vec()));
        assert_eq!(
            rows,
            [
                ("away", Kind::Link, 0, &unread),
                ("log", Kind::File, 1, &unread),
                ("model.pt", Kind::File, 200, &ends),
                ("sub", Kind::Dir, 0, &unread),
                ("sub/.metadata", Kind::File, 3, &whole),
                ("w.safetensors", Kind::File, 16, &head),
            ]
        );
        assert!(super::listing(dir.path(), "absent", true).is_err());
    }

    #[test]
    fn names_of_directories_and_of_files_that_are_checkpoints() {
        let dir = tempfile::tempdir().expect("dir");
        for name in ["b", "a.tmp", ".hidden", "c.ckpt"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        for name in [
            "epoch=1.ckpt",
            "notes.txt",
            "d.ckpt.tmp",
            "step-5.pt",
            "best.pt",
        ] {
            fs::write(dir.path().join(name), b"x").expect("written");
        }
        std::os::unix::fs::symlink("b", dir.path().join("last")).expect("linked");
        assert_eq!(
            names(dir.path()),
            ["b", "c.ckpt", "epoch=1.ckpt", "step-5.pt"]
        );
        assert!(names(&dir.path().join("absent")).is_empty());
    }

    #[test]
    fn a_writer_is_seen_and_a_reader_is_none() {
        let dir = tempfile::tempdir().expect("dir");
        let step = dir.path().join("step-1");
        fs::create_dir(&step).expect("made");
        let mut file = File::create(step.join("a")).expect("made");
        file.write_all(b"x").expect("written");
        let now = || {
            let listing = listing(dir.path(), "step-1", false).expect("read");
            writers(dir.path(), &listing)
        };
        assert_eq!(now(), Writers::Somebody);
        drop(file);
        let reader = File::open(step.join("a")).expect("opened");
        // A process of ours that hides what it has open would make it unknown.
        assert_ne!(now(), Writers::Somebody);
        drop(reader);
    }
}
