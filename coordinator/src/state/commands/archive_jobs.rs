//! ArchiveJobs: jobs that are over leave the tables for history, the oldest first, as many as the settings do not keep. When the
//! tail of history has grown long enough it becomes a segment, and that is all that the command does then: apply stays short, and
//! another one follows. Which jobs leave is decided here, whatever was proposed.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::JobId;

use super::{Context, remembered};
use crate::state::change::Change;
use crate::state::codec::{encode_archived, encode_segment};
use crate::state::records::{ClosedSegment, HistoryBatch, Job, Reply, Segment};

/// Jobs that one command moves at most: apply stays short.
pub const ARCHIVE_JOBS_MAX: usize = 250;
/// Bytes after which no further job joins a batch. One job may be longer.
const BATCH_BYTES: usize = 1 << 20;
/// Replies forgotten besides.
const KEYS_MAX: usize = 1_000;

/// Moves jobs into history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveJobs {
    /// At most so many.
    pub most: u32,
}

impl ArchiveJobs {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        remembered::purge(change, context.now_ms, KEYS_MAX);
        let most = (self.most as usize).min(ARCHIVE_JOBS_MAX);
        let due = change.state().archive_due(context.now_ms, most);
        let (batch, leaving) = batch(change, due)?;
        if leaving.is_empty() {
            return Ok(Reply::Done);
        }
        let limit = change.settings()?.retention.segment_bytes();
        let tail = change.state().tail_bytes();
        if tail > 0 && tail.saturating_add(batch.bytes()) > limit {
            close(change)?;
            return Ok(Reply::Done);
        }
        hand_on(change, &leaving);
        for job in &leaving {
            change.archive(job)?;
        }
        change.put_batch(batch);
        Ok(Reply::Done)
    }
}

/// What they left for other tries is from now on what those know of it: some of it may have gone, or come, since a try was made.
fn hand_on(change: &mut Change, leaving: &[Job]) {
    let left: BTreeMap<JobId, &Job> = leaving.iter().map(|job| (job.id, job)).collect();
    let heirs = change.state().jobs().filter_map(|heir| {
        let lineage = heir.lineage.as_ref()?;
        let stays = !left.contains_key(&heir.id);
        let made_by = left.get(&lineage.made_by).filter(|_| stays)?;
        let differs = lineage.checkpoints != made_by.checkpoints;
        differs.then_some((heir.id, *made_by))
    });
    for (heir, made_by) in heirs.collect::<Vec<_>>() {
        let Ok(mut heir) = change.job(heir) else {
            continue;
        };
        if let Some(lineage) = &mut heir.lineage {
            lineage.checkpoints = made_by.checkpoints.clone();
        }
        change.put_job(heir);
    }
}

/// The oldest jobs that are over, `due` of them at most, as they will lie in history.
fn batch(change: &Change, due: usize) -> Result<(HistoryBatch, Vec<Job>), Refusal> {
    let state = change.state();
    let mut batch = HistoryBatch {
        first_seq: state.next_seq(),
        specs: BTreeMap::new(),
        jobs: Vec::new(),
    };
    let mut leaving = Vec::new();
    let mut bytes = 0_usize;
    // A dropped attempt of a job that is over may still hold devices: it leaves with the job, once it holds none.
    let free = |job: &&Arc<Job>| !state.ends_attempt(job.id);
    let leaves = state.finished().take(due).filter(free);
    for (job, seq) in leaves.zip(batch.first_seq..) {
        let spec = state.spec(&job.spec_hash);
        let spec = spec.ok_or_else(|| broken(job.id, "has no spec"))?;
        let attempts = state.attempts_of(job.id).map(AsRef::as_ref);
        let record = encode_archived(seq, job, attempts);
        bytes = bytes.saturating_add(record.len());
        batch.specs.entry(job.spec_hash).or_insert_with(|| {
            bytes = bytes.saturating_add(spec.json.len());
            spec.json.clone()
        });
        batch.jobs.push((job.id, record));
        leaving.push(Job::clone(job));
        if bytes >= BATCH_BYTES {
            break;
        }
    }
    Ok((batch, leaving))
}

/// Makes a segment of the tail.
fn close(change: &mut Change) -> Result<(), Refusal> {
    let state = change.state();
    let batches: Vec<_> = state.tail().cloned().collect();
    let ids = || {
        batches
            .iter()
            .flat_map(|batch| &batch.jobs)
            .map(|job| job.0)
    };
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
        return Ok(());
    };
    let (Some(first_job), Some(last_job)) = (ids().min(), ids().max()) else {
        return Err(broken(JobId::new(0, 0), "is all there is in a batch"));
    };
    let bytes = encode_segment(batches.iter().map(AsRef::as_ref));
    let hash = *blake3::hash(&bytes).as_bytes();
    let segment = Segment {
        number: state
            .last_segment()
            .map_or(0, |last| last.number)
            .saturating_add(1),
        first_seq: first.first_seq,
        last_seq: last.end_seq().saturating_sub(1),
        first_job,
        last_job,
        bytes: bytes.len() as u64,
        hash,
    };
    change.close_segment(segment, ClosedSegment { hash, bytes });
    Ok(())
}

fn broken(job: JobId, why: &str) -> Refusal {
    Refusal::new(
        Code::Internal,
        format!("job {job} {why}: history was not written"),
    )
}

#[cfg(test)]
#[path = "archive_jobs_tests.rs"]
mod tests;
