//! Checkpoints as bytes, and what agents say of them.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist;

use super::words::Word;
use super::{CodecError, array, bad_id};
use crate::state::commands::{
    ChangeCheckpoints, CheckpointAction, CopyNews, NamedCheckpoint, PartOf, SealedPart,
};
use crate::state::records::{Checkpoint, ManifestId, Part};

pub(super) fn encode_checkpoint(checkpoint: &Checkpoint) -> persist::CheckpointRecord {
    persist::CheckpointRecord {
        epoch: Some(checkpoint.epoch.into()),
        name: checkpoint.name.clone(),
        step: checkpoint.step,
        holders: Vec::new(),
        sealed_ms: checkpoint.sealed_ms,
        parts: checkpoint.parts.iter().map(encode_part).collect(),
        whole: checkpoint.whole,
        metric: checkpoint.metric,
        pinned: checkpoint.pinned,
        save_ms: checkpoint.save_ms,
    }
}

fn encode_part(part: &Part) -> persist::PartRecord {
    persist::PartRecord {
        index: part.index,
        manifest: part.manifest.map(Vec::from).unwrap_or_default(),
        bytes: part.bytes,
        holders: part.holders.clone(),
        uploaded: part.uploaded,
    }
}

pub(super) fn decode_checkpoint(
    record: persist::CheckpointRecord,
) -> Result<Checkpoint, CodecError> {
    let parts = record.parts.into_iter().map(decode_part);
    let mut parts = parts.collect::<Result<Vec<_>, _>>()?;
    let mut whole = record.whole;
    if whole == 0 {
        // From before there were parts: directories on its holders, and nothing else.
        whole = 1;
        parts = vec![Part {
            index: 0,
            manifest: None,
            bytes: 0,
            holders: record.holders,
            uploaded: false,
        }];
    }
    Ok(Checkpoint {
        epoch: Epoch::try_from(record.epoch).map_err(bad_id("a checkpoint"))?,
        name: record.name,
        step: record.step,
        sealed_ms: record.sealed_ms,
        whole,
        parts,
        metric: record.metric,
        pinned: record.pinned,
        save_ms: record.save_ms,
    })
}

fn decode_part(record: persist::PartRecord) -> Result<Part, CodecError> {
    Ok(Part {
        index: record.index,
        manifest: manifest(&record.manifest)?,
        bytes: record.bytes,
        holders: record.holders,
        uploaded: record.uploaded,
    })
}

fn manifest(bytes: &[u8]) -> Result<Option<ManifestId>, CodecError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    array("a checkpoint", "manifest", bytes).map(Some)
}

/// A part for the log, and for whoever is to have it.
pub fn encode_sealed(sealed: &SealedPart) -> persist::CheckpointSealed {
    persist::CheckpointSealed {
        name: sealed.name.clone(),
        step: sealed.step,
        part: sealed.part.map(|part| persist::CheckpointPart {
            index: part.index,
            manifest: part.manifest.map(Vec::from).unwrap_or_default(),
            bytes: part.bytes,
        }),
        parts: sealed.parts,
        metric: sealed.metric,
        save_ms: sealed.save_ms,
    }
}

pub(super) fn decode_sealed(sealed: persist::CheckpointSealed) -> Result<SealedPart, CodecError> {
    let part = sealed.part.map(|part| {
        Ok(PartOf {
            index: part.index,
            manifest: manifest(&part.manifest)?,
            bytes: part.bytes,
        })
    });
    Ok(SealedPart {
        name: sealed.name,
        step: sealed.step,
        part: part.transpose()?,
        parts: sealed.parts,
        metric: sealed.metric,
        save_ms: sealed.save_ms,
    })
}

pub(super) fn encode_copy(news: &CopyNews) -> persist::agent_event::What {
    use persist::agent_event::What;
    match news {
        CopyNews::Held(sealed) => What::CopyHeld(persist::CopyHeld {
            sealed: Some(encode_sealed(sealed)),
        }),
        CopyNews::Lost {
            name,
            index,
            manifest,
        } => What::CopyLost(persist::CopyLost {
            name: name.clone(),
            index: *index,
            manifest: manifest.to_vec(),
        }),
        CopyNews::Uploaded {
            name,
            index,
            manifest,
        } => What::CopyUploaded(persist::CopyUploaded {
            name: name.clone(),
            index: *index,
            manifest: manifest.to_vec(),
        }),
    }
}

pub(super) fn decode_held(held: persist::CopyHeld) -> Result<CopyNews, CodecError> {
    let sealed = held
        .sealed
        .ok_or_else(|| super::missing("a copy of a checkpoint", "checkpoint"))?;
    decode_sealed(sealed).map(CopyNews::Held)
}

pub(super) fn decode_lost(lost: persist::CopyLost) -> Result<CopyNews, CodecError> {
    Ok(CopyNews::Lost {
        name: lost.name,
        index: lost.index,
        manifest: array("a lost copy", "manifest", &lost.manifest)?,
    })
}

pub(super) fn decode_uploaded(uploaded: persist::CopyUploaded) -> Result<CopyNews, CodecError> {
    Ok(CopyNews::Uploaded {
        name: uploaded.name,
        index: uploaded.index,
        manifest: array("an uploaded copy", "manifest", &uploaded.manifest)?,
    })
}

pub(super) fn encode_change(change: &ChangeCheckpoints) -> persist::ChangeCheckpoints {
    let named = |one: &NamedCheckpoint| persist::NamedCheckpoint {
        name: one.name.clone(),
        attempt: one.attempt,
    };
    persist::ChangeCheckpoints {
        job: Some(change.job.into()),
        which: change.which.iter().map(named).collect(),
        action: change.action.number(),
    }
}

pub(super) fn decode_change(
    change: persist::ChangeCheckpoints,
) -> Result<ChangeCheckpoints, CodecError> {
    let named = |one: persist::NamedCheckpoint| NamedCheckpoint {
        name: one.name,
        attempt: one.attempt,
    };
    Ok(ChangeCheckpoints {
        job: JobId::try_from(change.job).map_err(bad_id("a change of checkpoints"))?,
        which: change.which.into_iter().map(named).collect(),
        action: CheckpointAction::from_number(change.action)?,
    })
}
