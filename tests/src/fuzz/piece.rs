//! Target: a sealed piece of a rank's log, also with the check of its head and those of its blocks mended, so that what they protect is
//! read too. What is read are whole frames of exactly the range that the piece names, the same as a whole and block by block.
//! Does NOT look for files of the right name: a name that does not fit the bytes is refused before they are read.

use mlctl_coordinator::logs::piece::{self, HEAD_BYTES_MAX, Part};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::logs::{Frame, encode, whole};

use super::dice::Dice;
use super::mutate as change;

/// Magic, two ids, rank, range, end, dropped bytes; then the number of blocks.
const FIXED_BYTES: usize = 8 + 2 * 12 + 4 + 2 * 8 + 1 + 8;
const CHECK_BYTES: usize = 16;
const ENTRY_BYTES: usize = 8 + CHECK_BYTES;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [(0, 0), (1, 0), (3, 40), (12, 30_000)]
        .map(|(lines, bytes)| {
            let mut frames = Vec::new();
            for line in 0..lines {
                let text = vec![b'a' + line; bytes];
                let frame = Frame {
                    flags: line % 4,
                    time_ms: u64::from(line),
                    text: &text,
                };
                encode(frame, &mut frames);
            }
            let part = Part {
                job: JobId::new(1, 7),
                epoch: Epoch::new(1, 2),
                rank: 3,
                from: 1 << 33,
                to: (1 << 33) + frames.len() as u64,
                ended: (lines != 3).then_some(9),
            };
            piece::seal(&part, &frames).expect("whole frames")
        })
        .into()
}

pub(super) fn run(bytes: &[u8]) {
    read(bytes);
    read(&mended(bytes));
}

fn read(bytes: &[u8]) {
    let first = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let opened = piece::open(bytes);
    let Ok(head) = piece::head(first) else {
        assert!(opened.is_err(), "a piece without a head was read");
        return;
    };
    let mut all = Some(Vec::new());
    for block in head.blocks() {
        let at = usize::try_from(block.at).unwrap_or(usize::MAX);
        let packed = bytes.get(at..at.saturating_add(block.packed));
        let frames = packed.and_then(|packed| block.frames(packed).ok());
        if let Some(frames) = &frames {
            assert_eq!(whole(frames), Ok(frames.len()), "a block of half frames");
            assert_eq!(frames.len() as u64, block.to - block.from);
        }
        all = all.zip(frames).map(|(all, frames)| [all, frames].concat());
    }
    if let Ok((part, frames)) = opened {
        assert_eq!(part, head.part);
        assert_eq!(part.to - part.from, frames.len() as u64);
        assert_eq!(all, Some(frames), "block by block it is another log");
    }
}

/// Where the head's entries are, if there are so many.
fn entries(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let count = bytes.get(FIXED_BYTES..)?.first_chunk::<4>()?;
    let begin = FIXED_BYTES + 4;
    let end = (u32::from_le_bytes(*count) as usize)
        .checked_mul(ENTRY_BYTES)?
        .checked_add(begin)?;
    (end + CHECK_BYTES <= bytes.len()).then_some(begin..end)
}

/// The same with every check right.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some(entries) = entries(&bytes) else {
        return bytes;
    };
    let mut block = entries.end + CHECK_BYTES;
    for at in entries.clone().step_by(ENTRY_BYTES) {
        let packed = bytes[at + 4..]
            .first_chunk::<4>()
            .map_or(0, |packed| u32::from_le_bytes(*packed));
        let end = block.saturating_add(packed as usize).min(bytes.len());
        let id = piece::id(&bytes[block.min(end)..end]);
        bytes[at + 8..at + ENTRY_BYTES].copy_from_slice(&id);
        block = end;
    }
    let id = piece::id(&bytes[..entries.end]);
    bytes[entries.end..entries.end + CHECK_BYTES].copy_from_slice(&id);
    bytes
}

pub(super) fn mutate(dice: &mut Dice, seeds: &[Vec<u8>], bytes: Vec<u8>) -> Vec<u8> {
    let changed = change::bytes(dice, seeds, bytes);
    if dice.once_in(3) {
        return changed;
    }
    mended(&changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_piece_needs_no_mending() {
        for seed in seeds() {
            assert!(mended(&seed) == seed);
            assert!(piece::open(&seed).is_ok());
        }
    }
}
