//! Commands as bytes of the log.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::MESSAGE_BYTES_MAX;
use mlctl_proto::persist::{self, command::Body as Disk};
use prost::Message;

use super::array::{decode_planned, encode_planned};
use super::checkpoint::{decode_change, encode_change};
use super::decision::{decode_decide, encode_decide};
use super::event::{decode_event, encode_event};
use super::hold::{decode_preempt, encode_preempt, footing_ms, footing_of};
use super::node::{decode_facts, encode_facts};
use super::selection::{
    decode_filter, decode_hold, decode_release, decode_update, encode_filter, encode_hold,
    encode_release, encode_update,
};
use super::settings::{decode_actor, encode_actor, retention_of, timers_of};
use super::team::{decode_change_teams, encode_change_teams};
use super::words::Word;
use super::{CodecError, RECORD_VERSION, array, bad_id, known_version, message, missing};
use crate::state::commands::{
    AgentEvents, ArchiveJobs, Body, Bootstrap, CancelJobs, ChangeSettings, Command,
    DeclareNodeLost, DropLate, IdempotencyKey, LossProof, Placement, RegisterNode, RenewCharges,
    RetryJobs, SetNodeLiveness, StartAttempt, StartAttempts, SubmitJob, SupersedeAttempt, Withdraw,
};
use crate::state::records::Liveness;

/// One command, bytes.
pub const COMMAND_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

const WHAT: &str = "a command";

/// A command as the log keeps it.
///
/// # Errors
/// [`CodecError::TooLong`]: it would not be read back.
pub fn encode_command(command: &Command) -> Result<Vec<u8>, CodecError> {
    let key = |key: &IdempotencyKey| persist::IdempotencyKey {
        uuid: key.uuid.to_vec(),
        request_hash: key.request_hash.to_vec(),
    };
    let bytes = persist::Command {
        version: RECORD_VERSION,
        actor: Some(encode_actor(&command.actor)),
        source: command.source.clone(),
        time_ms: command.time_ms,
        key: command.key.as_ref().map(key),
        body: Some(encode_body(&command.body)),
    }
    .encode_to_vec();
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(CodecError::TooLong {
            what: WHAT,
            bytes: bytes.len(),
            most: COMMAND_BYTES_MAX,
        });
    }
    Ok(bytes)
}

/// The reverse of [`encode_command`].
///
/// # Errors
/// Bytes that this release did not write.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    let command: persist::Command = message(WHAT, bytes, COMMAND_BYTES_MAX)?;
    known_version(WHAT, command.version)?;
    let key = |key: persist::IdempotencyKey| -> Result<IdempotencyKey, CodecError> {
        Ok(IdempotencyKey {
            uuid: array(WHAT, "key", &key.uuid)?,
            request_hash: array(WHAT, "request hash", &key.request_hash)?,
        })
    };
    Ok(Command {
        actor: decode_actor(command.actor.ok_or_else(|| missing(WHAT, "actor"))?),
        source: command.source,
        time_ms: command.time_ms,
        key: command.key.map(key).transpose()?,
        body: decode_body(command.body.ok_or_else(|| missing(WHAT, "body"))?)?,
    })
}

