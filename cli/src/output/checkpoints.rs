//! Checkpoints as lines and cells for people and as JSON, and what is advised about them.
use mlctl_proto::api::{
    Checkpoint, CheckpointPart, CheckpointUsageReply, Job, ListedCheckpoint, TeamUsage,
};
use mlctl_proto::units::{bytes_text, duration_text, metric_of};
use serde_json::{Value, json};

use super::clean::clean;
use crate::advice::{Advice, NODE_MTBF_VARIABLE};

/// Names of nodes in one line.
const NODES_MAX: usize = 6;
/// Characters of a manifest's name that people see.
const MANIFEST_CHARS: usize = 12;

/// The durability of what every node sees.
const SHARED: &str = "shared";

/// Titles of [`cells`].
pub(super) const HEAD: [&str; 9] = [
    "JOB",
    "CHECKPOINT",
    "SIZE",
    "SEALED",
    "METRIC",
    "DURABILITY",
    "NODES",
    "UPLOADED",
    "PINNED",
];

/// One line of a table; `ago`: says how long ago a time was.
pub(super) fn cells(listed: &ListedCheckpoint, ago: impl Fn(i64) -> String) -> Vec<String> {
    let checkpoint = listed.checkpoint.clone().unwrap_or_default();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let count = usize::try_from(listed.nodes).unwrap_or(usize::MAX);
    let word = |is: bool, word: &str| if is { word.to_owned() } else { String::new() };
    vec![
        listed.job.clone(),
        clean(&checkpoint.name),
        or_dash(size(&checkpoint)),
        format!("{} ago", ago(checkpoint.sealed_ms)),
        or_dash(metric(&checkpoint, &listed.metric_name)),
        checkpoint.durability.clone(),
        nodes(&checkpoint.holders, count),
        word(checkpoint.uploaded, "uploaded"),
        word(checkpoint.pinned, "pinned"),
    ]
}

/// `step-9000  41.2 GiB  sealed 3 min ago  val_loss 1.91  durability 1/1  gpu-03, gpu-07  pinned`
pub(super) fn line(
    checkpoint: &Checkpoint,
    metric_name: &str,
    ago: impl Fn(i64) -> String,
) -> String {
    let mut parts = vec![clean(&checkpoint.name)];
    parts.extend(size(checkpoint));
    parts.push(format!("sealed {} ago", ago(checkpoint.sealed_ms)));
    parts.extend(metric(checkpoint, metric_name));
    parts.push(format!("durability {}", checkpoint.durability));
    if !checkpoint.holders.is_empty() {
        parts.push(nodes(&checkpoint.holders, checkpoint.holders.len()));
    }
    parts.extend(checkpoint.uploaded.then(|| "uploaded".to_owned()));
    parts.extend(checkpoint.pinned.then(|| "pinned".to_owned()));
    parts.join("  ")
}

/// One checkpoint of `job` in full.
pub(super) fn details(
    job: &Job,
    checkpoint: &Checkpoint,
    ago: impl Fn(i64) -> String,
) -> Vec<String> {
    let name = clean(&checkpoint.name);
    let mut lines = vec![format!(
        "{name} of job {} {}, attempt {}",
        job.id,
        clean(&job.name),
        checkpoint.attempt
    )];
    if checkpoint.step > 0 {
        lines.push(format!("step     {}", checkpoint.step));
    }
    let parts = match checkpoint.parts.len() {
        1 => String::new(),
        count => format!(" in {count} parts"),
    };
    let size = size(checkpoint).unwrap_or_else(|| "not known".into());
    lines.push(format!("size     {size}{parts}"));
    let save = match checkpoint.save_ms {
        0 => String::new(),
        ms => format!(", the save took {}", duration_text(ms.into())),
    };
    lines.push(format!("sealed   {} ago{save}", ago(checkpoint.sealed_ms)));
    let metric = metric(checkpoint, &metric_name(job));
    lines.extend(metric.map(|metric| format!("metric   {metric}")));
    lines.push(format!("durable  {}", durability(&checkpoint.durability)));
    lines.extend(uploaded(job, checkpoint));
    if checkpoint.pinned {
        let undo = format!("mlctl checkpoint unpin {} {name}", job.id);
        lines.push(format!("pinned   it stays until `{undo}`"));
    }
    let shared = is_shared(checkpoint);
    lines.extend(checkpoint.parts.iter().map(|one| part(one, shared)));
    lines
}

/// It lies in a directory that every node sees, and mlctl has nothing of it.
pub(crate) fn is_shared(checkpoint: &Checkpoint) -> bool {
    checkpoint.durability == SHARED
}

