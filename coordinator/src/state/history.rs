//! What the state says of history: which jobs are due to leave the tables, which left, and where they are now. It reads no file:
//! of a segment it knows the name, the length and which jobs it may hold.
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::State;
use super::codec::{self, CodecError};
use super::records::{Archived, HistoryBatch, Job, Segment, Spec};

impl State {
    /// How many jobs that are over stay longer than the settings say, at state time `now_ms`; not counted beyond `most`.
    pub fn archive_due(&self, now_ms: UtcMs, most: usize) -> usize {
        let Some(settings) = self.settings() else {
            return 0;
        };
        let too_many = self
            .finished_count()
            .saturating_sub(settings.retention.keep(settings.dev));
        if too_many >= most {
            return most;
        }
        let before = now_ms.saturating_sub(settings.retention.keep_ms());
        let mut oldest = self.finished().take(most);
        // The oldest come first, so that the first one that is young enough ends it.
        let too_old = oldest.position(|job| job.ended_ms > before);
        too_many.max(too_old.unwrap_or_else(|| self.finished_count().min(most)))
    }

    /// Jobs that are over, the oldest first.
    pub fn finished(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.indexes.finished().filter_map(|id| self.jobs.get(&id))
    }

    /// How many jobs are over and still in the tables.
    pub fn finished_count(&self) -> usize {
        self.indexes.finished_count()
    }

    /// Whether there was such a job and it is in history now. Ids are given out in order and only to jobs, and no job leaves the
    /// tables but into history.
    pub fn is_archived(&self, id: JobId) -> bool {
        let Some(settings) = self.settings() else {
            return false;
        };
        if self.job(id).is_some() || id.counter == 0 {
            return false;
        }
        if id.incarnation == settings.incarnation {
            return id.counter < settings.next_job;
        }
        // Of an earlier incarnation it is not known how far its ids went, only what history holds.
        self.indexes.in_tail(id).is_some() || self.segments().any(|segment| segment.may_hold(id))
    }

    /// Closed pieces of history, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter().map(|(_, segment)| segment)
    }

    /// The newest closed piece of history.
    pub fn last_segment(&self) -> Option<&Arc<Segment>> {
        self.segments.last()
    }

    /// What is in history and in no segment yet, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &Arc<HistoryBatch>> {
        self.tail.iter().map(|(_, batch)| batch)
    }

    /// Length of the tail, bytes.
    pub fn tail_bytes(&self) -> usize {
        self.indexes.tail_bytes()
    }

    /// The place that the next archived job gets.
    pub fn next_seq(&self) -> u64 {
        let tail = self.tail.last().map(|batch| batch.end_seq());
        let closed = || {
            self.last_segment()
                .map(|last| last.last_seq.saturating_add(1))
        };
        tail.or_else(closed).unwrap_or(1)
    }

    /// A job of the tail with its spec.
    ///
    /// # Errors
    /// Never for a state that was checked on load.
    pub fn archived_in_tail(&self, id: JobId) -> Result<Option<(Archived, Vec<u8>)>, CodecError> {
        let Some((batch, position)) = self.indexes.in_tail(id) else {
            return Ok(None);
        };
        let batch = self.tail.get(&batch);
        let found = batch.and_then(|batch| Some((batch, batch.jobs.get(position)?)));
        let Some((batch, (_, bytes))) = found else {
            return Ok(None);
        };
        let archived = codec::decode_archived(bytes)?;
        let spec = batch.specs.get(&archived.job.spec_hash).cloned();
        Ok(Some((archived, spec.unwrap_or_default())))
    }

    /// This state with archived jobs and their specs back in its tables: for whoever shows jobs. It is not the state of any index, and its
    /// digest means nothing.
    ///
    /// # Errors
    /// A spec that this release cannot read.
    pub fn with_archived(&self, jobs: Vec<(Archived, Vec<u8>)>) -> Result<State, CodecError> {
        let mut shown = self.clone();
        for (archived, json) in jobs {
            if shown.spec(&archived.job.spec_hash).is_none() {
                shown.put_spec(Spec { json, uses: 1 })?;
            }
            shown.put_job(archived.job);
            for attempt in archived.attempts {
                shown.put_attempt(attempt);
            }
        }
        Ok(shown)
    }
}
