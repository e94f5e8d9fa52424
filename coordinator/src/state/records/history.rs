//! History: jobs that are over and left the tables. What is newest waits in batches; older history is in segments, which are
//! files. Knows no file: `codec` says how a segment's bytes look, `store` keeps them.
use std::collections::BTreeMap;

use mlctl_proto::ids::JobId;

use super::{Attempt, Job};

const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// What stays in memory of jobs that are over. A field that is 0 has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Jobs that are over and stay.
    pub keep_finished: u32,
    /// For so many days at most.
    pub keep_finished_days: u32,
    /// A segment is about this long, bytes.
    pub segment_bytes: u32,
}

impl Retention {
    /// Jobs that are over and stay, by default.
    pub const KEEP_FINISHED: u32 = 10_000;
    /// The same in a throw-away cluster.
    pub const KEEP_FINISHED_DEV: u32 = 1_000;
    /// Days that they stay at most, by default.
    pub const KEEP_FINISHED_DAYS: u32 = 30;
    /// Bytes of a segment, by default.
    pub const SEGMENT_BYTES: u32 = 2 << 20;
    /// Bytes that a segment may be asked to have.
    pub const SEGMENT_BYTES_RANGE: std::ops::RangeInclusive<u32> = 4 << 10..=64 << 20;

    /// How many jobs that are over stay.
    pub fn keep(&self, dev: bool) -> usize {
        let by_default = if dev {
            Self::KEEP_FINISHED_DEV
        } else {
            Self::KEEP_FINISHED
        };
        or(self.keep_finished, by_default) as usize
    }

    /// For how long they stay at most, milliseconds.
    pub fn keep_ms(&self) -> i64 {
        i64::from(or(self.keep_finished_days, Self::KEEP_FINISHED_DAYS)).saturating_mul(DAY_MS)
    }

    /// How long a segment may become before it is closed, bytes.
    pub fn segment_bytes(&self) -> usize {
        or(self.segment_bytes, Self::SEGMENT_BYTES) as usize
    }
}

fn or(value: u32, by_default: u32) -> u32 {
    if value == 0 { by_default } else { value }
}

/// A job as history keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Its place in history, from 1.
    pub seq: u64,
    /// The job.
    pub job: Job,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
}

/// What one command moved into history, as bytes, until a segment holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryBatch {
    /// Place of its first job.
    pub first_seq: u64,
    /// Canonical JSON of the specs that its jobs name, by hash.
    pub specs: BTreeMap<[u8; 32], Vec<u8>>,
    /// Encoded [`Archived`]s in order.
    pub jobs: Vec<(JobId, Vec<u8>)>,
}

impl HistoryBatch {
    /// Place of the job after its last.
    pub fn end_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.jobs.len() as u64)
    }

    /// What it adds to a segment, about, bytes.
    pub fn bytes(&self) -> usize {
        let specs = self.specs.values().map(|json| json.len() + FRAME_BYTES);
        let jobs = self.jobs.iter().map(|(_, bytes)| bytes.len() + FRAME_BYTES);
        specs.chain(jobs).sum()
    }
}

/// Beside each record of a segment: its length and its checksum.
pub const FRAME_BYTES: usize = 8;

/// A closed piece of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// From 1.
    pub number: u64,
    /// Place of its first job.
    pub first_seq: u64,
    /// Place of its last job.
    pub last_seq: u64,
    /// The lowest id in it.
    pub first_job: JobId,
    /// The highest id in it.
    pub last_job: JobId,
    /// Of its file.
    pub bytes: u64,
    /// BLAKE3 of its file.
    pub hash: [u8; 32],
}

impl Segment {
    /// How many jobs it holds.
    pub fn jobs(&self) -> u64 {
        (self.last_seq.saturating_add(1)).saturating_sub(self.first_seq)
    }

    /// Whether a job may be in it, going by its id.
    pub fn may_hold(&self, job: JobId) -> bool {
        (self.first_job..=self.last_job).contains(&job)
    }
}

/// A segment that was just closed, with the bytes of its file: every member makes the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedSegment {
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// The file.
    pub bytes: Vec<u8>,
}
