//! Reads recorded loads (`NAME.csv.gz`, with `NAME_resources.csv.gz` beside it) and described clusters (`clusters.json#NAME`). What is wrong with a file is said
//! with its line. Does NOT run anything.
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlctl_coordinator::simulation::cluster::{Cluster, NodeKind};
use mlctl_coordinator::simulation::trace::{Trace, TraceJob};
use mlctl_coordinator::state::view::amounts::{Amounts, GPU};
use mlctl_coordinator::state::view::ask::Kind;

const COLUMNS: [&str; 9] = [
    "job_id", "submit_s", "gpus", "gpus_per_node_max", "duration_s", "user", "vc", "gpu_type", "status",
];
const MIB: u64 = 1 << 20;
/// A trace's bytes, unpacked, at most.
const BYTES_MAX: u64 = 1 << 30;
/// Nodes of a described cluster, at most.
const NODES_MAX: u64 = 100_000;

/// The load in a file.
pub fn trace(path: &Path) -> Result<Trace, String> {
    let text = text(path)?;
    let asked = resources(path)?;
    let mut lines = text.lines().enumerate();
    let head = lines.next().map_or("", |(_, line)| line);
    if head.split(',').collect::<Vec<_>>() != COLUMNS {
        return Err(format!(
            "{} is no trace: its first line is `{}` and has to be `{}`. Convert it to this form.",
            path.display(),
            head.chars().take(120).collect::<String>(),
            COLUMNS.join(",")
        ));
    }
    let mut jobs = Vec::new();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let read = job(line, asked.as_ref());
        jobs.push(read.map_err(|what| wrong(path, at, &what))?);
    }
    if jobs.is_empty() {
        return Err(format!("{} has no jobs: only its first line is there", path.display()));
    }
    Ok(Trace::sorted(jobs))
}

fn wrong(path: &Path, at: usize, what: &str) -> String {
    format!("{}, line {}: {what}. Correct the line, or remove it.", path.display(), at.saturating_add(1))
}

/// A file's text, unpacked if its name ends in `.gz`.
fn text(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| {
        format!("cannot read {}: {error}. Is it the file that you mean, and whole?", path.display())
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    let packed = path.extension().is_some_and(|end| end == "gz");
    let read = if packed {
        flate2::read::MultiGzDecoder::new(file).take(BYTES_MAX).read_to_end(&mut bytes)
    } else {
        file.take(BYTES_MAX).read_to_end(&mut bytes)
    };
    read.map_err(cannot)?;
    if bytes.len() as u64 >= BYTES_MAX {
        return Err(format!("{} has more than {BYTES_MAX} bytes: give a part of it", path.display()));
    }
    String::from_utf8(bytes).map_err(|_| format!("{} is no text: a trace is CSV in UTF-8, or that in .gz", path.display()))
}

fn job(line: &str, asked: Option<&BTreeMap<String, Amounts>>) -> Result<(TraceJob, u64), String> {
    if line.contains('"') {
        return Err("it has quotes; fields are written without".to_owned());
    }
    let fields: Vec<&str> = line.trim_end_matches('\r').split(',').collect();
    let [name, submit, gpus, per_node, length, user, vc, types, _status] = fields[..] else {
        return Err(format!("it has {} fields instead of {}", fields.len(), COLUMNS.len()));
    };
    let submit_ms = thousandths(submit).ok_or_else(|| not("submit_s", submit))?;
    let length_ms = thousandths(length).ok_or_else(|| not("duration_s", length))?;
    let milli_gpus = thousandths(gpus).ok_or_else(|| not("gpus", gpus))?;
    if milli_gpus > 1_000 && milli_gpus % 1_000 != 0 {
        return Err(format!("gpus is `{gpus}`: more than one GPU has to be a whole number"));
    }
    let per_node_max = if per_node.is_empty() { Some(u32::MAX) } else { per_node.parse().ok() };
    let per_node_max = per_node_max.filter(|one| *one > 0).ok_or_else(|| not("gpus_per_node_max", per_node))?;
    let amounts = match asked {
        None => Amounts::NONE,
        Some(asked) => *asked.get(name).ok_or_else(|| format!("job {name} is not in the _resources file beside it"))?,
    };
    let job = TraceJob {
        name: Arc::from(name),
        submit_ms: i64::try_from(submit_ms).map_err(|_| not("submit_s", submit))?,
        units: milli_gpus.checked_mul(GPU / 1_000).ok_or_else(|| not("gpus", gpus))?,
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
    names.map(|name| Kind { name: name.to_lowercase(), memory: 0 }).collect()
}

/// A number that is not negative, in thousandths; more digits behind the point are cut.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    whole.parse::<u64>().ok()?.checked_mul(1_000)?.checked_add(part.parse().ok()?)
}

/// The file beside a trace that says what its jobs ask for beside GPUs.
fn beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (stem, end) = name.split_once('.')?;
    let beside = path.with_file_name(format!("{stem}_resources.{end}"));
    beside.exists().then_some(beside)
}

