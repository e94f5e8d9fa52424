//! Attempts, allocations and ends as bytes.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist;
use mlctl_proto::units::Oom;
use prost::Message;

use super::array::{decode_wave, encode_wave};
use super::hold::{footing_ms, footing_of};
use super::team::{decode_charge, encode_charge};
use super::words::Word;
use super::{CodecError, RECORD_VERSION, ROW_BYTES_MAX, Record, bad_id, known_version, message};
use crate::state::records::{Allocation, AllocationPhase, Attempt, End, EndKind, RankExit};

impl Record for Attempt {
    const TABLE: u8 = 6;
    type Key = (JobId, Epoch);

    fn key(&self) -> Self::Key {
        (self.job, self.epoch)
    }

    fn key_bytes((job, epoch): &Self::Key) -> Vec<u8> {
        [job.to_key(), epoch.to_key()].concat()
    }

    fn encode(&self) -> Vec<u8> {
        persist::AttemptRecord {
            version: RECORD_VERSION,
            job: Some(self.job.into()),
            epoch: Some(self.epoch.into()),
            allocations: self.allocations.iter().map(encode_allocation).collect(),
            resume_from: self.resume_from.clone(),
            started_ms: self.started_ms,
            running_ms: self.running_ms,
            ended_ms: self.ended_ms,
            stopping: self.stopping,
            end: self.end.as_ref().map(encode_end),
            in_doubt: self.in_doubt,
            wave: self.wave.as_ref().map(encode_wave),
            resume_job: self.resume_job.map(Into::into),
            resume_sealed_ms: self.resume_sealed_ms,
            charges: self.charges.iter().map(encode_charge).collect(),
            guest_until_ms: footing_ms(self.footing),
            took: self.took,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "an attempt";
        let record: persist::AttemptRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        Ok(Self {
            job: JobId::try_from(record.job).map_err(bad_id(what))?,
            epoch: Epoch::try_from(record.epoch).map_err(bad_id(what))?,
            allocations: record
                .allocations
                .into_iter()
                .map(decode_allocation)
                .collect::<Result<_, _>>()?,
            resume_from: record.resume_from,
            started_ms: record.started_ms,
            running_ms: record.running_ms,
            ended_ms: record.ended_ms,
            stopping: record.stopping,
            end: record.end.map(decode_end).transpose()?,
            in_doubt: record.in_doubt,
            wave: record.wave.map(decode_wave).transpose()?,
            resume_job: match record.resume_job {
                None => None,
                job => Some(JobId::try_from(job).map_err(bad_id(what))?),
            },
            resume_sealed_ms: record.resume_sealed_ms,
            charges: (record.charges.into_iter())
                .map(decode_charge)
                .collect::<Result<_, _>>()?,
            footing: footing_of(record.guest_until_ms),
            took: record.took,
        })
    }
}

fn encode_allocation(allocation: &Allocation) -> persist::AllocationRecord {
    persist::AllocationRecord {
        node: allocation.node.clone(),
        boot_id: allocation.boot_id.clone(),
        devices: allocation.devices.clone(),
        phase: allocation.phase.number(),
        end: allocation.end.as_ref().map(encode_end),
        exits: allocation.exits.iter().map(encode_exit).collect(),
    }
}

fn decode_allocation(record: persist::AllocationRecord) -> Result<Allocation, CodecError> {
    Ok(Allocation {
        node: record.node,
        boot_id: record.boot_id,
        devices: record.devices,
        phase: AllocationPhase::from_number(record.phase)?,
        end: record.end.map(decode_end).transpose()?,
        exits: record.exits.into_iter().map(decode_exit).collect(),
    })
}

pub(super) fn encode_end(end: &End) -> persist::AttemptEnd {
    persist::AttemptEnd {
        kind: end.kind.number(),
        code: end.code,
        detail: end.detail.clone(),
        node: end.node.clone(),
        rank: end.rank,
    }
}

pub(super) fn decode_end(end: persist::AttemptEnd) -> Result<End, CodecError> {
    Ok(End {
        kind: EndKind::from_number(end.kind)?,
        code: end.code,
        detail: end.detail,
        node: end.node,
        rank: end.rank,
    })
}

pub(super) fn encode_exit(exit: &RankExit) -> persist::RankExited {
    persist::RankExited {
        rank: exit.rank,
        code: exit.code,
        signal: exit.signal,
        killed_by_us: exit.killed_by_us,
        oom: exit.oom.map(|oom| persist::OomKill {
            limit_bytes: oom.limit_bytes,
            peak_bytes: oom.peak_bytes,
        }),
    }
}

pub(super) fn decode_exit(exit: persist::RankExited) -> RankExit {
    RankExit {
        rank: exit.rank,
        code: exit.code,
        signal: exit.signal,
        killed_by_us: exit.killed_by_us,
        oom: exit.oom.map(|oom| Oom {
            limit_bytes: oom.limit_bytes,
            peak_bytes: oom.peak_bytes,
        }),
    }
}
