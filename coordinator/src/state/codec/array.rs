//! Arrays, their waves and what became of their tasks, as bytes.
use mlctl_proto::persist;
use mlctl_proto::spec::Ranges;

use super::words::Word;
use super::{CodecError, missing};
use crate::state::commands::TasksEnded;
use crate::state::records::{Array, EndKind, TaskFailure, TaskGroup, Wave};

const WHAT: &str = "a set of tasks";

pub(super) fn encode_array(array: &Array) -> persist::ArrayRecord {
    let failure = |one: &TaskFailure| persist::TaskFailure {
        index: one.index,
        kind: one.kind.number(),
        code: one.code,
        node: one.node.clone(),
    };
    persist::ArrayRecord {
        tasks: Some(array.tasks.pack()),
        limit: array.limit,
        pending: Some(array.pending.pack()),
        ended: array.ended.iter().map(encode_group).collect(),
        cancelled: Some(array.cancelled.pack()),
        returned: array.returned.iter().map(Ranges::pack).collect(),
        failures: array.failures.iter().map(failure).collect(),
        task_ms: array.task_ms,
    }
}

pub(super) fn decode_array(record: persist::ArrayRecord) -> Result<Array, CodecError> {
    let failure = |one: persist::TaskFailure| -> Result<TaskFailure, CodecError> {
        Ok(TaskFailure {
            index: one.index,
            kind: EndKind::from_number(one.kind)?,
            code: one.code,
            node: one.node,
        })
    };
    let ended = record.ended.into_iter().map(decode_group);
    Ok(Array {
        tasks: ranges(record.tasks)?,
        limit: record.limit,
        pending: ranges(record.pending)?,
        ended: ended.collect::<Result<_, _>>()?,
        cancelled: ranges(record.cancelled)?,
        returned: (record.returned.into_iter())
            .map(|one| ranges(Some(one)))
            .collect::<Result<_, _>>()?,
        failures: (record.failures.into_iter())
            .map(failure)
            .collect::<Result<_, _>>()?,
        task_ms: record.task_ms,
    })
}

/// A wave as an attempt keeps it.
pub(super) fn encode_wave(wave: &Wave) -> persist::WaveRecord {
    persist::WaveRecord {
        slots: wave.slots,
        tasks: Some(wave.tasks.pack()),
        left: Some(wave.left.pack()),
        spoke: Some(wave.spoke.pack()),
    }
}

pub(super) fn decode_wave(record: persist::WaveRecord) -> Result<Wave, CodecError> {
    Ok(Wave {
        slots: record.slots,
        tasks: ranges(record.tasks)?,
        left: ranges(record.left)?,
        spoke: ranges(record.spoke)?,
    })
}

/// A wave as a plan proposes it, and as its node is told: of no task an end is known.
pub fn encode_planned(wave: &Wave) -> persist::Wave {
    persist::Wave {
        slots: wave.slots,
        tasks: Some(wave.tasks.pack()),
    }
}

pub(super) fn decode_planned(wave: persist::Wave) -> Result<Wave, CodecError> {
    Ok(Wave::new(wave.slots, ranges(wave.tasks)?))
}

pub(super) fn encode_tasks_ended(ended: &TasksEnded) -> persist::TasksEnded {
    persist::TasksEnded {
        groups: ended.groups.iter().map(encode_group).collect(),
        first_failed: ended.first_failed,
        spoke: Some(ended.spoke.pack()),
    }
}

pub(super) fn decode_tasks_ended(ended: persist::TasksEnded) -> Result<TasksEnded, CodecError> {
    let groups = ended.groups.into_iter().map(decode_group);
    Ok(TasksEnded {
        groups: groups.collect::<Result<_, _>>()?,
        first_failed: ended.first_failed,
        spoke: ended
            .spoke
            .map_or(Ok(Ranges::new()), |spoke| ranges(Some(spoke)))?,
    })
}

fn encode_group(group: &TaskGroup) -> persist::TaskGroup {
    persist::TaskGroup {
        kind: group.kind.number(),
        code: group.code,
        tasks: Some(group.tasks.pack()),
    }
}

fn decode_group(group: persist::TaskGroup) -> Result<TaskGroup, CodecError> {
    Ok(TaskGroup {
        kind: EndKind::from_number(group.kind)?,
        code: group.code,
        tasks: ranges(group.tasks)?,
    })
}

fn ranges(packed: Option<persist::PackedRanges>) -> Result<Ranges, CodecError> {
    let packed = packed.ok_or_else(|| missing(WHAT, "indices"))?;
    Ranges::unpack(&packed).map_err(|error| CodecError::Malformed {
        what: WHAT,
        why: error.why,
    })
}
