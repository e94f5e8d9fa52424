//! Settings, actors, replies and remembered replies as bytes.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::JobId;
use mlctl_proto::persist::{self, reply::What};
use prost::Message;

use super::team::{decode_changes, encode_changes};
use super::{
    CodecError, RECORD_VERSION, ROW_BYTES_MAX, Record, array, bad_id, known_version, message,
    missing, unknown,
};
use crate::state::records::{Actor, Idempotency, Reply, RequestKey, Retention, Settings, Timers};

impl Record for Settings {
    const TABLE: u8 = 1;
    type Key = ();

    fn key(&self) -> Self::Key {}

    fn key_bytes((): &Self::Key) -> Vec<u8> {
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        let settings = persist::Settings {
            cluster_id: self.cluster_id.clone(),
            cluster_name: self.cluster_name.clone(),
            incarnation: self.incarnation,
            dev: self.dev,
            allow_root: self.allow_root,
            heartbeat_ms: self.timers.heartbeat_ms,
            node_timeout_ms: self.timers.node_timeout_ms,
            lost_after_ms: self.timers.lost_after_ms,
            fence_after_ms: self.timers.fence_after_ms,
            kill_grace_ms: self.timers.kill_grace_ms,
            keep_finished: self.retention.keep_finished,
            keep_finished_days: self.retention.keep_finished_days,
            segment_bytes: self.retention.segment_bytes,
        };
        persist::SettingsRecord {
            version: RECORD_VERSION,
            settings: Some(settings),
            next_job: self.next_job,
            now_ms: self.now_ms,
            preemptions: self.preemptions,
            preemptions_in_vain: self.preemptions_in_vain,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "the settings";
        let record: persist::SettingsRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        let settings = record.settings.ok_or_else(|| missing(what, "settings"))?;
        Ok(Self {
            timers: timers_of(&settings),
            retention: retention_of(&settings),
            cluster_id: settings.cluster_id,
            cluster_name: settings.cluster_name,
            incarnation: settings.incarnation,
            dev: settings.dev,
            allow_root: settings.allow_root,
            next_job: record.next_job,
            now_ms: record.now_ms,
            preemptions: record.preemptions,
            preemptions_in_vain: record.preemptions_in_vain,
        })
    }
}

pub(super) fn timers_of(settings: &persist::Settings) -> Timers {
    Timers {
        heartbeat_ms: settings.heartbeat_ms,
        node_timeout_ms: settings.node_timeout_ms,
        lost_after_ms: settings.lost_after_ms,
        fence_after_ms: settings.fence_after_ms,
        kill_grace_ms: settings.kill_grace_ms,
    }
}

pub(super) fn retention_of(settings: &persist::Settings) -> Retention {
    Retention {
        keep_finished: settings.keep_finished,
        keep_finished_days: settings.keep_finished_days,
        segment_bytes: settings.segment_bytes,
    }
}

impl Record for Idempotency {
    const TABLE: u8 = 7;
    type Key = RequestKey;

    fn key(&self) -> Self::Key {
        (self.user_id.clone(), self.uuid)
    }

    fn key_bytes((user_id, uuid): &Self::Key) -> Vec<u8> {
        let mut bytes = user_id.as_bytes().to_vec();
        bytes.extend_from_slice(uuid);
        bytes
    }

