//! Whether an archive that `torch.save` wrote is all there: its end says where everything before it lies.
//! Does NOT read what is inside, and says nothing of files in torch's format of before 2020, which have no end of their own.

use super::listing::{Content, Entry};

const BEGINNING: &[u8] = b"PK\x03\x04";
const END: &[u8] = b"PK\x05\x06";
const LARGE_END: &[u8] = b"PK\x06\x06";
const LOCATOR: &[u8] = b"PK\x06\x07";
const END_BYTES: usize = 22;
const LOCATOR_BYTES: usize = 20;
const LARGE_END_BYTES: usize = 56;

/// Is the archive whole? `None`: it is none, or it was not read.
pub(super) fn whole(entry: &Entry) -> Option<bool> {
    let Content::Ends { head, tail } = &entry.content else {
        return None;
    };
    if entry.size == 0 {
        return Some(false);
    }
    head.starts_with(BEGINNING)
        .then(|| closed(tail, entry.size).is_some())
}

/// `Some` if the last bytes of a file of `size` bytes close an archive that fills it.
fn closed(tail: &[u8], size: u64) -> Option<()> {
    let (before, end) = tail.split_at(tail.len().checked_sub(END_BYTES)?);
    let plain = u64::from(u32_at(end, 16)?) + u64::from(u32_at(end, 12)?) + END_BYTES as u64;
    let ends = end.starts_with(END) && end[20..] == [0, 0];
    // torch writes the records for large archives even if they are small.
    let large = large(before, size);
    (ends && large.unwrap_or(plain == size)).then_some(())
}

/// Whether the records for large archives fit; `None`: there are none.
fn large(before: &[u8], size: u64) -> Option<bool> {
    let (before, locator) = before.split_at(before.len().checked_sub(LOCATOR_BYTES)?);
    locator.starts_with(LOCATOR).then_some(())?;
    let at = u64_at(locator, 8)?;
    let fits = || {
        let (_, record) = before.split_at(before.len().checked_sub(LARGE_END_BYTES)?);
        let behind = u64_at(record, 40)?.checked_add(u64_at(record, 48)?)?;
        let all = at.checked_add((LARGE_END_BYTES + LOCATOR_BYTES + END_BYTES) as u64)?;
        Some(record.starts_with(LARGE_END) && behind == at && all == size)
    };
    Some(fits().unwrap_or(false))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}
