//! Target: the log's files, with any bytes: scanned, opened, read and judged as at a start. What is opened and found sound can be
//! written to, and is there after the next start. Checksums are mended first in half the inputs, so that what they protect is read too.
//! Does NOT check that damage is always seen: flips of real logs do that elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use mlctl_coordinator::consensus::log::engine::LogStore;
use mlctl_coordinator::consensus::log::{recover, scanner};
use mlctl_coordinator::consensus::turn::{Core, CoreConfig, Input, Recovered};

use super::dice::Dice;
use super::mutate as change;

/// First byte of an input: mend the checksums of the file.
const MENDED: u8 = 1;
/// First byte of an input: the last third is a second file.
const TWO_FILES: u8 = 2;
const FILE_HEADER_BYTES: usize = 72;
const RECORD_HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let dir = scratch();
    let mut log = LogStore::open(dir.path()).expect("an empty log opens");
    log.initialize(1).expect("it is written");
    let mut core = Core::new(CoreConfig::new(1, vec![1], 7), Recovered::default())
        .expect("a member without a past starts");
    for turn in 0..90_u64 {
        let commands = vec![vec![turn as u8; 40].into()];
        let proposal = Input::Propose {
            id: turn + 1,
            commands,
        };
        let input = if turn < 75 { Input::Tick } else { proposal };
        let mut outputs = core.turn(vec![input]).expect("a member alone goes on");
        while let Some(persist) = outputs.persist.take() {
            log.write(&persist.hard_state, &persist.entries)
                .expect("it is written");
            let number = persist.number;
            outputs = core
                .turn(vec![Input::Persisted { number }])
                .expect("it goes on");
        }
    }
    let mut seeds = vec![file(dir.path(), 0)];
    log.cut((6, 1)).expect("it is cut");
    drop(log);
    seeds.push(file(dir.path(), MENDED));
    seeds.push(file(dir.path(), MENDED | TWO_FILES));
    seeds
}

fn file(dir: &Path, mode: u8) -> Vec<u8> {
    let bytes = fs::read(path(dir, 1)).expect("the log has a first file");
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    [&[mode], &bytes[..end]].concat()
}

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:016}.raftlog"))
}

/// In memory where there is such a place: what is tested is not the disk.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a directory can be made")
}

pub(super) fn run(bytes: &[u8]) {
    let Some((&mode, bytes)) = bytes.split_first() else {
        return;
    };
    let split = if mode & TWO_FILES != 0 {
        bytes.len() / 3 * 2
    } else {
        bytes.len()
    };
    let dir = scratch();
    for (number, part) in [(1, &bytes[..split]), (2, &bytes[split..])] {
        if number == 1 || !part.is_empty() {
            let mut part = part.to_vec();
            if mode & MENDED != 0 {
                mend(&mut part, number);
            }
            fs::write(path(dir.path(), number), part).expect("a file can be written");
        }
    }
    start(dir.path());
}

/// What a start does with a log, then a write and another start.
fn start(dir: &Path) {
    let sound = scanner::scan(dir).is_ok();
    let Ok(mut log) = LogStore::open(dir) else {
        return;
    };
    assert!(sound, "a log was opened that the scanner refuses");
    let Ok(entries) = log.entries() else {
        return;
    };
    let Ok(recovered) = recover::judge(dir, log.mark(), entries, &[]) else {
        return;
    };
    if recovered.entries.is_empty() {
        return;
    }
    let last = &recovered.entries[recovered.entries.len() - 1..];
    log.write(&recovered.hard_state, last)
        .expect("a sound log takes the entry that it holds");
    drop(log);
    let again = LogStore::open(dir).expect("what was just sound and written to opens again");
    let read = again.entries().expect("its entries are read");
    assert!(
        read == recovered.entries,
        "a rewrite of the last entry changed the log"
    );
}

pub(super) fn mutate(dice: &mut Dice, seeds: &[Vec<u8>], bytes: Vec<u8>) -> Vec<u8> {
    let mode = bytes.first().copied().unwrap_or(0);
    let mut changed = change::bytes(dice, seeds, bytes);
    // The header is so long that most changes would hit nothing else.
    if changed.len() > FILE_HEADER_BYTES && !dice.once_in(8) {
        let at = 1 + FILE_HEADER_BYTES;
        let tail = changed.split_off(at.min(changed.len()));
        let seed = &seeds[dice.below(seeds.len())];
        changed.clone_from(&seed[..at.min(seed.len())].to_vec());
        changed.extend(change::bytes(dice, &[], tail));
    }
    if let Some(first) = changed.first_mut() {
        *first = if dice.once_in(8) { dice.byte() } else { mode };
    }
    changed
}

/// Makes every checksum right, as far as the lengths lead: the layout is the scanner's.
fn mend(bytes: &mut [u8], number: u32) {
    let mut rest = bytes.get_mut(FILE_HEADER_BYTES..).unwrap_or_default();
    loop {
        let Some((length, footer)) = extent(rest) else {
            return;
        };
        let (record, behind) = rest.split_at_mut(length);
        let (head, items) = record.split_at_mut(footer);
        seal(items, number);
        seal(&mut head[RECORD_HEADER_BYTES..], 0);
        rest = behind;
    }
}

/// The length of a record and where its footer begins.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| -> Option<u64> {
        let eight = bytes.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_be_bytes(eight))
    };
    let length = usize::try_from(number(0)? >> 8).ok()?;
    let footer = usize::try_from(number(8)?).ok()?;
    let holds = length <= bytes.len()
        && footer >= RECORD_HEADER_BYTES
        && footer.checked_add(CHECKSUM_BYTES)? < length;
    holds.then_some((length, footer))
}

fn seal(block: &mut [u8], number: u32) {
    if let Some((data, sum)) = block.split_last_chunk_mut::<CHECKSUM_BYTES>() {
        *sum = (crc32(data) ^ number).to_le_bytes();
    }
}

/// CRC-32 of IEEE 802.3, bit by bit: inputs are short.
pub(super) fn crc32(data: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in data {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mending what is sound changes nothing: so the layout that it follows is the one that is written.
    #[test]
    fn a_real_log_needs_no_mending() {
        for seed in seeds() {
            let mut bytes = seed[1..].to_vec();
            mend(&mut bytes, 1);
            assert!(bytes == seed[1..]);
            let dir = scratch();
            fs::write(path(dir.path(), 1), &bytes).expect("a file can be written");
            assert!(scanner::scan(dir.path()).expect("it is sound").records > 10);
        }
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