fn part(part: &CheckpointPart, shared: bool) -> String {
    let at = format!("part {:<3}", part.index);
    let nodes = nodes(&part.holders, part.holders.len());
    if part.manifest.is_empty() && part.holders.is_empty() {
        return format!("{at} nothing: this node of the attempt wrote nothing for it");
    }
    if part.manifest.is_empty() && shared {
        return format!("{at} in the directory that every node sees, found by {nodes}");
    }
    if part.manifest.is_empty() {
        return format!("{at} on {nodes}, only as a directory");
    }
    let manifest: String = part.manifest.chars().take(MANIFEST_CHARS).collect();
    let size = bytes_text(part.bytes);
    match (part.holders.is_empty(), part.uploaded) {
        (true, _) => format!("{at} {size} on no node, uploaded  {manifest}"),
        (false, true) => format!("{at} {size} on {nodes}, uploaded  {manifest}"),
        (false, false) => format!("{at} {size} on {nodes}  {manifest}"),
    }
}

/// Where the parts are that were uploaded, if the job's spec names an object store.
fn uploaded(job: &Job, checkpoint: &Checkpoint) -> Option<String> {
    let spec: Value = serde_json::from_slice(&job.spec).unwrap_or(Value::Null);
    let url = clean(spec["checkpoint"]["upload"].as_str()?);
    let filled = || {
        checkpoint
            .parts
            .iter()
            .filter(|part| !part.manifest.is_empty())
    };
    let there = filled().filter(|part| part.uploaded).count();
    Some(match filled().count() {
        all if there == all => format!("uploaded to {url}"),
        _ if there == 0 => format!("uploaded not yet to {url}"),
        all => format!("uploaded {there} of {all} parts to {url}"),
    })
}

fn durability(text: &str) -> String {
    if text == SHARED {
        return "as the file system is that every node sees: mlctl copies nothing of it".into();
    }
    match text.split_once('/') {
        Some((have, want)) => format!("{have} of {want} copies beside the first are there"),
        None => "only as a directory of the node that wrote it".into(),
    }
}

/// Bytes are known of what was sealed only.
fn size(checkpoint: &Checkpoint) -> Option<String> {
    let sealed = !matches!(checkpoint.durability.as_str(), "local" | SHARED);
    let known = checkpoint.bytes > 0 || sealed;
    known.then(|| bytes_text(checkpoint.bytes))
}

fn metric(checkpoint: &Checkpoint, name: &str) -> Option<String> {
    let value = number(metric_of(checkpoint.metric?));
    let name = if name.is_empty() { "metric" } else { name };
    Some(format!("{} {value}", clean(name)))
}

