//! Target: a segment of history, as it is and with its checksums mended, so that what they protect is read too. Every job lies where the
//! segment says, and is the same after it was written.
//! Does NOT compare hashes: who reads a whole file does that before.

use mlctl_coordinator::state::codec;

use super::dice::Dice;
use super::log::crc32;
use super::wire::take;
use super::{mutate as change, story};

/// Magic, version, first place, specs, jobs; then their checksum.
const HEADER_BYTES: usize = 8 + 4 + 8 + 4 + 4;
const CHECKSUM_BYTES: usize = 4;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let state = story::end();
    let batches: Vec<_> = state.tail().map(|batch| batch.as_ref().clone()).collect();
    vec![
        codec::encode_segment(batches.iter()),
        codec::encode_segment([].iter()),
    ]
}

pub(super) fn run(bytes: &[u8]) {
    read(bytes);
    let (header, records) = split(bytes);
    read(&join(header, &records));
}

fn read(bytes: &[u8]) {
    for placed in codec::decode_segment(bytes).unwrap_or_default() {
        let (job, spec) = (bytes.get(placed.job), bytes.get(placed.spec));
        assert!(spec.is_some(), "the spec lies outside of the segment");
        let again = codec::decode_archived(job.expect("the job lies in the segment"));
        let archived = again.expect("what was read where it lies is read again");
        assert_eq!(archived, placed.archived);
        let attempts = archived.attempts.iter();
        let written = codec::encode_archived(archived.seq, &archived.job, attempts);
        assert_eq!(codec::decode_archived(&written).as_ref(), Ok(&archived));
    }
}

/// The header without its checksum, and the records without theirs, as far as their lengths hold.
fn split(bytes: &[u8]) -> (&[u8], Vec<Vec<u8>>) {
    let header = &bytes[..bytes.len().min(HEADER_BYTES)];
    let mut rest = bytes
        .get(HEADER_BYTES + CHECKSUM_BYTES..)
        .unwrap_or_default();
    let mut records = Vec::new();
    while let Some(frame) = take(&mut rest, 8) {
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let Some(record) = take(&mut rest, length as usize) else {
            break;
        };
        records.push(record.to_vec());
    }
    (header, records)
}

/// The same with every checksum right.
fn join(header: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(&crc32(header).to_le_bytes());
    for record in records {
        bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32(record).to_le_bytes());
        bytes.extend_from_slice(record);
    }
    bytes
}

pub(super) fn mutate(dice: &mut Dice, seeds: &[Vec<u8>], bytes: Vec<u8>) -> Vec<u8> {
    if dice.once_in(6) {
        return change::bytes(dice, seeds, bytes);
    }
    let (header, records) = split(&bytes);
    let mut header = header.to_vec();
    if dice.once_in(6) {
        header = change::bytes(dice, &[], header);
    }
    let known = seeds.first().map(|seed| split(seed).1).unwrap_or_default();
    let records = change::parts(dice, records, &known, |dice, record| {
        change::protobuf(dice, &[], record)
    });
    join(&header, &records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_segment_needs_no_mending() {
        let seed = &seeds()[0];
        let (header, records) = split(seed);
        assert!(join(header, &records) == *seed);
        let jobs = codec::decode_segment(seed).expect("it is sound");
        assert!(!jobs.is_empty(), "the story archives a job");
    }
}
