//! The frames of the journal: a magic, a length, a checksum, the bytes of one record. Reads hostile bytes and never panics.
//! Does NOT know what a record means.

use std::ops::Range;

const MAGIC: [u8; 4] = *b"mlj1";
const HEAD: usize = 4 + 4 + 8;
/// No record is larger: a start carries a spec of at most 64 KiB and the names of a gang.
const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Appends one frame to `out`. `false`: the payload is larger than any frame may be, nothing was written.
pub(super) fn write(payload: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(length) = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_BYTES_MAX)
    else {
        return false;
    };
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(payload));
    out.extend_from_slice(payload);
    true
}

/// What is in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where the payloads are, in order.
    pub(super) payloads: Vec<Range<usize>>,
    /// Stretches that are no frames although frames follow.
    pub(super) damaged: Vec<Range<usize>>,
    /// What is behind the last frame: a torn write.
    pub(super) tail: Range<usize>,
}

/// Finds every whole frame in `bytes`.
pub(super) fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    let mut bad_from = None;
    while at < bytes.len() {
        if let Some(payload) = frame_at(bytes, at) {
            if let Some(from) = bad_from.take() {
                scan.damaged.push(from..at);
            }
            at = payload.end;
            scan.payloads.push(payload);
        } else {
            bad_from.get_or_insert(at);
            at = next_magic(bytes, at + 1);
        }
    }
    scan.tail = bad_from.unwrap_or(bytes.len())..bytes.len();
    scan
}

fn next_magic(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(MAGIC.len())
        .position(|window| window == MAGIC)
        .map_or(bytes.len(), |found| from + found)
}

/// The payload of a whole, undamaged frame that begins at `at`.
fn frame_at(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let head = bytes.get(at..at.checked_add(HEAD)?)?;
    let (magic, rest) = head.split_first_chunk::<4>()?;
    let (length, sum) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if *magic != MAGIC || length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let range = at + HEAD..at + HEAD + length;
    let payload = bytes.get(range.clone())?;
    (checksum(payload) == sum).then_some(range)
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(payload);
    hash.as_bytes()
        .first_chunk::<8>()
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        payloads
            .iter()
            .for_each(|payload| assert!(write(payload, &mut out)));
        out
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, usize, usize) {
        let scan = scan(bytes);
        let payloads = scan
            .payloads
            .into_iter()
            .map(|range| bytes[range].to_vec())
            .collect();
        (payloads, scan.damaged.len(), scan.tail.len())
    }

    #[test]
    fn whole_files_come_back() {
        assert_eq!(read(&[]), (vec![], 0, 0));
        let bytes = file(&[b"one", b"", b"three"]);
        assert_eq!(
            read(&bytes),
            (vec![b"one".to_vec(), vec![], b"three".to_vec()], 0, 0)
        );
    }

    #[test]
    fn every_cut_is_a_torn_tail() {
        let bytes = file(&[b"one", b"two"]);
        let first = file(&[b"one"]).len();
        for cut in first..bytes.len() {
            assert_eq!(
                read(&bytes[..cut]),
                (vec![b"one".to_vec()], 0, cut - first),
                "{cut}"
            );
        }
    }

    #[test]
    fn every_flipped_byte_costs_one_record() {
        let good = file(&[b"one", b"two", b"three"]);
        let (first, second) = (file(&[b"one"]).len(), file(&[b"one", b"two"]).len());
        for at in first..second {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            let want = (vec![b"one".to_vec(), b"three".to_vec()], 1, 0);
            assert_eq!(read(&bytes), want, "byte {at}");
        }
    }

    #[test]
    fn payloads_have_a_limit() {
        let mut out = Vec::new();
        assert!(!write(&vec![0; PAYLOAD_BYTES_MAX + 1], &mut out) && out.is_empty());
        let mut forged = MAGIC.to_vec();
        forged.extend_from_slice(&u32::MAX.to_le_bytes());
        forged.extend_from_slice(&[0; 64]);
        assert_eq!(read(&forged), (vec![], 0, forged.len()));
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_never_hides_what_follows(garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = garbage;
            bytes.extend(file(&[b"last"]));
            let (payloads, ..) = read(&bytes);
            prop_assert_eq!(payloads.last(), Some(&b"last".to_vec()));
        }
    }
}
