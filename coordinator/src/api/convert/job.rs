//! Jobs, attempts and checkpoints as people and programs see them.
use std::collections::BTreeMap;

use mlctl_proto::api;
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::CheckpointSpec;
use mlctl_proto::units::UtcMs;

use super::array;
use crate::scheduler::Reason;
use crate::state::State;
use crate::state::records::{
    Allocation, AllocationPhase, Attempt, Checkpoint, End, ExcludedNode, Hold, HoldReason, Job,
    JobState, ManifestId, Part,
};
use crate::state::rules::{checkpoint_rules, living_copies};

/// A job without its attempts and checkpoints: for lists.
pub fn summary(
    state: &State,
    job: &Job,
    reasons: &BTreeMap<JobId, Reason>,
    now_ms: UtcMs,
) -> api::Job {
    let request = state.request(job);
    let reason = match job.state {
        JobState::Held => Reason::of_hold(job),
        JobState::Pending => {
            let own = Reason::of_backoff(job, now_ms).or_else(|| Reason::of_turn(job, now_ms));
            own.or_else(|| reasons.get(&job.id).cloned())
        }
        _ => None,
    };
    api::Job {
        id: job.id.to_string(),
        name: job.name.clone(),
        state: job.state.word().to_owned(),
        owner: job.owner_name.clone(),
        owner_id: job.owner_id.clone(),
        team: job.team.clone(),
        nodes: state.width(job),
        gpus: request.map_or(0, |request| request.gpus),
        submitted_ms: job.submitted_ms,
        started_ms: job.started_ms,
        ended_ms: job.ended_ms,
        reason: reason.map_or(String::new(), |reason| {
            format!("{}: {reason}", reason.word())
        }),
        outcome: job.outcome.as_ref().map(|end| outcome(end, job.state)),
        attempts: Vec::new(),
        checkpoints: Vec::new(),
        traceparent: job.traceparent.clone(),
        spec: Vec::new(),
        index: state.applied_index(),
        ranks: state
            .width(job)
            .saturating_mul(request.map_or(0, |request| request.ranks)),
        array: array::counts(state, job),
        retries: Some(retries(state, job)),
        retry_of: job
            .lineage
            .as_ref()
            .map_or(String::new(), |lineage| lineage.retry_of.to_string()),
        turn: Some(turn(job, now_ms)),
    }
}

fn turn(job: &Job, now_ms: UtcMs) -> api::Turn {
    let hold = |hold: &Hold| api::Hold {
        word: hold.word().to_owned(),
        name: hold.name.clone(),
        since_ms: hold.since_ms,
        why: hold.why.clone(),
    };
    let turn = &job.turn;
    api::Turn {
        class: turn.class.word().to_owned(),
        hold: turn.hold.as_ref().map(hold),
        after: turn.after.iter().map(ToString::to_string).collect(),
        begin_ms: turn.begin_ms,
        start_by_ms: turn.start_by_ms,
        end_by_ms: turn.end_by_ms,
        total_ms: turn.total_ms,
        ran_ms: turn.ran_ms,
        preemptible: turn.preemptible,
        eligible_ms: match job.state {
            JobState::Pending | JobState::Held => job.eligible_ms(now_ms),
            _ => 0,
        },
    }
}

fn retries(state: &State, job: &Job) -> api::Retries {
    let retries = &job.retries;
    let excluded = |one: &ExcludedNode| api::ExcludedNode {
        node: one.node.clone(),
        why: one.why.word().to_owned(),
    };
    api::Retries {
        restarts: retries.requeues,
        used: retries.used,
        max: state.retry(job).map(|retry| retry.max),
        not_before_ms: retries.not_before_ms,
        losses: retries.losses,
        excluded: retries.excluded.iter().map(excluded).collect(),
        hold: retries.hold.map_or("", HoldReason::word).to_owned(),
    }
}

/// A job with its attempts and checkpoints.
pub fn job(state: &State, job: &Job, reasons: &BTreeMap<JobId, Reason>, now_ms: UtcMs) -> api::Job {
    let attempts = state
        .attempts_of(job.id)
        .map(|record| attempt(state, record));
    api::Job {
        attempts: attempts.collect(),
        checkpoints: checkpoints(state, job),
        array: array::whole(state, job),
        ..summary(state, job, reasons, now_ms)
    }
}

