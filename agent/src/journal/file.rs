//! The journal's file: read at start, written anew aside and renamed into place.
//! Does NOT append; that is the writer's thread.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::codec::{self, Entry};
use super::{JournalError, Loaded, frame};
use crate::core::Record;
use crate::failpoint;

/// More unreadable bytes than this are not kept for study.
const QUARANTINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where the journal of `dir` is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("journal")
}

pub(super) fn load(dir: &Path) -> Result<Loaded, JournalError> {
    let path = path(dir);
    let failed = |action| {
        let path = path.clone();
        move |source| JournalError {
            action,
            path,
            source,
        }
    };
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(failed("read"))?,
    };
    let scan = frame::scan(&bytes);
    let mut loaded = Loaded {
        id: None,
        records: Vec::new(),
        damaged: 0,
    };
    let mut aside: Vec<&[u8]> = scan
        .damaged
        .iter()
        .map(|range| &bytes[range.clone()])
        .collect();
    for (index, range) in scan.payloads.into_iter().enumerate() {
        let payload = &bytes[range];
        match codec::decode(payload) {
            Ok(Entry::Header(id))
                if index == 0 && scan.damaged.first().is_none_or(|bad| bad.start > 0) =>
            {
                loaded.id = Some(id);
            }
            Ok(Entry::Record(record)) => loaded.records.push(record),
            // A header in the middle, or a record of another release.
            Ok(Entry::Header(_)) | Err(_) => aside.push(payload),
        }
    }
    loaded.damaged = aside.len();
    if !aside.is_empty() {
        quarantine(dir, &aside).map_err(failed("set aside unreadable parts of"))?;
    }
    Ok(loaded)
}

fn quarantine(dir: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let folder = dir.join("quarantine");
    fs::create_dir_all(&folder)?;
    let mut file = private(&folder.join(format!("journal-{:016x}", rand::random::<u64>())))?;
    let mut room = QUARANTINE_BYTES_MAX;
    for part in parts {
        let part = &part[..part.len().min(room)];
        file.write_all(part)?;
        room -= part.len();
    }
    file.sync_all()
}

/// Writes the journal anew: aside, synced, renamed, directory synced. The file is open for appending.
pub(super) fn rewrite(
    dir: &Path,
    id: &str,
    records: &[Record],
) -> Result<(File, u64), JournalError> {
    let path = path(dir);
    let aside = dir.join("journal.new");
    let write = || -> io::Result<(File, u64)> {
        let mut bytes = Vec::new();
        frame::write(&codec::encode_header(id), &mut bytes);
        for record in records {
            append(record, &mut bytes)?;
        }
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        failpoint::hit("journal.rewriting");
        fs::rename(&aside, &path)?;
        File::open(dir)?.sync_all()?;
        Ok((file, bytes.len() as u64))
    };
    write().map_err(|source| JournalError {
        action: "write",
        path: path.clone(),
        source,
    })
}

/// Adds the frame of `record` to `out`.
pub(super) fn append(record: &Record, out: &mut Vec<u8>) -> io::Result<()> {
    if frame::write(&codec::encode(record), out) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "a record is larger than a journal may hold",
    ))
}

fn private(path: &Path) -> io::Result<File> {
    File::options()
        .create_new(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::ids::{Epoch, JobId};

    fn tombstones(count: u64) -> Vec<Record> {
        (1..=count)
            .map(|n| Record::Tombstone {
                job: JobId::new(1, n),
                epoch: Epoch::new(1, n),
            })
            .collect()
    }

    #[test]
    fn a_written_journal_is_read_back_and_an_absent_one_is_empty() {
        let dir = tempfile::tempdir().expect("dir");
        let empty = load(dir.path()).expect("no file");
        assert_eq!((empty.id, empty.records.len(), empty.damaged), (None, 0, 0));
        for round in 0..2 {
            rewrite(dir.path(), "id", &tombstones(3 + round)).expect("written");
            let loaded = load(dir.path()).expect("read");
            assert_eq!((loaded.id.as_deref(), loaded.damaged), (Some("id"), 0));
            assert_eq!(loaded.records, tombstones(3 + round));
        }
        assert!(!dir.path().join("journal.new").exists());
    }

    #[test]
    fn every_flipped_or_missing_byte_leaves_a_journal_that_can_be_read() {
        let dir = tempfile::tempdir().expect("dir");
        rewrite(dir.path(), "id", &tombstones(3)).expect("written");
        let good = fs::read(path(dir.path())).expect("read");
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            fs::write(path(dir.path()), &flipped).expect("written");
            let loaded = load(dir.path()).expect("the agent starts");
            let lost = 3 - loaded.records.len();
            assert!(
                lost + usize::from(loaded.id.is_none()) == 1,
                "byte {at} costs one record"
            );
            // The last record is indistinguishable from a torn write; everything before it is damage.
            let last = !loaded.records.contains(&tombstones(3)[2]);
            assert_eq!(loaded.damaged, usize::from(!last), "byte {at}");
            fs::write(path(dir.path()), &good[..at]).expect("written");
            let cut = load(dir.path()).expect("the agent starts");
            assert_eq!(cut.damaged, 0, "a cut is a torn tail");
        }
        assert!(
            dir.path()
                .join("quarantine")
                .read_dir()
                .expect("made")
                .count()
                > 0
        );
    }

    #[test]
    fn a_folder_in_the_way_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("dir");
        fs::create_dir(path(dir.path())).expect("made");
        let error = load(dir.path()).expect_err("not a file").to_string();
        assert!(error.contains("journal"), "{error}");
    }
}