fn encode_body(body: &Body) -> Disk {
    match body {
        Body::Bootstrap(bootstrap) => Disk::Bootstrap(encode_bootstrap(bootstrap)),
        Body::ChangeSettings(change) => Disk::ChangeSettings(persist::ChangeSettings {
            allow_root: change.allow_root,
            keep_finished: change.keep_finished,
            keep_finished_days: change.keep_finished_days,
        }),
        Body::RegisterNode(register) => Disk::RegisterNode(persist::RegisterNode {
            facts: Some(encode_facts(&register.facts)),
            journal_id: register.journal_id.clone(),
        }),
        Body::SetNodeLiveness(set) => Disk::SetNodeLiveness(persist::SetNodeLiveness {
            node: set.node.clone(),
            boot_id: set.boot_id.clone(),
            liveness: set.liveness.number(),
        }),
        Body::DeclareNodeLost(lost) => Disk::DeclareNodeLost(persist::DeclareNodeLost {
            node: lost.node.clone(),
            boot_id: lost.boot_id.clone(),
            proof: lost.proof.number(),
        }),
        Body::SubmitJob(submit) => Disk::SubmitJob(persist::SubmitJob {
            spec: submit.spec.clone(),
            code_manifest: submit.code_manifest.clone(),
            code_bytes: submit.code_bytes,
            traceparent: submit.traceparent.clone(),
            submitter_uid: submit.submitter_uid,
        }),
        Body::CancelJobs(cancel) => Disk::CancelJobs(persist::CancelJobs {
            jobs: cancel.jobs.iter().map(|job| (*job).into()).collect(),
            filter: cancel.filter.as_ref().map(encode_filter),
        }),
        Body::HoldJobs(hold) => Disk::HoldJobs(encode_hold(hold)),
        Body::ReleaseJobs(release) => Disk::ReleaseJobs(encode_release(release)),
        Body::UpdateJobs(update) => Disk::UpdateJobs(encode_update(update)),
        Body::DropLate(late) => Disk::DropLate(persist::DropLate { most: late.most }),
        Body::RetryJobs(retry) => Disk::RetryJobs(persist::RetryJobs {
            jobs: retry.jobs.iter().map(|job| (*job).into()).collect(),
        }),
        Body::ChangeCheckpoints(change) => Disk::ChangeCheckpoints(encode_change(change)),
        Body::StartAttempts(plan) => Disk::StartAttempts(persist::StartAttempts {
            starts: plan.starts.iter().map(encode_start).collect(),
        }),
        Body::AgentEvents(report) => Disk::AgentEvents(persist::AgentEvents {
            node: report.node.clone(),
            journal_id: report.journal_id.clone(),
            events: report.events.iter().map(encode_event).collect(),
        }),
        Body::ArchiveJobs(archive) => {
            Disk::ArchiveJobs(persist::ArchiveJobs { most: archive.most })
        }
        Body::SupersedeAttempt(supersede) => Disk::SupersedeAttempt(persist::SupersedeAttempt {
            job: Some(supersede.job.into()),
            epoch: Some(supersede.epoch.into()),
        }),
        Body::Decide(decide) => Disk::Decide(encode_decide(decide)),
        Body::ChangeTeams(change) => Disk::ChangeTeams(encode_change_teams(change)),
        Body::RenewCharges(renew) => Disk::RenewCharges(persist::RenewCharges { most: renew.most }),
        Body::Preempt(preempt) => Disk::Preempt(encode_preempt(preempt)),
        Body::Withdraw(withdraw) => Disk::Withdraw(persist::Withdraw {
            jobs: withdraw.jobs.iter().map(|job| (*job).into()).collect(),
        }),
    }
}

fn decode_body(body: Disk) -> Result<Body, CodecError> {
    Ok(match body {
        Disk::Bootstrap(bootstrap) => Body::Bootstrap(decode_bootstrap(bootstrap)?),
        Disk::ChangeSettings(change) => Body::ChangeSettings(ChangeSettings {
            allow_root: change.allow_root,
            keep_finished: change.keep_finished,
            keep_finished_days: change.keep_finished_days,
        }),
        Disk::RegisterNode(register) => Body::RegisterNode(RegisterNode {
            facts: decode_facts(register.facts.ok_or_else(|| missing(WHAT, "facts"))?)?,
            journal_id: register.journal_id,
        }),
        Disk::SetNodeLiveness(set) => Body::SetNodeLiveness(SetNodeLiveness {
            node: set.node,
            boot_id: set.boot_id,
            liveness: Liveness::from_number(set.liveness)?,
        }),
        Disk::DeclareNodeLost(lost) => Body::DeclareNodeLost(DeclareNodeLost {
            node: lost.node,
            boot_id: lost.boot_id,
            proof: LossProof::from_number(lost.proof)?,
        }),
        Disk::SubmitJob(submit) => Body::SubmitJob(SubmitJob {
            spec: submit.spec,
            code_manifest: submit.code_manifest,
            code_bytes: submit.code_bytes,
            traceparent: submit.traceparent,
            submitter_uid: submit.submitter_uid,
        }),
        Disk::CancelJobs(cancel) => Body::CancelJobs(CancelJobs {
            jobs: decode_ids(cancel.jobs)?,
            filter: cancel.filter.map(decode_filter).transpose()?,
        }),
        Disk::HoldJobs(hold) => Body::HoldJobs(decode_hold(hold)?),
        Disk::ReleaseJobs(release) => Body::ReleaseJobs(decode_release(release)?),
        Disk::UpdateJobs(update) => Body::UpdateJobs(decode_update(update)?),
        Disk::DropLate(late) => Body::DropLate(DropLate { most: late.most }),
        Disk::RetryJobs(retry) => Body::RetryJobs(RetryJobs {
            jobs: decode_ids(retry.jobs)?,
        }),
        Disk::ChangeCheckpoints(change) => Body::ChangeCheckpoints(decode_change(change)?),
        Disk::StartAttempts(plan) => Body::StartAttempts(StartAttempts {
            starts: decode_each(plan.starts, decode_start)?,
        }),
        Disk::AgentEvents(report) => Body::AgentEvents(AgentEvents {
            node: report.node,
            journal_id: report.journal_id,
            events: decode_each(report.events, decode_event)?,
        }),
        Disk::ArchiveJobs(archive) => Body::ArchiveJobs(ArchiveJobs { most: archive.most }),
        Disk::SupersedeAttempt(supersede) => Body::SupersedeAttempt(SupersedeAttempt {
            job: JobId::try_from(supersede.job).map_err(bad_id(WHAT))?,
            epoch: Epoch::try_from(supersede.epoch).map_err(bad_id(WHAT))?,
        }),
        Disk::Decide(decide) => Body::Decide(decode_decide(decide)?),
        Disk::ChangeTeams(change) => Body::ChangeTeams(decode_change_teams(change)?),
        Disk::RenewCharges(renew) => Body::RenewCharges(RenewCharges { most: renew.most }),
        Disk::Preempt(preempt) => Body::Preempt(decode_preempt(preempt)?),
        Disk::Withdraw(withdraw) => Body::Withdraw(Withdraw {
            jobs: decode_ids(withdraw.jobs)?,
        }),
    })
}

