//! Where archived jobs lie, as rows of the index: job id to segment, with what a listing filters by. A row is a hint: whoever
//! follows it verifies that it led to the job.
use std::ops::Range;

use mlctl_proto::ids::JobId;

use crate::state::codec::Placed;
use crate::state::records::Job;

/// Prefix of the rows.
pub(super) const POINTERS: u8 = 0xf0;
/// Prefix of the marks of segments that were taken in.
pub(super) const TAKEN: u8 = 0xf1;
const BYTES: usize = 8 + 4 * 4 + 2 * 8;

/// Where an archived job lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// The segment's number.
    pub segment: u64,
    /// Its record there.
    pub job: Range<usize>,
    /// Its spec there.
    pub spec: Range<usize>,
    /// Of its owner's id and name.
    pub owners: [u64; 2],
}

impl Pointer {
    /// Where a job of segment `number` lies; `None` beyond what a segment may be.
    pub fn new(number: u64, placed: &Placed) -> Option<Self> {
        u32::try_from(placed.job.end.max(placed.spec.end)).ok()?;
        Some(Self {
            segment: number,
            job: placed.job.clone(),
            spec: placed.spec.clone(),
            owners: owners(&placed.archived.job),
        })
    }

    /// Whether its job may be `owner`'s, by id or name; all are, if that is empty.
    pub fn may_be_of(&self, owner: &str) -> bool {
        owner.is_empty() || self.owners.contains(&short_hash(owner))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.segment.to_le_bytes().to_vec();
        for part in [&self.job, &self.spec] {
            bytes.extend_from_slice(&(part.start as u32).to_le_bytes());
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        }
        for owner in self.owners {
            bytes.extend_from_slice(&owner.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let mut rest = bytes.as_slice();
        let segment = u64::from_le_bytes(take(&mut rest)?);
        let mut part = || {
            let start = u32::from_le_bytes(take(&mut rest)?) as usize;
            let length = u32::from_le_bytes(take(&mut rest)?) as usize;
            Some(start..start.checked_add(length)?)
        };
        let (job, spec) = (part()?, part()?);
        let owners = [
            u64::from_le_bytes(take(&mut rest)?),
            u64::from_le_bytes(take(&mut rest)?),
        ];
        Some(Self {
            segment,
            job,
            spec,
            owners,
        })
    }
}

pub(super) fn pointer_key(id: JobId) -> Vec<u8> {
    let mut key = vec![POINTERS];
    key.extend_from_slice(&id.to_key());
    key
}

pub(super) fn taken_key(number: u64) -> Vec<u8> {
    let mut key = vec![TAKEN];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The job of a [`pointer_key`].
pub(super) fn job_of_key(key: &[u8]) -> Option<JobId> {
    let (incarnation, counter) = key.get(1..)?.split_first_chunk::<4>()?;
    let counter: [u8; 8] = counter.try_into().ok()?;
    Some(JobId::new(
        u32::from_be_bytes(*incarnation),
        u64::from_be_bytes(counter),
    ))
}

/// What owners of a job are compared by.
pub(super) fn owners(job: &Job) -> [u64; 2] {
    [short_hash(&job.owner_id), short_hash(&job.owner_name)]
}

fn short_hash(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    let mut rest = hash.as_bytes().as_slice();
    take(&mut rest).map_or(0, u64::from_le_bytes)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_keys_come_back_and_other_bytes_are_nothing() {
        let pointer = Pointer {
            segment: 7,
            job: 100..350,
            spec: 32..90,
            owners: [short_hash("id-ann"), short_hash("ann")],
        };
        let bytes = pointer.to_bytes();
        assert_eq!(Pointer::from_bytes(&bytes), Some(pointer.clone()));
        for at in 0..bytes.len() {
            assert_eq!(Pointer::from_bytes(&bytes[..at]), None);
        }
        assert!(
            Pointer::from_bytes(&[0xff; BYTES]).is_some(),
            "followed, it leads nowhere"
        );
        for (owner, own) in [("ann", true), ("id-ann", true), ("", true), ("bob", false)] {
            assert_eq!(pointer.may_be_of(owner), own, "{owner}");
        }
        let id = JobId::new(2, 77);
        assert_eq!(job_of_key(&pointer_key(id)), Some(id));
        assert_eq!(job_of_key(&[POINTERS]), None);
        assert_eq!(job_of_key(&[]), None);
    }
}
