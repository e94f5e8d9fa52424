//! The forms in which loads and clusters are written: CSV, with what jobs ask for beside GPUs in a second one, and JSON. What is wrong with a text is said with its
//! line. Does NOT open files.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::{Cluster, NodeKind};
use super::trace::{Trace, TraceJob};
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::Kind;

const COLUMNS: [&str; 9] = [
    "job_id",
    "submit_s",
    "gpus",
    "gpus_per_node_max",
    "duration_s",
    "user",
    "vc",
    "gpu_type",
    "status",
];
const MIB: u64 = 1 << 20;
/// Nodes of a described cluster, at most.
const NODES_MAX: u64 = 100_000;

/// What jobs ask for beside GPUs, by their ids.
pub type Asked = BTreeMap<String, Amounts>;

/// The load that a text describes. `name` is said in errors; `asked`: what stands in the text beside it, if there is one.
///
/// # Errors
/// What is wrong, where, and what to do.
pub fn trace(name: &str, text: &str, asked: Option<&Asked>) -> Result<Trace, String> {
    let mut lines = text.lines().enumerate();
    let head = lines.next().map_or("", |(_, line)| line);
    if head.split(',').collect::<Vec<_>>() != COLUMNS {
        return Err(format!(
            "{} is no trace: its first line is `{}` and has to be `{}`. Convert it to this form.",
            name,
            head.chars().take(120).collect::<String>(),
            COLUMNS.join(",")
        ));
    }
    let mut jobs = Vec::new();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let read = job(line, asked);
        jobs.push(read.map_err(|what| wrong(name, at, &what))?);
    }
    if jobs.is_empty() {
        return Err(format!(
            "{} has no jobs: only its first line is there",
            name
        ));
    }
    Ok(Trace::sorted(jobs))
}

fn wrong(name: &str, at: usize, what: &str) -> String {
    format!(
        "{}, line {}: {what}. Correct the line, or remove it.",
        name,
        at.saturating_add(1)
    )
}

fn job(line: &str, asked: Option<&BTreeMap<String, Amounts>>) -> Result<(TraceJob, u64), String> {
    if line.contains('"') {
        return Err("it has quotes; fields are written without".to_owned());
    }
    let fields: Vec<&str> = line.trim_end_matches('\r').split(',').collect();
    let [
        name,
        submit,
        gpus,
        per_node,
        length,
        user,
        vc,
        types,
        _status,
    ] = fields[..]
    else {
        return Err(format!(
            "it has {} fields instead of {}",
            fields.len(),
            COLUMNS.len()
        ));
    };
    let submit_ms = thousandths(submit).ok_or_else(|| not("submit_s", submit))?;
    let length_ms = thousandths(length).ok_or_else(|| not("duration_s", length))?;
    let milli_gpus = thousandths(gpus).ok_or_else(|| not("gpus", gpus))?;
    if milli_gpus > 1_000 && milli_gpus % 1_000 != 0 {
        return Err(format!(
            "gpus is `{gpus}`: more than one GPU has to be a whole number"
        ));
    }
    let per_node_max = if per_node.is_empty() {
        Some(u32::MAX)
    } else {
        per_node.parse().ok()
    };
    let per_node_max = per_node_max
        .filter(|one| *one > 0)
        .ok_or_else(|| not("gpus_per_node_max", per_node))?;
    let amounts = match asked {
        None => Amounts::NONE,
        Some(asked) => *asked
            .get(name)
            .ok_or_else(|| format!("job {name} is not in the _resources file beside it"))?,
    };
    let job = TraceJob {
        name: Arc::from(name),
        submit_ms: i64::try_from(submit_ms).map_err(|_| not("submit_s", submit))?,
        units: milli_gpus
            .checked_mul(GPU / 1_000)
            .ok_or_else(|| not("gpus", gpus))?,
        per_node_max,
        user: Arc::from(user),
        vc: Arc::from(vc),
        kinds: kinds(types),
        amounts,
    };
    Ok((job, length_ms))
}

fn not(field: &str, value: &str) -> String {
    format!("{field} is `{value}`, which is no number that it can have")
}

fn kinds(types: &str) -> Vec<Kind> {
    let names = types.split('/').filter(|one| !one.is_empty());
    names
        .map(|name| Kind {
            name: name.to_lowercase(),
            memory: 0,
        })
        .collect()
}

