//! Tests of scanner and engine together: what a crash leaves is cut, what bit rot leaves is refused.

use super::LogError;
use super::engine::{LogStore, Mark};
use super::files::Files;
use super::scanner::{Scan, file_header, scan};
use raft::eraftpb::{Entry, HardState};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tempfile::TempDir;

const HEADER: usize = 72;

fn entries(range: RangeInclusive<u64>, size: usize) -> Vec<Entry> {
    range
        .map(|index| {
            let mut entry = Entry::default();
            (entry.index, entry.term) = (index, 1);
            entry.data = vec![1u8; size].into();
            entry
        })
        .collect()
}

fn hard_state(commit: u64) -> HardState {
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.vote, hard_state.commit) = (1, 2, commit);
    hard_state
}

/// A log of ten writes of one entry each, closed.
fn ten() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = LogStore::open(dir.path()).expect("opens");
    for index in 1..=10 {
        let one = entries(index..=index, 100);
        log.write(&hard_state(index - 1), &one).expect("writes");
    }
    drop(log);
    let file = dir.path().join("0000000000000001.raftlog");
    assert!(file.exists());
    (dir, file)
}

/// What is left after `damage` was done to the file: the last index, or a word of the complaint. The witness did not
/// reach the disk, as in a power cut.
fn check(damage: impl FnOnce(&mut Vec<u8>), expected: Result<u64, &str>) {
    let (dir, file) = ten();
    fs::remove_file(dir.path().join("last-write")).expect("removes");
    let mut bytes = fs::read(&file).expect("reads");
    damage(&mut bytes);
    fs::write(&file, bytes).expect("writes");
    match (LogStore::open(dir.path()), expected) {
        (Ok(log), Ok(last)) => {
            let entries = log.entries().expect("reads");
            assert_eq!(entries.last().map_or(0, |entry| entry.index), last);
            assert_eq!(entries.len() as u64, last);
        }
        (Err(error @ LogError::Damaged { .. }), Err(word)) => {
            let text = error.to_string();
            assert!(text.contains(word), "{text} has no {word:?}");
            assert!(
                text.contains("will not vote") && text.contains("--rejoin"),
                "{text}"
            );
        }
        (opened, expected) => {
            panic!(
                "{:?} is not {expected:?}",
                opened.err().map(|error| error.to_string())
            );
        }
    }
}

#[test]
fn what_was_written_is_read_back() {
    let (dir, _) = ten();
    let scanned = scan(dir.path()).expect("scans");
    assert_eq!(
        scanned,
        Scan {
            files: 1,
            records: 10,
            ..Scan::default()
        }
    );
    let mut log = LogStore::open(dir.path()).expect("opens");
    assert!(!log.is_fresh());
    let expected = Mark {
        term: 1,
        vote: 2,
        commit: 9,
        ..Mark::fresh()
    };
    assert_eq!(*log.mark(), expected);
    // A new leader overwrites from 6 on.
    log.write(&hard_state(9), &entries(6..=7, 5))
        .expect("writes");
    drop(log);
    let log = LogStore::open(dir.path()).expect("opens again");
    let read = log.entries().expect("reads");
    assert_eq!(read.len(), 7);
    assert_eq!(read[5].data.len(), 5);
}

#[test]
fn a_torn_tail_is_cut() {
    check(|_| {}, Ok(10));
    check(|bytes| bytes.truncate(bytes.len() - 1), Ok(9));
    check(|bytes| bytes.truncate(bytes.len() - 60), Ok(9));
    // The file was preallocated, the last record only half there.
    let preallocated = |bytes: &mut Vec<u8>| {
        let length = bytes.len();
        bytes[length - 50..].fill(0);
        bytes.resize(length + 4096, 0);
    };
    check(preallocated, Ok(9));
    check(|bytes| bytes.extend_from_slice(&[0; 100_000]), Ok(10));
    check(|bytes| bytes.extend_from_slice(&[0xab; 333]), Ok(10));
    // Found by the fuzz target `log`: the process ended at each start, for lack of so much memory.
    let huge = |bytes: &mut Vec<u8>| {
        bytes.extend_from_slice(&(u64::MAX << 8).to_be_bytes());
        bytes.extend_from_slice(&100_u64.to_be_bytes());
        bytes.extend_from_slice(&[7; 50]);
    };
    check(huge, Ok(10));
    check(|bytes| bytes.truncate(HEADER), Ok(0));
    check(|bytes| bytes.truncate(HEADER - 5), Ok(0));
}