fn decode_each<D, T>(
    all: Vec<D>,
    decode: fn(D) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    all.into_iter().map(decode).collect()
}

pub(super) fn decode_ids(jobs: Vec<persist::Id>) -> Result<Vec<JobId>, CodecError> {
    jobs.into_iter()
        .map(|job| JobId::try_from(Some(job)).map_err(bad_id(WHAT)))
        .collect()
}

fn encode_bootstrap(bootstrap: &Bootstrap) -> persist::Bootstrap {
    let settings = persist::Settings {
        cluster_id: bootstrap.cluster_id.clone(),
        cluster_name: bootstrap.cluster_name.clone(),
        incarnation: bootstrap.incarnation,
        dev: bootstrap.dev,
        allow_root: bootstrap.allow_root,
        heartbeat_ms: bootstrap.timers.heartbeat_ms,
        node_timeout_ms: bootstrap.timers.node_timeout_ms,
        lost_after_ms: bootstrap.timers.lost_after_ms,
        fence_after_ms: bootstrap.timers.fence_after_ms,
        kill_grace_ms: bootstrap.timers.kill_grace_ms,
        keep_finished: bootstrap.retention.keep_finished,
        keep_finished_days: bootstrap.retention.keep_finished_days,
        segment_bytes: bootstrap.retention.segment_bytes,
    };
    persist::Bootstrap {
        settings: Some(settings),
    }
}

fn decode_bootstrap(bootstrap: persist::Bootstrap) -> Result<Bootstrap, CodecError> {
    let settings = bootstrap
        .settings
        .ok_or_else(|| missing(WHAT, "settings"))?;
    Ok(Bootstrap {
        timers: timers_of(&settings),
        retention: retention_of(&settings),
        cluster_id: settings.cluster_id,
        cluster_name: settings.cluster_name,
        incarnation: settings.incarnation,
        dev: settings.dev,
        allow_root: settings.allow_root,
    })
}

fn encode_start(start: &StartAttempt) -> persist::StartAttempt {
    let placement = |placement: &Placement| persist::Placement {
        node: placement.node.clone(),
        boot_id: placement.boot_id.clone(),
        devices: placement.devices.clone(),
    };
    persist::StartAttempt {
        job: Some(start.job.into()),
        epoch: Some(start.epoch.into()),
        placements: start.placements.iter().map(placement).collect(),
        resume_from: start.resume_from.clone(),
        wave: start.wave.as_ref().map(encode_planned),
        guest_until_ms: footing_ms(start.footing),
    }
}

fn decode_start(start: persist::StartAttempt) -> Result<StartAttempt, CodecError> {
    let placement = |placement: persist::Placement| Placement {
        node: placement.node,
        boot_id: placement.boot_id,
        devices: placement.devices,
    };
    Ok(StartAttempt {
        job: JobId::try_from(start.job).map_err(bad_id(WHAT))?,
        epoch: Epoch::try_from(start.epoch).map_err(bad_id(WHAT))?,
        placements: start.placements.into_iter().map(placement).collect(),
        resume_from: start.resume_from,
        wave: start.wave.map(decode_planned).transpose()?,
        footing: footing_of(start.guest_until_ms),
    })
}