/// A number that is not negative, in thousandths; more digits behind the point are cut.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000)?
        .checked_add(part.parse().ok()?)
}

/// What the text beside a load says.
///
/// # Errors
/// What is wrong, where, and what to do.
pub fn asked(name: &str, text: &str) -> Result<Asked, String> {
    let mut lines = text.lines().enumerate();
    let head: Vec<&str> = lines
        .next()
        .map_or("", |(_, line)| line)
        .split(',')
        .collect();
    let column = |title: &str| {
        let place = head.iter().position(|one| *one == title);
        place.ok_or_else(|| format!("{name} has no column `{title}` in its first line"))
    };
    let (id, cpu, memory) = (
        column("job_id")?,
        column("cpu_milli")?,
        column("memory_mib")?,
    );
    let mut asked = BTreeMap::new();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let fields: Vec<&str> = line.trim_end_matches('\r').split(',').collect();
        let number = |place: usize| fields.get(place).and_then(|text| text.parse::<u64>().ok());
        let (Some(id), Some(cpu_milli), Some(mib)) = (fields.get(id), number(cpu), number(memory))
        else {
            return Err(wrong(
                name,
                at,
                "it has no job_id, or cpu_milli and memory_mib are no whole numbers",
            ));
        };
        let memory = mib.saturating_mul(MIB);
        asked.insert(
            (*id).to_owned(),
            Amounts {
                cpu_milli,
                memory,
                disk: 0,
                ranks: 0,
            },
        );
    }
    Ok(asked)
}

/// The cluster of that name in a text that describes several. `path` is said in errors.
///
/// # Errors
/// What is wrong, where, and what to do.
pub fn cluster(path: &str, name: &str, whole: &str) -> Result<Cluster, String> {
    let whole: serde_json::Value =
        serde_json::from_str(whole).map_err(|error| format!("{path} is no JSON: {error}"))?;
    let clusters = whole
        .as_object()
        .ok_or_else(|| format!("{path} is no JSON object of clusters by name"))?;
    let one = clusters.get(name).ok_or_else(|| {
        let names: Vec<&str> = clusters.keys().map(String::as_str).collect();
        format!(
            "{path} describes no cluster `{name}`; it has {}",
            names.join(", ")
        )
    })?;
    let groups = one.get("nodes").and_then(serde_json::Value::as_array);
    let groups = groups.ok_or_else(|| format!("cluster {name} of {path} has no list `nodes`"))?;
    let mut kinds = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        let kind = node_kind(group);
        kinds.push(kind.map_err(|what| {
            format!(
                "cluster {name} of {path}, entry {} of `nodes`: {what}",
                at + 1
            )
        })?);
    }
    let count: u64 = kinds.iter().map(|kind| u64::from(kind.count)).sum();
    if count == 0 || count > NODES_MAX {
        return Err(format!(
            "cluster {name} of {path} has {count} nodes: 1 to {NODES_MAX} can be simulated"
        ));
    }
    Ok(Cluster { kinds })
}

fn node_kind(group: &serde_json::Value) -> Result<NodeKind, String> {
    let number = |name: &str| match group.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| format!("`{name}` is no whole number")),
    };
    let small = |name: &str| {
        let value = number(name)?.ok_or_else(|| format!("`{name}` is missing"))?;
        u32::try_from(value).map_err(|_| format!("`{name}` is too large"))
    };
    let gpus = small("gpus")?;
    if gpus > 1_024 {
        return Err(format!("`gpus` is {gpus}: a node has at most 1024"));
    }
    let amounts = match (number("cpu_milli")?, number("memory_mib")?) {
        (None, None) => None,
        (cpu, memory) => Some(Amounts {
            cpu_milli: cpu.unwrap_or(u64::MAX / 4),
            memory: memory.map_or(u64::MAX / 4, |mib| mib.saturating_mul(MIB)),
            disk: u64::MAX / 4,
            ranks: 0,
        }),
    };
    let gpu_type = group
        .get("gpu_type")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("gpu");
    Ok(NodeKind {
        count: small("count")?,
        gpu_type: gpu_type.to_owned(),
        gpus,
        amounts,
    })
}
