//! JSON for programs: one versioned value per command, documented and only ever extended. Logs are one value a line.
use std::collections::BTreeSet;

use mlctl_proto::api::{
    Attempt, CancelReply, Checkpoint, CheckpointUsageReply, Device, EditReply, Job,
    ListedCheckpoint, LogLine, Node, Outcome, Retries, RetryReply, WhyReply,
};
use serde_json::{Value, json};

use super::{Output, array, checkpoints, decisions, out, turn, why};
use crate::advice::Advice;
use crate::failure::Failure;

/// Prints JSON.
pub struct Json;

fn print(value: &Value) {
    out(value.to_string().as_bytes());
}

/// 0 stands for "not yet" in messages; programs get null.
fn time(ms: i64) -> Value {
    if ms == 0 { Value::Null } else { ms.into() }
}

fn outcome(outcome: &Option<Outcome>) -> Value {
    match outcome {
        None => Value::Null,
        Some(o) => json!({
            "kind": o.kind, "exit_code": o.exit_code, "detail": o.detail, "node": o.node, "rank": o.rank, "by_job": o.by_job,
        }),
    }
}

fn attempt(attempt: &Attempt) -> Value {
    let allocations: Vec<Value> = attempt
        .allocations
        .iter()
        .map(|a| json!({ "node": a.node, "devices": a.devices, "phase": a.phase }))
        .collect();
    json!({
        "number": attempt.number, "epoch": attempt.epoch, "started_ms": time(attempt.started_ms),
        "running_ms": time(attempt.running_ms), "ended_ms": time(attempt.ended_ms), "allocations": allocations,
        "end": outcome(&attempt.end), "resume_from": attempt.resume_from, "simulated": attempt.simulated,
        "tasks": attempt.tasks, "slots": attempt.slots,
        "resume_job": Some(&attempt.resume_job).filter(|job| !job.is_empty()),
    })
}

fn retries(retries: &Retries) -> Value {
    let excluded: Vec<Value> = retries
        .excluded
        .iter()
        .map(|one| json!({ "node": one.node, "why": one.why }))
        .collect();
    let hold = Some(&retries.hold).filter(|hold| !hold.is_empty());
    json!({
        "restarts": retries.restarts, "used": retries.used, "max": retries.max, "not_before_ms": time(retries.not_before_ms),
        "losses": retries.losses, "excluded": excluded, "hold": hold,
    })
}

fn job(job: &Job) -> Value {
    let retry_of = Some(&job.retry_of).filter(|of| !of.is_empty());
    json!({
        "id": job.id, "name": job.name, "state": job.state, "owner": job.owner, "owner_id": job.owner_id, "team": job.team,
        "nodes": job.nodes, "gpus": job.gpus, "ranks": job.ranks, "submitted_ms": time(job.submitted_ms),
        "started_ms": time(job.started_ms), "ended_ms": time(job.ended_ms), "reason": job.reason,
        "outcome": outcome(&job.outcome), "attempts": job.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "checkpoints": job.checkpoints.iter().map(checkpoints::value).collect::<Vec<_>>(), "traceparent": job.traceparent,
        "array": array::value(&job.array),
        "retries": job.retries.as_ref().map(retries), "retry_of": retry_of, "turn": job.turn.as_ref().map(turn::value),
    })
}

fn device(device: &Device) -> Value {
    let dirty = Some(&device.dirty).filter(|why| !why.is_empty());
    json!({
        "uuid": device.uuid, "model": device.model, "memory_bytes": device.memory_bytes, "simulated": device.simulated,
        "job": device.job, "dirty": dirty, "numa_node": device.numa_node,
    })
}

fn node(node: &Node) -> Value {
    let devices: Vec<Value> = node.devices.iter().map(device).collect();
    json!({
        "name": node.name, "state": node.state, "liveness": node.liveness, "admin": node.admin, "health": node.health,
        "power": node.power, "devices": devices, "gpus_used": node.gpus_used, "cpus": node.cpus,
        "memory_bytes": node.memory_bytes, "address": node.address, "network": node.network, "pool": node.pool,
        "version": node.version, "isolation": node.isolation, "isolation_missing": node.isolation_missing, "jobs": node.jobs, "since_ms": time(node.since_ms),
        "reasons": node.reasons, "owner": node.owner.as_ref().map(decisions::owner_value),
        "maintenance": node.maintenance.iter().map(decisions::window_value).collect::<Vec<_>>(),
    })
}