/// At most four digits behind the point; very large and very small ones with an exponent.
fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e9).contains(&size) {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn nodes(holders: &[String], count: usize) -> String {
    let shown = holders.len().min(NODES_MAX);
    let names = holders[..shown].join(", ");
    match count.saturating_sub(shown) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// What the metric of a job's checkpoints measures, by its spec.
pub(super) fn metric_name(job: &Job) -> String {
    let spec: Value = serde_json::from_slice(&job.spec).unwrap_or(Value::Null);
    let best = spec["checkpoint"]["keep_best"].as_str().unwrap_or("");
    best.split(':').next().unwrap_or("").to_owned()
}

/// Titles of [`usage_cells`].
pub(super) const USAGE_HEAD: [&str; 5] = ["TEAM", "JOBS", "CHECKPOINTS", "SIZE", "ON NODES"];

/// What the checkpoints of each team take, and of all together.
pub(super) fn usage_cells(reply: &CheckpointUsageReply) -> Vec<Vec<String>> {
    let cells = |team: String, one: &TeamUsage| {
        vec![
            team,
            one.jobs.to_string(),
            one.checkpoints.to_string(),
            bytes_text(one.bytes),
            bytes_text(one.held_bytes),
        ]
    };
    let teams = reply.teams.iter();
    let mut rows: Vec<Vec<String>> = teams.map(|one| cells(clean(&one.team), one)).collect();
    rows.push(cells(
        "all".into(),
        &reply.total.clone().unwrap_or_default(),
    ));
    rows
}

/// The same for programs.
pub(super) fn usage_value(reply: &CheckpointUsageReply) -> Value {
    let value = |one: &TeamUsage| json!({ "jobs": one.jobs, "checkpoints": one.checkpoints, "bytes": one.bytes, "held_bytes": one.held_bytes });
    let team = |one: &TeamUsage| {
        let mut value = value(one);
        value["team"] = json!(one.team);
        value
    };
    let teams: Vec<Value> = reply.teams.iter().map(team).collect();
    let total = value(&reply.total.clone().unwrap_or_default());
    json!({ "v": 1, "teams": teams, "total": total, "left_out": reply.left_out })
}

/// What people are advised, as lines.
pub(super) fn advice_lines(advice: &Advice) -> Vec<String> {
    let mut lines = vec![format!(
        "advice   a checkpoint every {} (median of those listed): a failure costs about {} of work",
        time(advice.interval_s),
        time(advice.loss_s)
    )];
    let failures = format!(
        "a failure every {} on {} node{}",
        time(advice.mtbf_s),
        advice.nodes,
        if advice.nodes == 1 { "" } else { "s" }
    );
    match &advice.save {
        Some(save) => {
            lines.push(format!(
                "         a save takes {}; with {failures}, saves and failures cost {} of the time now",
                time(save.save_s),
                percent(save.cost)
            ));
            let better = format!(
                "{} of work between saves (Young 1974: {}, Daly 2006: {})",
                time(save.daly_s),
                time(save.young_s),
                time(save.daly_s)
            );
            lines.push(match save.cost > 1.1 * save.least_cost {
                true => format!("         better: {better}, which costs {}", percent(save.least_cost)),
                false => format!("         that is about the best: {better}"),
            });
        }
        None => lines.push(format!(
            "         what a save takes is not known, so no better interval is; assumed is {failures}"
        )),
    }
    lines.push(format!(
        "         assumed: a node fails every {:.0} days (reported of Llama 3: 419 failures in 54 days on 2,048 nodes is 264); {NODE_MTBF_VARIABLE} says otherwise",
        advice.node_mtbf_days
    ));
    lines
}

fn time(seconds: f64) -> String {
    // A conversion that is too large stops at the largest.
    duration_text((seconds * 1_000.0) as i64)
}

fn percent(part: f64) -> String {
    let percent = part * 100.0;
    match percent >= 10.0 {
        true => format!("{percent:.0} %"),
        false => format!("{percent:.2} %"),
    }
}

/// The same for programs.
pub(super) fn advice_value(advice: Option<&Advice>) -> Value {
    let Some(advice) = advice else {
        return Value::Null;
    };
    let save = advice.save.as_ref();
    json!({
        "interval_s": advice.interval_s, "loss_per_failure_s": advice.loss_s, "nodes": advice.nodes,
        "node_mtbf_days": advice.node_mtbf_days, "mtbf_s": advice.mtbf_s, "save_s": save.map(|one| one.save_s),
        "young_s": save.map(|one| one.young_s), "daly_s": save.map(|one| one.daly_s),
        "cost": save.map(|one| one.cost), "least_cost": save.map(|one| one.least_cost),
    })
}

/// A checkpoint for programs.
pub(super) fn value(checkpoint: &Checkpoint) -> Value {
    let c = checkpoint;
    let parts = c.parts.iter().map(|part| {
        let manifest = Some(&part.manifest).filter(|manifest| !manifest.is_empty());
        json!({ "index": part.index, "manifest": manifest, "bytes": part.bytes, "holders": part.holders, "uploaded": part.uploaded })
    });
    let save_ms = Some(c.save_ms).filter(|ms| *ms > 0);
    let sealed_ms = Some(c.sealed_ms).filter(|ms| *ms != 0);
    json!({
        "name": c.name, "step": c.step, "holders": c.holders, "durability": c.durability, "sealed_ms": sealed_ms, "attempt": c.attempt,
        "bytes": c.bytes, "pinned": c.pinned, "metric": c.metric.map(metric_of), "save_ms": save_ms,
        "uploaded": c.uploaded, "parts": parts.collect::<Vec<_>>(),
    })
}

/// One of a list for programs.
pub(super) fn listed_value(listed: &ListedCheckpoint) -> Value {
    let mut checkpoint = value(&listed.checkpoint.clone().unwrap_or_default());
    // A list has none.
    if let Some(object) = checkpoint.as_object_mut() {
        object.remove("parts");
    }
    let metric = Some(&listed.metric_name).filter(|name| !name.is_empty());
    checkpoint["job"] = json!(listed.job);
    checkpoint["job_name"] = json!(listed.job_name);
    checkpoint["owner"] = json!(listed.owner);
    checkpoint["nodes"] = json!(listed.nodes);
    checkpoint["metric_name"] = json!(metric);
    checkpoint
}

#[cfg(test)]
#[path = "checkpoints_tests.rs"]
mod tests;
