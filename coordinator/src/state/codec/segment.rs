//! A segment of history as the bytes of a file: a header, then every spec once, then every job, each record with its length and
//! its checksum. The same records make the same bytes. Reads arbitrary bytes without a panic, and allocates nothing that they
//! do not hold; who reads a whole file compares its hash besides.
use std::collections::BTreeMap;
use std::ops::Range;

use super::{CodecError, RECORD_VERSION, decode_archived};
use crate::state::records::{Archived, FRAME_BYTES, HistoryBatch};

const MAGIC: &[u8; 8] = b"mlctl-hs";
const HEADER_BYTES: usize = 8 + 4 + 8 + 4 + 4 + 4;

/// The file of what these batches hold, which follow each other.
pub fn encode_segment<'a>(batches: impl Iterator<Item = &'a HistoryBatch> + Clone) -> Vec<u8> {
    let mut specs: BTreeMap<&[u8; 32], &[u8]> = BTreeMap::new();
    for batch in batches.clone() {
        specs.extend(
            batch
                .specs
                .iter()
                .map(|(hash, json)| (hash, json.as_slice())),
        );
    }
    let first_seq = batches.clone().next().map_or(0, |batch| batch.first_seq);
    let jobs: usize = batches.clone().map(|batch| batch.jobs.len()).sum();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&RECORD_VERSION.to_le_bytes());
    bytes.extend_from_slice(&first_seq.to_le_bytes());
    bytes.extend_from_slice(&(specs.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(jobs as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    specs.values().for_each(|json| frame(&mut bytes, json));
    for batch in batches {
        for (_, job) in &batch.jobs {
            frame(&mut bytes, job);
        }
    }
    bytes
}

fn frame(bytes: &mut Vec<u8>, record: &[u8]) {
    bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
    bytes.extend_from_slice(record);
}

/// The record in `frame`, which is a record's place in a file with the [`FRAME_BYTES`] before it; `None` if it is another.
pub fn framed(frame: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    let record = next(frame, &mut at).ok()?;
    frame.get(record).filter(|_| at == frame.len())
}

/// Where a job lies in a segment's file: its record and that of its spec, without their frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The job.
    pub archived: Archived,
    /// Its record.
    pub job: Range<usize>,
    /// Its spec's JSON.
    pub spec: Range<usize>,
}

/// Every job of a segment in order, with where it lies.
///
/// # Errors
/// Bytes that are not a whole segment of this release.
pub fn decode_segment(bytes: &[u8]) -> Result<Vec<Placed>, CodecError> {
    let (first_seq, specs, jobs) = header(bytes)?;
    let mut at = HEADER_BYTES;
    let mut known = BTreeMap::new();
    for _ in 0..specs {
        let range = next(bytes, &mut at)?;
        let json = bytes.get(range.clone()).unwrap_or_default();
        known.insert(*blake3::hash(json).as_bytes(), range);
    }
    let mut placed = Vec::new();
    for (seq, _) in (first_seq..).zip(0..jobs) {
        let job = next(bytes, &mut at)?;
        let archived = decode_archived(bytes.get(job.clone()).unwrap_or_default())?;
        let spec = known.get(&archived.job.spec_hash).cloned();
        let Some(spec) = spec.filter(|_| archived.seq == seq) else {
            let id = archived.job.id;
            return Err(damaged(&format!(
                "job {id} is not in its place, or without its spec"
            )));
        };
        placed.push(Placed {
            archived,
            job,
            spec,
        });
    }
    if at != bytes.len() {
        return Err(damaged("something follows its last record"));
    }
    Ok(placed)
}

/// First place, number of specs, number of jobs.
fn header(bytes: &[u8]) -> Result<(u64, u32, u32), CodecError> {
    let mut rest = bytes;
    let header = bytes.get(..HEADER_BYTES - 4).unwrap_or_default();
    if take::<8>(&mut rest)? != *MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    let version = u32::from_le_bytes(take(&mut rest)?);
    if version != RECORD_VERSION {
        return Err(CodecError::Version {
            what: "the segment",
            version,
        });
    }
    let first_seq = u64::from_le_bytes(take(&mut rest)?);
    let specs = u32::from_le_bytes(take(&mut rest)?);
    let jobs = u32::from_le_bytes(take(&mut rest)?);
    if u32::from_le_bytes(take(&mut rest)?) != crc32fast::hash(header) {
        return Err(damaged("its header does not match its checksum"));
    }
    if first_seq > u64::MAX >> 1 {
        return Err(damaged("it begins at a number that no job ever has"));
    }
    Ok((first_seq, specs, jobs))
}

/// The next record, its checksum verified.
fn next(bytes: &[u8], at: &mut usize) -> Result<Range<usize>, CodecError> {
    let mut rest = bytes.get(*at..).unwrap_or_default();
    let length = u32::from_le_bytes(take(&mut rest)?) as usize;
    let sum = u32::from_le_bytes(take(&mut rest)?);
    let record = rest
        .get(..length)
        .ok_or_else(|| damaged("it is cut inside a record"))?;
    if crc32fast::hash(record) != sum {
        return Err(damaged("a record does not match its checksum"));
    }
    let begin = *at + FRAME_BYTES;
    *at = begin + length;
    Ok(begin..*at)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CodecError> {
    let (head, after) = rest
        .split_first_chunk::<N>()
        .ok_or_else(|| damaged("it is cut"))?;
    *rest = after;
    Ok(*head)
}

fn damaged(why: &str) -> CodecError {
    CodecError::Segment { why: why.into() }
}
