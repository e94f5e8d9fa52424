//! Looks at raft-engine's files before raft-engine opens them.
//!
//! raft-engine cuts the last file at *any* bad record and never looks at most entry blocks; and it reserves as much memory as the
//! header of a bad record says. This scanner walks every record: a bad one with nothing valid behind it is a write that was torn by
//! a crash (`engine` cuts it); a bad one with a valid record behind it was once synced, so something is lost. It changes nothing
//! on disk.
//!
//! A record is `u56 length | u8 compression | u64 footer offset` (big endian), the entries and their CRC-32, the
//! footer and its CRC-32; the footer's is mixed with the file's number, so bytes of another file do not pass. What the footer
//! says is checked by `items`.

use super::{LogError, items};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const FILE_HEADER_BYTES: usize = MAGIC.len() + 16;
const FORMAT_VERSION: u64 = 2;
const RECORD_HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;
const APPEND_SUFFIX: &str = ".raftlog";
const REWRITE_SUFFIX: &str = ".rewrite";
const NAME_DIGITS: usize = 16;

/// What a scan found in a log that may be opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Files with appended records.
    pub files: usize,
    /// Sound records in them.
    pub records: usize,
    /// Bytes behind the last sound record, without preallocated zeros.
    pub torn_bytes: u64,
    /// Files that end in a torn write, each with the length of what is sound in it: 0 when not even its header is.
    pub torn: Vec<(PathBuf, u64)>,
}

/// Scans a log directory; an absent one is an empty log.
///
/// # Errors
/// [`LogError::Damaged`] when a record that was synced is bad or a file is missing, [`LogError::Io`] otherwise.
pub fn scan(dir: &Path) -> Result<Scan, LogError> {
    let mut scan = Scan::default();
    if !dir.exists() {
        return Ok(scan);
    }
    let appended = files_in(dir, APPEND_SUFFIX)?;
    check_numbers(dir, &appended)?;
    for (position, (number, path)) in appended.iter().enumerate() {
        let bytes = std::fs::read(path).map_err(LogError::io("read", path))?;
        let judged = judge(&bytes, *number, position + 1 == appended.len());
        let judged = judged.map_err(|found| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            LogError::damaged(dir, format!("{name} {found}"))
        })?;
        scan.files += 1;
        scan.records += judged.records;
        scan.torn_bytes = judged.torn_bytes;
        // Also a file that is empty yet: see `engine::cut_off`.
        if judged.torn_bytes > 0 || judged.sound == 0 {
            scan.torn.push((path.clone(), judged.sound as u64));
        }
    }
    // Rewritten records are copies that are synced in groups, so a torn group at the end of the last file is no loss
    // as long as the originals exist; that they do is for `recover` to see.
    let rewritten = files_in(dir, REWRITE_SUFFIX)?;
    check_numbers(dir, &rewritten)?;
    for (behind, (number, path)) in rewritten.iter().rev().enumerate() {
        let bytes = std::fs::read(path).map_err(LogError::io("read", path))?;
        if let Some(bad) = walk(&bytes, *number).bad {
            if behind == 0 {
                scan.torn.push((path.clone(), bad.offset as u64));
                continue;
            }
            let (path, offset, what) = (path.display(), bad.offset, bad.what);
            return Err(LogError::damaged(
                dir,
                format!("{path} has a bad record at byte {offset} ({what})"),
            ));
        }
    }
    Ok(scan)
}

/// What is in one file that may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// Sound records.
    pub records: usize,
    /// Bytes up to the end of the last of them.
    pub sound: usize,
    /// Bytes behind the last of them that are cut off, without preallocated zeros.
    pub torn_bytes: u64,
}

/// Judges the bytes of one file of appended records. `last`: no later file follows.
///
/// # Errors
/// With what is wrong, when a record that was synced is bad.
pub fn judge(bytes: &[u8], number: u64, last: bool) -> Result<Judged, String> {
    let Walk { records, bad } = walk(bytes, number);
    let (mut sound, mut torn_bytes) = (bytes.len(), 0);
    if let Some(Bad { offset, what }) = bad {
        let found = |behind: String| {
            Err(format!(
                "has a bad record at byte {offset} ({what}) and {behind}"
            ))
        };
        if !last {
            return found("a later file follows".into());
        }
        if let Some(next) = find_valid(bytes, offset + 1, number) {
            return found(format!("a sound record behind it at byte {next}"));
        }
        (sound, torn_bytes) = (offset, self::torn_bytes(&bytes[offset..]));
    }
    Ok(Judged {
        records,
        sound,
        torn_bytes,
    })
}

