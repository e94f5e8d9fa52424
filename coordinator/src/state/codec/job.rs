//! Jobs and their specs as bytes.
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::persist;
use mlctl_proto::spec::OnDisconnect;
use prost::Message;

use super::array::{decode_array, encode_array};
use super::attempt::{decode_end, encode_end};
use super::checkpoint::{decode_checkpoint, encode_checkpoint};
use super::hold::{decode_marks, encode_marks};
use super::retry::{decode_lineage, decode_retries, encode_lineage, encode_retries};
use super::turn::{decode_turn, encode_turn};
use super::words::Word;
use super::{
    CodecError, RECORD_VERSION, ROW_BYTES_MAX, Record, array, bad_id, known_version, message,
    unknown,
};
use crate::state::records::{Job, JobState, Spec};

impl Record for Spec {
    const TABLE: u8 = 4;
    type Key = [u8; 32];

    fn key(&self) -> [u8; 32] {
        self.hash()
    }

    fn key_bytes(key: &[u8; 32]) -> Vec<u8> {
        key.to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        persist::SpecRecord {
            version: RECORD_VERSION,
            json: self.json.clone(),
            uses: self.uses,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let record: persist::SpecRecord = message("a spec", bytes, ROW_BYTES_MAX)?;
        known_version("a spec", record.version)?;
        Ok(Self {
            json: record.json,
            uses: record.uses,
        })
    }
}

impl Record for Job {
    const TABLE: u8 = 5;
    type Key = JobId;

    fn key(&self) -> JobId {
        self.id
    }

    fn key_bytes(key: &JobId) -> Vec<u8> {
        key.to_key().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        persist::JobRecord {
            version: RECORD_VERSION,
            id: Some(self.id.into()),
            name: self.name.clone(),
            owner_id: self.owner_id.clone(),
            owner_name: self.owner_name.clone(),
            team: self.team.clone(),
            spec_hash: self.spec_hash.to_vec(),
            code_manifest: self.code_manifest.clone(),
            code_bytes: self.code_bytes,
            state: self.state.number(),
            submitted_ms: self.submitted_ms,
            started_ms: self.started_ms,
            ended_ms: self.ended_ms,
            submit_index: self.submit_index,
            epoch_counter: self.epoch_counter,
            infrastructure_restarts: self.infrastructure_restarts,
            outcome: self.outcome.as_ref().map(encode_end),
            cancel_requested: self.cancel_requested,
            cancelled_by: self.cancelled_by.clone(),
            traceparent: self.traceparent.clone(),
            checkpoints: self.checkpoints.iter().map(encode_checkpoint).collect(),
            submitter_uid: self.submitter_uid,
            recalled_counter: self.recalled_counter,
            on_disconnect: disconnect_number(self.on_disconnect).into(),
            array: self.array.as_deref().map(encode_array),
            retries: encode_retries(&self.retries),
            lineage: self.lineage.as_ref().map(encode_lineage),
            turn: encode_turn(&self.turn),
            marks: encode_marks(&self.marks),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "a job";
        let record: persist::JobRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        Ok(Self {
            id: JobId::try_from(record.id).map_err(bad_id(what))?,
            name: record.name,
            owner_id: record.owner_id,
            owner_name: record.owner_name,
            team: record.team,
            spec_hash: array(what, "spec hash", &record.spec_hash)?,
            code_manifest: record.code_manifest,
            code_bytes: record.code_bytes,
            state: JobState::from_number(record.state)?,
            submitted_ms: record.submitted_ms,
            started_ms: record.started_ms,
            ended_ms: record.ended_ms,
            submit_index: record.submit_index,
            epoch_counter: record.epoch_counter,
            infrastructure_restarts: record.infrastructure_restarts,
            outcome: record.outcome.map(decode_end).transpose()?,
            cancel_requested: record.cancel_requested,
            cancelled_by: record.cancelled_by,
            traceparent: record.traceparent,
            checkpoints: record
                .checkpoints
                .into_iter()
                .map(decode_checkpoint)
                .collect::<Result<_, _>>()?,
            submitter_uid: record.submitter_uid,
            recalled_counter: record.recalled_counter,
            on_disconnect: disconnect_of(record.on_disconnect)?,
            array: record.array.map(decode_array).transpose()?.map(Arc::new),
            retries: decode_retries(record.retries)?,
            lineage: record.lineage.map(decode_lineage).transpose()?,
            turn: decode_turn(record.turn)?,
            marks: record.marks.map(decode_marks).unwrap_or_default(),
        })
    }
}

fn disconnect_number(policy: OnDisconnect) -> persist::OnDisconnect {
    match policy {
        OnDisconnect::Replace => persist::OnDisconnect::Replace,
        OnDisconnect::Fence => persist::OnDisconnect::Fence,
        OnDisconnect::Hold => persist::OnDisconnect::Hold,
    }
}

fn disconnect_of(number: i32) -> Result<OnDisconnect, CodecError> {
    match persist::OnDisconnect::try_from(number) {
        Ok(persist::OnDisconnect::Replace) => Ok(OnDisconnect::Replace),
        Ok(persist::OnDisconnect::Fence) => Ok(OnDisconnect::Fence),
        Ok(persist::OnDisconnect::Hold) => Ok(OnDisconnect::Hold),
        Err(_) => Err(unknown("on_disconnect", number)),
    }
}