/// Found by the fuzz target `log`: raft-engine wrote on behind an older header, and the next start took that for damage.
#[test]
fn what_is_written_after_a_file_without_a_header_is_there_at_the_next_start() {
    let header = file_header();
    let older = [&header[..header.len() - 16], &1_u64.to_be_bytes()[..]].concat();
    for begun in [vec![], vec![0; 100], vec![0xab; 300], older] {
        let (dir, _) = ten();
        fs::write(dir.path().join("0000000000000002.raftlog"), begun).expect("writes");
        for last in 10..13 {
            let mut log = LogStore::open(dir.path()).expect("opens");
            assert_eq!(log.entries().expect("reads").len(), last);
            let next = last as u64 + 1;
            let one = entries(next..=next, 100);
            log.write(&hard_state(next - 1), &one).expect("writes");
        }
        assert_eq!(scan(dir.path()).expect("sound").records, 13);
    }
}

#[test]
fn the_witness_sees_that_a_tail_is_gone() {
    let damages: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes.truncate(bytes.len() - 1),
        |bytes| bytes.truncate(HEADER + 400),
        |bytes| bytes.clear(),
        |bytes| {
            let last = bytes.len() - 10;
            bytes[last] ^= 4;
        },
        |bytes| bytes.truncate(HEADER),
    ];
    for damage in damages {
        let (dir, file) = ten();
        let mut bytes = fs::read(&file).expect("reads");
        damage(&mut bytes);
        fs::write(&file, bytes).expect("writes");
        let error = LogStore::open(dir.path()).err().expect("refused");
        assert!(error.to_string().contains("write 10 was synced"), "{error}");
    }
    // A witness that is behind, as after a power cut, or that cannot be read, proves nothing.
    let (dir, _) = ten();
    let path = dir.path().join("last-write");
    let good = fs::read(&path).expect("reads");
    for bad in [&b""[..], &good[..5], &[0x55; 12], &[0; 300]] {
        fs::write(&path, bad).expect("writes");
        let log = LogStore::open(dir.path()).expect("opens");
        assert_eq!(log.entries().expect("reads").len(), 10);
    }
}

#[test]
fn every_flip_before_the_last_record_is_damage() {
    let (dir, file) = ten();
    let good = fs::read(&file).expect("reads");
    let length = good.len();
    // In the last record a flip cannot be told from a torn write; where it begins is what the scan says.
    let mut bad = good.clone();
    bad[length - 1] = if bad[length - 1] == 7 { 9 } else { 7 };
    fs::write(&file, bad).expect("writes");
    let last = scan(dir.path()).expect("scans").torn_bytes as usize;
    assert!(last > 100 && last < 300, "{last}");
    for at in 0..length - last {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&file, bad).expect("writes");
        let scanned = scan(dir.path());
        assert!(
            matches!(scanned, Err(LogError::Damaged { .. })),
            "a flip at {at}: {scanned:?}"
        );
    }
    check(
        |bytes| bytes[HEADER + 200] ^= 1,
        Err("a sound record behind it"),
    );
    check(|bytes| bytes[3] ^= 1, Err("header"));
}