/// How a job or attempt ended. `Exited` with code 0 reads `Completed` where the job did.
fn outcome(end: &End, state: JobState) -> api::Outcome {
    let shown = ended(end);
    let kind = match state {
        JobState::Completed => "Completed".to_owned(),
        _ => shown.kind,
    };
    api::Outcome { kind, ..shown }
}

fn ended(end: &End) -> api::Outcome {
    let (exit_code, by_job) = end.exit_code();
    api::Outcome {
        kind: end.kind.word().to_owned(),
        exit_code,
        detail: end.detail.clone(),
        node: end.node.clone(),
        rank: end.rank,
        by_job,
    }
}

fn attempt(state: &State, attempt: &Attempt) -> api::Attempt {
    let simulated = |allocation: &Allocation| {
        let facts = state.node(&allocation.node).map(|node| &node.facts);
        facts.is_some_and(|facts| {
            let mut held = facts
                .devices
                .iter()
                .filter(|device| allocation.devices.contains(&device.uuid));
            held.any(|device| device.simulated)
        })
    };
    api::Attempt {
        number: attempt.epoch.counter,
        epoch: attempt.epoch.to_string(),
        started_ms: attempt.started_ms,
        running_ms: attempt.running_ms,
        ended_ms: attempt.ended_ms,
        allocations: attempt.allocations.iter().map(allocation).collect(),
        end: attempt.end.as_ref().map(ended),
        resume_from: attempt.resume_from.clone(),
        simulated: attempt.allocations.iter().any(simulated),
        tasks: (attempt.wave.as_ref()).map_or_else(String::new, |wave| wave.tasks.to_string()),
        slots: attempt.wave.as_ref().map_or(0, |wave| wave.slots),
        resume_job: attempt
            .resume_job
            .map_or(String::new(), |job| job.to_string()),
    }
}

fn allocation(allocation: &Allocation) -> api::Allocation {
    let phase = match allocation.phase {
        AllocationPhase::Assigned => "Assigned",
        AllocationPhase::Running => "Running",
        AllocationPhase::Ended => "Ended",
    };
    api::Allocation {
        node: allocation.node.clone(),
        devices: allocation.devices.clone(),
        phase: phase.to_owned(),
    }
}

/// Those that are whole; of others nobody need know.
pub fn checkpoints(state: &State, job: &Job) -> Vec<api::Checkpoint> {
    let listed = || job.checkpoints.iter().filter(|one| one.is_whole());
    if listed().next().is_none() {
        return Vec::new();
    }
    let rules = checkpoint_rules(state, job);
    listed().map(|one| checkpoint(state, one, &rules)).collect()
}

fn checkpoint(state: &State, checkpoint: &Checkpoint, rules: &CheckpointSpec) -> api::Checkpoint {
    let holders = checkpoint.holders().into_iter();
    let durability = match checkpoint.is_portable() {
        true => format!("{}/{}", living_copies(state, checkpoint), rules.replicas),
        false if rules.shared => "shared".to_owned(),
        false => "local".to_owned(),
    };
    api::Checkpoint {
        name: checkpoint.name.clone(),
        step: checkpoint.step,
        holders: holders.map(str::to_owned).collect(),
        durability,
        sealed_ms: checkpoint.sealed_ms,
        attempt: checkpoint.epoch.counter,
        bytes: checkpoint.bytes(),
        pinned: checkpoint.pinned,
        metric: checkpoint.metric,
        save_ms: checkpoint.save_ms,
        parts: checkpoint.parts.iter().map(part).collect(),
        uploaded: checkpoint.is_uploaded(),
    }
}

fn part(part: &Part) -> api::CheckpointPart {
    let hex = |bytes: ManifestId| blake3::Hash::from_bytes(bytes).to_hex().to_string();
    api::CheckpointPart {
        index: part.index,
        manifest: part.manifest.map(hex).unwrap_or_default(),
        bytes: part.bytes,
        holders: part.holders.clone(),
        uploaded: part.uploaded,
    }
}