    fn encode(&self) -> Vec<u8> {
        persist::IdempotencyRecord {
            version: RECORD_VERSION,
            user_id: self.user_id.to_string(),
            uuid: self.uuid.to_vec(),
            request_hash: self.request_hash.to_vec(),
            time_ms: self.time_ms,
            reply: Some(encode_reply(&self.reply)),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "a remembered reply";
        let record: persist::IdempotencyRecord = message(what, bytes, ROW_BYTES_MAX)?;
        known_version(what, record.version)?;
        Ok(Self {
            user_id: record.user_id.into(),
            uuid: array(what, "uuid", &record.uuid)?,
            request_hash: array(what, "request hash", &record.request_hash)?,
            time_ms: record.time_ms,
            reply: decode_reply(record.reply.ok_or_else(|| missing(what, "reply"))?)?,
        })
    }
}

fn ids(jobs: &[JobId]) -> Vec<persist::Id> {
    jobs.iter().map(|job| (*job).into()).collect()
}

fn encode_reply(reply: &Reply) -> persist::Reply {
    let what = match reply {
        Reply::Done => What::Done(persist::Done {}),
        Reply::Submitted { job } => What::Submitted(persist::Submitted {
            job: Some((*job).into()),
        }),
        Reply::Cancelled {
            jobs,
            already_ended,
        } => What::Cancelled(persist::Cancelled {
            jobs: ids(jobs),
            already_ended: ids(already_ended),
        }),
        Reply::Started { jobs, refused } => {
            let refused = refused.iter().map(|(job, why)| persist::RefusedStart {
                job: Some((*job).into()),
                why: why.clone(),
            });
            What::Started(persist::Started {
                jobs: ids(jobs),
                refused: refused.collect(),
            })
        }
        Reply::Retried {
            released,
            going,
            anew,
        } => What::Retried(persist::Retried {
            released: ids(released),
            going: ids(going),
            anew: anew.iter().map(encode_anew).collect(),
        }),
        Reply::Edited { jobs, left } => {
            let left = left.iter().map(|(job, why)| persist::LeftJob {
                job: Some((*job).into()),
                why: why.clone(),
            });
            What::Edited(persist::Edited {
                jobs: ids(jobs),
                left: left.collect(),
            })
        }
        Reply::TeamsChanged { changes, notes } => {
            What::TeamsChanged(encode_changes(changes, notes))
        }
        Reply::Decided { changes, notes } => What::Decided(encode_changes(changes, notes)),
        Reply::Rejected(refusal) => What::Rejected(persist::Rejected {
            code: refusal.code.word().into(),
            message: refusal.message.clone(),
        }),
    };
    persist::Reply { what: Some(what) }
}

fn encode_anew((job, as_job): &(JobId, JobId)) -> persist::Anew {
    persist::Anew {
        job: Some((*job).into()),
        as_job: Some((*as_job).into()),
    }
}

fn decode_reply(reply: persist::Reply) -> Result<Reply, CodecError> {
    let name = "a reply";
    let id = |id: Option<persist::Id>| JobId::try_from(id).map_err(bad_id(name));
    let ids = |ids: Vec<persist::Id>| {
        ids.into_iter()
            .map(|one| id(Some(one)))
            .collect::<Result<Vec<_>, _>>()
    };
    match reply.what.ok_or_else(|| missing(name, "content"))? {
        What::Done(_) => Ok(Reply::Done),
        What::Submitted(submitted) => Ok(Reply::Submitted {
            job: id(submitted.job)?,
        }),
        What::Cancelled(cancelled) => Ok(Reply::Cancelled {
            jobs: ids(cancelled.jobs)?,
            already_ended: ids(cancelled.already_ended)?,
        }),
        What::Started(started) => {
            let refused = started
                .refused
                .into_iter()
                .map(|one| Ok((id(one.job)?, one.why)));
            Ok(Reply::Started {
                jobs: ids(started.jobs)?,
                refused: refused.collect::<Result<_, CodecError>>()?,
            })
        }
        What::Retried(retried) => {
            let anew = retried.anew.into_iter();
            let anew = anew.map(|one| Ok((id(one.job)?, id(one.as_job)?)));
            Ok(Reply::Retried {
                released: ids(retried.released)?,
                going: ids(retried.going)?,
                anew: anew.collect::<Result<_, CodecError>>()?,
            })
        }
        What::Edited(edited) => {
            let left = edited.left.into_iter();
            let left = left.map(|one| Ok((id(one.job)?, one.why)));
            Ok(Reply::Edited {
                jobs: ids(edited.jobs)?,
                left: left.collect::<Result<_, CodecError>>()?,
            })
        }
        What::TeamsChanged(changed) => {
            let (changes, notes) = decode_changes(changed);
            Ok(Reply::TeamsChanged { changes, notes })
        }
        What::Decided(changed) => {
            let (changes, notes) = decode_changes(changed);
            Ok(Reply::Decided { changes, notes })
        }
        What::Rejected(rejected) => {
            let code = Code::ALL
                .into_iter()
                .find(|code| code.word() == rejected.code);
            let code = code.ok_or_else(|| unknown("error code", &rejected.code))?;
            Ok(Reply::Rejected(Refusal::new(code, rejected.message)))
        }
    }
}

pub(super) fn encode_actor(actor: &Actor) -> persist::Actor {
    persist::Actor {
        user_id: actor.user_id.clone(),
        name: actor.name.clone(),
        admin: actor.admin,
        system: actor.system,
    }
}

pub(super) fn decode_actor(actor: persist::Actor) -> Actor {
    Actor {
        user_id: actor.user_id,
        name: actor.name,
        admin: actor.admin,
        system: actor.system,
    }
}
