//! Reading history: one archived job, or a page of them. The tail is in the state, segments are files, and the index says where
//! to look; without it, or while it is being built, the segments themselves are searched. Answers do not depend on the index.
//! Blocks on the disk.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use mlctl_proto::ids::JobId;

use super::index::Shelf;
use super::pointers::{Pointer, owners};
use super::segments::{SegmentError, Segments};
use crate::state::State;
use crate::state::codec::{CodecError, decode_archived, decode_segment, framed};
use crate::state::records::{Archived, FRAME_BYTES, Segment};

/// An archived job with its spec's JSON.
pub type Found = (Archived, Vec<u8>);

/// Why history does not answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A file.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A record that this release cannot read.
    #[error("history cannot be read: {0}")]
    Codec(#[from] CodecError),
}

/// The history of one member.
pub struct History {
    /// The files.
    pub segments: Arc<Segments>,
    shelf: Arc<Shelf>,
}

/// Which archived jobs a page holds.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Ids after this one.
    pub after: Option<JobId>,
    /// Of this owner, by id or name; empty: everybody's.
    pub owner: &'a str,
    /// At most so many, the lowest ids.
    pub limit: usize,
}

impl Page<'_> {
    fn wants(&self, id: JobId, owner_id: &str, owner_name: &str) -> bool {
        let owned = self.owner.is_empty() || [owner_id, owner_name].contains(&self.owner);
        owned && self.after.is_none_or(|after| id > after)
    }
}

impl History {
    /// What is in `segments`, found with the index on `shelf` when there is one.
    pub fn new(segments: Arc<Segments>, shelf: Arc<Shelf>) -> Self {
        Self { segments, shelf }
    }

    /// Whether the index knows where every job of `state`'s segments lies.
    #[cfg(test)]
    pub fn indexed(&self, state: &State) -> bool {
        let taken = self.shelf.taken().unwrap_or_default();
        self.shelf.taken().is_some() && state.segments().all(|one| taken.contains(&one.number))
    }

    /// An archived job of `state`; `None` if there is none.
    ///
    /// # Errors
    /// [`SegmentError::Lacking`] when it may be in a segment that is not here.
    pub fn find(&self, state: &State, id: JobId) -> Result<Option<Found>, HistoryError> {
        if let Some(found) = state.archived_in_tail(id)? {
            return Ok(Some(found));
        }
        let pointed = self.shelf.pointer(id).and_then(|pointer| {
            let segment = state.segments().find(|one| one.number == pointer.segment)?;
            self.follow(segment, &pointer, id)
        });
        if pointed.is_some() {
            return Ok(pointed);
        }
        let mut lacking = None;
        for segment in state.segments().filter(|segment| segment.may_hold(id)) {
            match self.search(segment, |archived| archived.job.id == id) {
                Ok(found) if found.is_empty() => {}
                Ok(mut found) => return Ok(found.pop()),
                Err(error @ HistoryError::Segment(_)) => lacking = Some(error),
                Err(error) => return Err(error),
            }
        }
        lacking.map_or(Ok(None), Err)
    }

    /// A page of the archived jobs of `state`, by id.
    ///
    /// # Errors
    /// [`SegmentError::Lacking`] when some may be in a segment that is not here.
    pub fn page(&self, state: &State, page: Page) -> Result<Vec<Found>, HistoryError> {
        let mut found: BTreeMap<JobId, Found> = BTreeMap::new();
        for batch in state.tail() {
            for (id, bytes) in &batch.jobs {
                let archived = decode_archived(bytes)?;
                if page.wants(*id, &archived.job.owner_id, &archived.job.owner_name) {
                    let spec = batch.specs.get(&archived.job.spec_hash).cloned();
                    found.insert(*id, (archived, spec.unwrap_or_default()));
                }
            }
        }
        let numbers: BTreeMap<u64, &Arc<Segment>> =
            state.segments().map(|one| (one.number, one)).collect();
        let pointed = self.pointed(&numbers, page);
        match pointed {
            Some(pointed) => found.extend(pointed),
            None => {
                for segment in numbers.values() {
                    let beyond = page.after.is_some_and(|after| segment.last_job <= after);
                    // Only the lowest ids are wanted: no later segment is read for what would be cut off again.
                    let full = found
                        .keys()
                        .nth(page.limit)
                        .is_some_and(|last| segment.first_job > *last);
                    if beyond || full {
                        continue;
                    }
                    let wanted = |one: &Archived| {
                        page.wants(one.job.id, &one.job.owner_id, &one.job.owner_name)
                    };
                    let more = self.search(segment, wanted)?;
                    found.extend(more.into_iter().map(|one| (one.0.job.id, one)));
                    while found.len() > page.limit.saturating_add(1) {
                        found.pop_last();
                    }
                }
            }
        }
        Ok(found.into_values().take(page.limit).collect())
    }

    /// The page by the index, if it knows every segment and each row leads to its job.
    fn pointed(
        &self,
        numbers: &BTreeMap<u64, &Arc<Segment>>,
        page: Page,
    ) -> Option<BTreeMap<JobId, Found>> {
        let wanted: BTreeSet<u64> = numbers.keys().copied().collect();
        let rows = self
            .shelf
            .pointers(&wanted, page.after, page.owner, page.limit)?;
        let mut found = BTreeMap::new();
        for (id, pointer) in rows {
            // A segment that was closed after this state was taken: in this state the job is in the tail.
            let Some(segment) = numbers.get(&pointer.segment) else {
                continue;
            };
            let one = self.follow(segment, &pointer, id)?;
            if page.wants(id, &one.0.job.owner_id, &one.0.job.owner_name) {
                found.insert(id, one);
            }
        }
        Some(found)
    }

    /// What a row of the index leads to, if that is the job it says.
    fn follow(&self, segment: &Segment, pointer: &Pointer, id: JobId) -> Option<Found> {
        let record = |place: &Range<usize>| {
            let frame = place.start.checked_sub(FRAME_BYTES)?..place.end;
            let frame = self.segments.read_part(segment, &frame).ok()?;
            framed(&frame).map(<[u8]>::to_vec)
        };
        let found = || {
            let archived = decode_archived(&record(&pointer.job)?).ok()?;
            let spec = record(&pointer.spec)?;
            let own = archived.job.id == id
                && *blake3::hash(&spec).as_bytes() == archived.job.spec_hash
                && owners(&archived.job) == pointer.owners;
            own.then_some((archived, spec))
        };
        let found = found();
        if found.is_none() {
            // The row or the file is wrong: reading the whole file tells, and sets a damaged one aside.
            tracing::warn!(job = %id, segment = segment.number, "the index did not lead to the job");
        }
        found
    }

    /// The jobs of a segment that are wanted.
    fn search(
        &self,
        segment: &Segment,
        wanted: impl Fn(&Archived) -> bool,
    ) -> Result<Vec<Found>, HistoryError> {
        let bytes = self.segments.read(segment)?;
        let placed = decode_segment(&bytes)?;
        let wanted = placed.into_iter().filter(|placed| wanted(&placed.archived));
        let found = wanted.map(|placed| {
            let spec = bytes.get(placed.spec).unwrap_or_default().to_vec();
            (placed.archived, spec)
        });
        Ok(found.collect())
    }
}