#[test]
fn a_bad_record_in_an_earlier_file_and_a_missing_file_are_damage() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = LogStore::open(dir.path()).expect("opens");
    let mut next = 1;
    while files(dir.path()).len() < 3 {
        let write = entries(next..=next + 3, 1 << 20);
        log.write(&hard_state(next), &write).expect("writes");
        next += 4;
    }
    drop(log);
    assert!(scan(dir.path()).expect("scans").files == 3);
    let first = &files(dir.path())[0];
    let good = fs::read(first).expect("reads");
    let mut bad = good.clone();
    // The last record of a file that another follows: raft-engine alone would cut it without a word.
    let last = bad.len() - (2 << 20);
    bad[last] ^= 1;
    fs::write(first, bad).expect("writes");
    let error = scan(dir.path()).expect_err("damage").to_string();
    assert!(error.contains("a later file follows"), "{error}");
    fs::write(first, good).expect("writes");
    fs::remove_file(&files(dir.path())[1]).expect("removes");
    let error = scan(dir.path()).expect_err("damage").to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn cuts_free_files_and_installs_replace_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = LogStore::open(dir.path()).expect("opens");
    let mut next = 1;
    while next <= 100 {
        let write = entries(next..=next + 3, 1 << 20);
        log.write(&hard_state(next), &write).expect("writes");
        next += 4;
    }
    let before = files(dir.path()).len();
    // Too much is alive to free everything: raft-engine copies it to its rewrite files.
    log.cut((30, 1)).expect("cuts");
    drop(log);
    let mut log = LogStore::open(dir.path()).expect("opens after the copying");
    let read = log.entries().expect("reads");
    assert_eq!((read.len(), read[0].index, read[69].index), (70, 31, 100));
    log.cut((90, 1)).expect("cuts again");
    assert!(files(dir.path()).len() < before, "no file was freed");
    drop(log);
    let mut log = LogStore::open(dir.path()).expect("opens again");
    assert_eq!(log.mark().floor, (90, 1));
    assert_eq!(
        log.entries().expect("reads").first().map(|e| e.index),
        Some(91)
    );
    // A leader's snapshot below the end of a log that conflicts with it, then entries after it.
    log.install(&hard_state(95), (95, 1)).expect("installs");
    assert!(log.entries().expect("reads").is_empty());
    log.write(&hard_state(95), &entries(96..=97, 10))
        .expect("writes");
    drop(log);
    let log = LogStore::open(dir.path()).expect("opens after that");
    let read: Vec<u64> = log
        .entries()
        .expect("reads")
        .iter()
        .map(|e| e.index)
        .collect();
    assert_eq!(read, [96, 97]);
    assert_eq!(log.mark().vote, 2);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("lists")
        .map(|item| item.expect("an item").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "raftlog"))
        .collect();
    files.sort();
    files
}

/// The files of a directory with what is in them, but for the witness, which is no part of the log.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| (path.clone(), fs::read(path).expect("reads"));
    files(dir).into_iter().map(read).collect()
}

#[test]
fn after_a_failed_sync_nothing_touches_the_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let system = Files::default();
    let broken = Arc::clone(&system.broken);
    let mut log = LogStore::open_on(system, dir.path()).expect("opens");
    log.write(&hard_state(0), &entries(1..=3, 100))
        .expect("writes");
    broken.store(true, Ordering::Relaxed);
    let failed = log.write(&hard_state(3), &entries(4..=4, 100));
    let text = failed.expect_err("the sync failed").to_string();
    for word in ["cannot sync", "raftlog", "Input/output error", "--rejoin"] {
        assert!(text.contains(word), "nothing about `{word}`: {text}");
    }
    let before = contents(dir.path());
    // A second sync would succeed, as the kernel's does, and would say nothing about the first.
    broken.store(false, Ordering::Relaxed);
    for attempt in [
        log.write(&hard_state(4), &entries(5..=5, 100)),
        log.cut((3, 1)),
        log.install(&hard_state(4), (4, 1)),
        log.initialize(2),
    ] {
        assert_eq!(attempt.expect_err("refused").to_string(), text);
    }
    drop(log);
    assert_eq!(contents(dir.path()), before);
    let log = LogStore::open(dir.path()).expect("opens again");
    let read = log.entries().expect("reads");
    assert!(read.len() >= 3, "what was acknowledged is there");
}

#[test]
fn a_million_small_entries_leave_a_small_log() {
    const ENTRIES: u64 = 1_000_000;
    const PER_WRITE: u64 = 1_000;
    const KEPT: u64 = 20_000;
    // raft-engine purges from 64 MiB on, in files of 16; what it rewrites is on top.
    const BOUND: u64 = 112 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = LogStore::open(dir.path()).expect("opens");
    let (mut last, mut most) = (0, 0);
    while last < ENTRIES {
        let write = entries(last + 1..=last + PER_WRITE, 100);
        log.write(&hard_state(last), &write).expect("writes");
        last += PER_WRITE;
        if last % (10 * PER_WRITE) == 0 && last > KEPT {
            log.cut((last - KEPT, 1)).expect("cuts");
        }
        let held = fs::read_dir(dir.path()).expect("lists");
        let held = held.map(|item| item.and_then(|item| item.metadata()).expect("known").len());
        most = most.max(held.sum());
    }
    assert!(most < BOUND, "{} MiB at most", most >> 20);
    drop(log);
    let log = LogStore::open(dir.path()).expect("opens again");
    let read = log.entries().expect("reads");
    let range = (read[0].index, read[read.len() - 1].index);
    assert_eq!(range, (ENTRIES - KEPT + 1, ENTRIES));
}