/// What every file begins with.
pub fn file_header() -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(FORMAT_VERSION.to_be_bytes());
    header.extend(0_u64.to_be_bytes());
    header
}

struct Bad {
    offset: usize,
    what: &'static str,
}

struct Walk {
    records: usize,
    bad: Option<Bad>,
}

fn walk(bytes: &[u8], number: u64) -> Walk {
    let mut walk = Walk {
        records: 0,
        bad: None,
    };
    if let Err(what) = check_file_header(bytes) {
        walk.bad = Some(Bad { offset: 0, what });
        return walk;
    }
    let mut offset = FILE_HEADER_BYTES;
    while offset < bytes.len() {
        match check_record(&bytes[offset..], number) {
            Ok(length) => {
                offset += length;
                walk.records += 1;
            }
            Err(what) => {
                walk.bad = Some(Bad { offset, what });
                return walk;
            }
        }
    }
    walk
}

fn check_file_header(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.len() < FILE_HEADER_BYTES {
        return Err("the file is shorter than its header");
    }
    if !bytes.starts_with(MAGIC) {
        return Err("the file's header is not that of a log");
    }
    if big_endian(bytes, MAGIC.len()) != Some(FORMAT_VERSION)
        || big_endian(bytes, MAGIC.len() + 8) != Some(0)
    {
        return Err("the file's header names a format that is not written here");
    }
    Ok(())
}

/// The length of the sound record at the start of `bytes`.
fn check_record(bytes: &[u8], number: u64) -> Result<usize, &'static str> {
    let head = big_endian(bytes, 0).ok_or("its header is cut off")?;
    let footer = big_endian(bytes, 8).ok_or("its header is cut off")?;
    let length = usize::try_from(head >> 8).map_err(|_| "its length is impossible")?;
    let footer = usize::try_from(footer).map_err(|_| "its length is impossible")?;
    // Compression is off: whoever writes compressed records is not us.
    let sound = head & 0xff == 0
        && length <= bytes.len()
        && footer >= RECORD_HEADER_BYTES
        && footer
            .checked_add(CHECKSUM_BYTES)
            .is_some_and(|end| end < length);
    if !sound {
        return Err("its length is impossible");
    }
    // Format 2 mixes the low half of the file's number into the footer's checksum.
    if !checksum_holds(&bytes[footer..length], number as u32) {
        return Err("the checksum of its items is wrong");
    }
    let entries = &bytes[RECORD_HEADER_BYTES..footer];
    if !entries.is_empty() && !checksum_holds(entries, 0) {
        return Err("the checksum of its entries is wrong");
    }
    let block = entries.len().saturating_sub(CHECKSUM_BYTES);
    items::check(&bytes[footer..length - CHECKSUM_BYTES], block)?;
    Ok(length)
}

fn checksum_holds(block: &[u8], signature: u32) -> bool {
    let Some((data, stored)) = block.split_last_chunk::<CHECKSUM_BYTES>() else {
        return false;
    };
    !data.is_empty() && crc32fast::hash(data) == u32::from_le_bytes(*stored) ^ signature
}

fn find_valid(bytes: &[u8], from: usize, number: u64) -> Option<usize> {
    (from..bytes.len()).find(|offset| check_record(&bytes[*offset..], number).is_ok())
}

fn torn_bytes(tail: &[u8]) -> u64 {
    tail.iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last as u64 + 1)
}

fn big_endian(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..at + 8)?;
    Some(u64::from_be_bytes(<[u8; 8]>::try_from(chunk).ok()?))
}

/// Files of one queue by number.
fn files_in(dir: &Path, suffix: &str) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut files = Vec::new();
    let list = std::fs::read_dir(dir).map_err(LogError::io("list", dir))?;
    for item in list {
        let item = item.map_err(LogError::io("list", dir))?;
        let name = item.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(suffix))
            .filter(|digits| digits.len() == NAME_DIGITS)
            .and_then(|digits| digits.parse::<u64>().ok());
        if let Some(number) = number {
            files.push((number, item.path()));
        }
    }
    files.sort();
    Ok(files)
}

fn check_numbers(dir: &Path, files: &[(u64, PathBuf)]) -> Result<(), LogError> {
    for pair in files.windows(2) {
        if pair[0].0 + 1 != pair[1].0 {
            let (before, after) = (pair[0].1.display(), pair[1].1.display());
            return Err(LogError::damaged(
                dir,
                format!("a file between {before} and {after} is missing"),
            ));
        }
    }
    Ok(())
}
