//! What failed attempts led to, as bytes. A job of which nothing failed keeps nothing of it.
use mlctl_proto::ids::JobId;
use mlctl_proto::persist;

use super::checkpoint::{decode_checkpoint, encode_checkpoint};
use super::words::Word;
use super::{CodecError, bad_id};
use crate::state::records::{EndKind, ExcludedNode, HoldReason, Lineage, Retries};

pub(super) fn encode_retries(retries: &Retries) -> Option<persist::RetriesRecord> {
    if *retries == Retries::default() {
        return None;
    }
    let excluded = |one: &ExcludedNode| persist::ExcludedNode {
        node: one.node.clone(),
        why: one.why.number(),
    };
    Some(persist::RetriesRecord {
        used: retries.used,
        requeues: retries.requeues,
        waits: retries.waits,
        not_before_ms: retries.not_before_ms,
        losses: retries.losses,
        excluded: retries.excluded.iter().map(excluded).collect(),
        hold: retries.hold.map_or(0, HoldReason::number),
    })
}

pub(super) fn decode_retries(
    record: Option<persist::RetriesRecord>,
) -> Result<Retries, CodecError> {
    let Some(record) = record else {
        return Ok(Retries::default());
    };
    let excluded = record.excluded.into_iter().map(|one| {
        Ok(ExcludedNode {
            node: one.node,
            why: EndKind::from_number(one.why)?,
        })
    });
    Ok(Retries {
        used: record.used,
        requeues: record.requeues,
        waits: record.waits,
        not_before_ms: record.not_before_ms,
        losses: record.losses,
        excluded: excluded.collect::<Result<_, CodecError>>()?,
        hold: match record.hold {
            0 => None,
            number => Some(HoldReason::from_number(number)?),
        },
    })
}

pub(super) fn encode_lineage(lineage: &Lineage) -> persist::LineageRecord {
    persist::LineageRecord {
        retry_of: Some(lineage.retry_of.into()),
        made_by: Some(lineage.made_by.into()),
        checkpoints: lineage.checkpoints.iter().map(encode_checkpoint).collect(),
    }
}

pub(super) fn decode_lineage(record: persist::LineageRecord) -> Result<Lineage, CodecError> {
    let id = |id| JobId::try_from(id).map_err(bad_id("where a job comes from"));
    let checkpoints = record.checkpoints.into_iter().map(decode_checkpoint);
    Ok(Lineage {
        retry_of: id(record.retry_of)?,
        made_by: id(record.made_by)?,
        checkpoints: checkpoints.collect::<Result<_, _>>()?,
    })
}