impl Output for Json {
    fn line(&self, text: &str) {
        out(text.as_bytes());
    }

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    fn value(&self, json: &Value, _: &str) {
        print(json);
    }

    fn table(&self, json: &Value, _: &[&str], _: &[Vec<String>]) {
        print(json);
    }

    fn submitted(&self, id: &str, name: &str) {
        print(&json!({ "v": 1, "job": id, "name": name }));
    }

    fn jobs(&self, jobs: &[Job]) {
        print(&json!({ "v": 1, "jobs": jobs.iter().map(job).collect::<Vec<_>>() }));
    }

    fn job(&self, one: &Job, last: &[LogLine], advice: Option<&Advice>) {
        let spec: Value = serde_json::from_slice(&one.spec).unwrap_or(Value::Null);
        let mut value = job(one);
        value["spec"] = spec;
        let texts = last.iter().map(|line| String::from_utf8_lossy(&line.text));
        value["last_lines"] = texts.collect();
        value["checkpoint_advice"] = checkpoints::advice_value(advice);
        print(&json!({ "v": 1, "job": value }));
    }

    fn checkpoints(&self, listed: &[ListedCheckpoint]) {
        let listed: Vec<Value> = listed.iter().map(checkpoints::listed_value).collect();
        print(&json!({ "v": 1, "checkpoints": listed }));
    }

    fn checkpoint(&self, job: &Job, shown: &[&Checkpoint]) {
        let shown: Vec<Value> = shown.iter().map(|one| checkpoints::value(one)).collect();
        let metric = checkpoints::metric_name(job);
        let metric = Some(&metric).filter(|name| !name.is_empty());
        print(&json!({ "v": 1, "job": job.id, "metric_name": metric, "checkpoints": shown }));
    }

    fn usage(&self, reply: &CheckpointUsageReply) {
        print(&checkpoints::usage_value(reply));
    }

    fn why(&self, reply: &WhyReply) {
        print(&why::value(reply));
    }

    fn log_lines(&self, _: &BTreeSet<u32>, line: &LogLine, _: bool) {
        if !line.note.is_empty() {
            print(&json!({ "v": 1, "note": line.note, "attempt": line.attempt }));
            return;
        }
        print(&json!({
            "v": 1, "attempt": line.attempt, "rank": line.rank, "stream": if line.stderr { "stderr" } else { "stdout" },
            "text": String::from_utf8_lossy(&line.text), "time_ms": line.time_ms, "partial": line.partial,
        }));
    }

    fn cancelled(&self, reply: &CancelReply) {
        print(
            &json!({ "v": 1, "cancelled": reply.cancelled, "already_ended": reply.already_ended }),
        );
    }

    fn edited(&self, reply: &EditReply, _how: &str) {
        let left = reply.left.iter();
        let left: Vec<Value> = left
            .map(|one| json!({ "job": one.job, "why": one.why }))
            .collect();
        print(&json!({ "v": 1, "jobs": reply.jobs, "left": left, "index": reply.index }));
    }

    fn retried(&self, reply: &RetryReply) {
        let anew: Vec<Value> = reply
            .anew
            .iter()
            .map(|one| json!({ "job": one.job, "as": one.as_job }))
            .collect();
        print(&json!({ "v": 1, "released": reply.released, "going": reply.going, "anew": anew }));
    }

    fn ended(&self, job: &Job) {
        let by_job = job.outcome.as_ref().is_some_and(|outcome| outcome.by_job);
        let source = if by_job { "job" } else { "mlctl" };
        print(
            &json!({ "v": 1, "job": job.id, "state": job.state, "exit_source": source, "outcome": outcome(&job.outcome) }),
        );
    }

    fn nodes(&self, nodes: &[Node]) {
        print(&json!({ "v": 1, "nodes": nodes.iter().map(node).collect::<Vec<_>>() }));
    }

    fn failure(&self, failure: &Failure) {
        let code = failure.code().map(|code| code.word());
        print(
            &json!({ "v": 1, "error": { "code": code, "exit": failure.exit(), "message": failure.to_string() } }),
        );
    }
}