fn resources(trace: &Path) -> Result<Option<BTreeMap<String, Amounts>>, String> {
    let Some(path) = beside(trace) else { return Ok(None) };
    let text = text(&path)?;
    let mut lines = text.lines().enumerate();
    let head: Vec<&str> = lines.next().map_or("", |(_, line)| line).split(',').collect();
    let column = |name: &str| {
        let place = head.iter().position(|one| *one == name);
        place.ok_or_else(|| format!("{} has no column `{name}` in its first line", path.display()))
    };
    let (id, cpu, memory) = (column("job_id")?, column("cpu_milli")?, column("memory_mib")?);
    let mut asked = BTreeMap::new();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let fields: Vec<&str> = line.trim_end_matches('\r').split(',').collect();
        let number = |place: usize| fields.get(place).and_then(|text| text.parse::<u64>().ok());
        let (Some(id), Some(cpu_milli), Some(mib)) = (fields.get(id), number(cpu), number(memory)) else {
            return Err(wrong(&path, at, "it has no job_id, or cpu_milli and memory_mib are no whole numbers"));
        };
        let memory = mib.saturating_mul(MIB);
        asked.insert((*id).to_owned(), Amounts { cpu_milli, memory, disk: 0 });
    }
    Ok(Some(asked))
}

/// The cluster that `FILE#NAME` describes.
pub fn cluster(named: &str) -> Result<Cluster, String> {
    let Some((path, name)) = named.rsplit_once('#') else {
        return Err(format!("`{named}` names no cluster: write FILE#NAME, as in clusters.json#philly-64x8"));
    };
    let whole = text(Path::new(path))?;
    let whole: serde_json::Value =
        serde_json::from_str(&whole).map_err(|error| format!("{path} is no JSON: {error}"))?;
    let clusters = whole.as_object().ok_or_else(|| format!("{path} is no JSON object of clusters by name"))?;
    let one = clusters.get(name).ok_or_else(|| {
        let names: Vec<&str> = clusters.keys().map(String::as_str).collect();
        format!("{path} describes no cluster `{name}`; it has {}", names.join(", "))
    })?;
    let groups = one.get("nodes").and_then(serde_json::Value::as_array);
    let groups = groups.ok_or_else(|| format!("cluster {name} of {path} has no list `nodes`"))?;
    let mut kinds = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        let kind = node_kind(group);
        kinds.push(kind.map_err(|what| format!("cluster {name} of {path}, entry {} of `nodes`: {what}", at + 1))?);
    }
    let count: u64 = kinds.iter().map(|kind| u64::from(kind.count)).sum();
    if count == 0 || count > NODES_MAX {
        return Err(format!("cluster {name} of {path} has {count} nodes: 1 to {NODES_MAX} can be simulated"));
    }
    Ok(Cluster { kinds })
}

fn node_kind(group: &serde_json::Value) -> Result<NodeKind, String> {
    let number = |name: &str| match group.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("`{name}` is no whole number")),
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
        }),
    };
    let gpu_type = group.get("gpu_type").and_then(serde_json::Value::as_str).unwrap_or("gpu");
    Ok(NodeKind { count: small("count")?, gpu_type: gpu_type.to_owned(), gpus, amounts })
}
