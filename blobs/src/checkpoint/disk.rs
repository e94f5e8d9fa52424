//! The few ways in which this store changes a disk, each with the path in its error. Whatever has to survive a power cut is synced here.
//! Does NOT decide what is written where.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::SeekFrom;

use super::error::{CheckpointError, io};
use super::fault::{Step, step};

/// Zeros in runs of this many bytes are not written: they stay holes.
const PAGE: usize = 4096;
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

type Done = Result<(), CheckpointError>;

pub(super) fn create_new(path: &Path) -> Result<File, CheckpointError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let made = step(Step::Write).and_then(|()| options.open(path));
    made.map_err(io("create", path))
}

/// The file for bytes that come in any order: made on first use, as one hole of the right length.
pub(super) fn open_sparse(path: &Path, size: u64) -> Result<File, CheckpointError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut open = || {
        step(Step::Write)?;
        let file = options.mode(0o600).open(path)?;
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        Ok::<_, io::Error>(file)
    };
    open().map_err(io("create", path))
}

pub(super) fn open(path: &Path) -> Result<File, CheckpointError> {
    File::open(path).map_err(io("open", path))
}

/// At most `max` bytes of a file.
pub(super) fn read_small(path: &Path, max: usize) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    file.take(max as u64)
        .read_to_end(&mut bytes)
        .map_err(io("read", path))?;
    Ok(bytes)
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(ZEROS.len())
        .all(|part| part == &ZEROS[..part.len()])
}

/// Writes `bytes` at `at` in a file that is a hole there; pages of zeros stay holes.
pub(super) fn write_sparse(file: &File, path: &Path, bytes: &[u8], at: u64) -> Done {
    step(Step::Write).map_err(io("write", path))?;
    let mut pages = bytes.chunks(PAGE).map(is_zero).enumerate().peekable();
    while let Some((first, zero)) = pages.next() {
        let mut end = first + 1;
        while pages.next_if(|(_, other)| *other == zero).is_some() {
            end += 1;
        }
        if !zero {
            let part = &bytes[first * PAGE..(end * PAGE).min(bytes.len())];
            file.write_all_at(part, at + (first * PAGE) as u64)
                .map_err(io("write", path))?;
        }
    }
    Ok(())
}

/// Where the next bytes begin that are no hole, at or behind `at`. `None` if there are none.
pub(super) fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // A file system that knows no holes has data everywhere.
        Err(rustix::io::Errno::INVAL) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

/// Takes what is clean out of the page cache: what nobody reads soon must not push out what a trainer reads.
pub(super) fn forget(file: &File) {
    // Advice: a file system that does not take it changes nothing.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// The same for `length` bytes from `at`.
pub(super) fn forget_part(file: &File, at: u64, length: usize) {
    if let Some(length) = std::num::NonZeroU64::new(length as u64) {
        let _ = rustix::fs::fadvise(file, at, Some(length), rustix::fs::Advice::DontNeed);
    }
}

pub(super) fn sync(file: &File, path: &Path) -> Done {
    step(Step::Other)
        .and_then(|()| file.sync_all())
        .map_err(io("sync", path))
}

pub(super) fn sync_dir(dir: &Path) -> Done {
    sync(&open(dir)?, dir)
}

pub(super) fn make_dir(path: &Path) -> Done {
    let made = step(Step::Write).and_then(|()| fs::create_dir_all(path));
    made.map_err(io("make", path))
}

pub(super) fn rename(from: &Path, to: &Path) -> Done {
    step(Step::Other)
        .and_then(|()| fs::rename(from, to))
        .map_err(io("rename to", to))
}

/// It may be gone already.
pub(super) fn remove_file(path: &Path) -> Done {
    gone(step(Step::Other).and_then(|()| fs::remove_file(path))).map_err(io("remove", path))
}

/// It may be gone already.
pub(super) fn remove_dir(path: &Path) -> Done {
    gone(step(Step::Other).and_then(|()| fs::remove_dir_all(path))).map_err(io("remove", path))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A small file that is there with all of `bytes` or as it was before, also after a power cut.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Done {
    let aside = path.with_extension("new");
    remove_file(&aside)?;
    let mut file = create_new(&aside)?;
    step(Step::Write)
        .and_then(|()| file.write_all(bytes))
        .map_err(io("write", &aside))?;
    sync(&file, &aside)?;
    rename(&aside, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Names in a directory; one that is not UTF-8 is none of ours.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let name = entry.map_err(io("list", dir))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// Bytes that the file system of `dir` still has for us.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, CheckpointError> {
    let stat = rustix::fs::statvfs(dir).map_err(io("ask for room in", dir))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_stay_holes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("f");
        let mut bytes = vec![0; 4 << 20];
        bytes[1 << 20] = 7;
        bytes[(4 << 20) - 1] = 9;
        let file = open_sparse(&path, 64 << 20).expect("made");
        write_sparse(&file, &path, &bytes, 8 << 20).expect("written");
        let mut back = vec![1; 4 << 20];
        file.read_exact_at(&mut back, 8 << 20).expect("read");
        assert!(back == bytes);
        let disk = file.metadata().expect("there").blocks() * 512;
        assert!(disk <= 64 << 10, "{disk}");
        assert_eq!(next_data(&file, 0).expect("asked"), Some(9 << 20));
        assert_eq!(next_data(&file, 12 << 20).expect("asked"), None);
    }
}
