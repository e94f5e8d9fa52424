//! History's rows as bytes: archived jobs, the batches that wait for a segment, the list of segments.
use std::collections::BTreeMap;

use mlctl_proto::ids::JobId;
use mlctl_proto::persist;
use prost::Message;

use super::{
    CodecError, RECORD_VERSION, ROW_BYTES_MAX, Record, array, bad_id, known_version, message,
};
use crate::state::records::{Archived, Attempt, HistoryBatch, Job, Segment};

const JOB: &str = "an archived job";

/// A job and its attempts as history keeps them.
pub fn encode_archived<'a>(
    seq: u64,
    job: &Job,
    attempts: impl Iterator<Item = &'a Attempt>,
) -> Vec<u8> {
    persist::ArchivedJobRecord {
        version: RECORD_VERSION,
        seq,
        job: job.encode(),
        attempts: attempts.map(Record::encode).collect(),
    }
    .encode_to_vec()
}

/// The reverse of [`encode_archived`].
///
/// # Errors
/// Bytes that are not those of a job that is over, with its own attempts.
pub fn decode_archived(bytes: &[u8]) -> Result<Archived, CodecError> {
    let record: persist::ArchivedJobRecord = message(JOB, bytes, ROW_BYTES_MAX)?;
    known_version(JOB, record.version)?;
    let job = Job::decode(&record.job)?;
    let attempts = record.attempts.iter().map(|bytes| Attempt::decode(bytes));
    let attempts: Vec<Attempt> = attempts.collect::<Result<_, _>>()?;
    let own = attempts.iter().all(|attempt| attempt.job == job.id);
    let rising = attempts
        .windows(2)
        .all(|pair| pair[0].epoch < pair[1].epoch);
    if !(job.state.terminal() && own && rising) {
        return Err(malformed(
            JOB,
            format!(
                "job {} is not over, or its attempts are not its own",
                job.id
            ),
        ));
    }
    Ok(Archived {
        seq: record.seq,
        job,
        attempts,
    })
}

impl Record for HistoryBatch {
    const TABLE: u8 = 20;
    type Key = u64;

    fn key(&self) -> u64 {
        self.first_seq
    }

    fn key_bytes(key: &u64) -> Vec<u8> {
        key.to_be_bytes().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        persist::HistoryBatchRecord {
            version: RECORD_VERSION,
            first_seq: self.first_seq,
            specs: self.specs.values().cloned().collect(),
            jobs: self.jobs.iter().map(|(_, bytes)| bytes.clone()).collect(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "a batch of history";
        let record: persist::HistoryBatchRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        let hashed = record.specs.into_iter().map(|json| {
            let hash = *blake3::hash(&json).as_bytes();
            (hash, json)
        });
        let specs: BTreeMap<[u8; 32], Vec<u8>> = hashed.collect();
        // So many jobs there never are, and what comes after them is counted without looking.
        if record.first_seq > u64::MAX >> 1 {
            let why = format!("it begins at number {}", record.first_seq);
            return Err(malformed(what, why));
        }
        let mut jobs = Vec::new();
        for (seq, bytes) in (record.first_seq..).zip(record.jobs) {
            let archived = decode_archived(&bytes)?;
            if archived.seq != seq || !specs.contains_key(&archived.job.spec_hash) {
                return Err(malformed(
                    what,
                    format!(
                        "job {} is not in its place, or without its spec",
                        archived.job.id
                    ),
                ));
            }
            jobs.push((archived.job.id, bytes));
        }
        Ok(Self {
            first_seq: record.first_seq,
            specs,
            jobs,
        })
    }
}

impl Record for Segment {
    const TABLE: u8 = 21;
    type Key = u64;

    fn key(&self) -> u64 {
        self.number
    }

    fn key_bytes(key: &u64) -> Vec<u8> {
        key.to_be_bytes().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        persist::SegmentRecord {
            version: RECORD_VERSION,
            number: self.number,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            first_job: Some(self.first_job.into()),
            last_job: Some(self.last_job.into()),
            bytes: self.bytes,
            hash: self.hash.to_vec(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "a segment of history";
        let record: persist::SegmentRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        Ok(Self {
            number: record.number,
            first_seq: record.first_seq,
            last_seq: record.last_seq,
            first_job: JobId::try_from(record.first_job).map_err(bad_id(what))?,
            last_job: JobId::try_from(record.last_job).map_err(bad_id(what))?,
            bytes: record.bytes,
            hash: array(what, "hash", &record.hash)?,
        })
    }
}

fn malformed(what: &'static str, why: String) -> CodecError {
    CodecError::Malformed { what, why }
}
