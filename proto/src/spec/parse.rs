//! Texts to specs. An unknown key is an error that guesses what was meant; so is a key that a later release will bring.
use super::resources::check_amount;
use super::{Class, CpuBind, Grow, JobSpec, LaunchMethod, Near, OnDisconnect, Prefer};
use crate::errors::{Code, Refusal};
use crate::limits::SPEC_BYTES_MAX;

/// Why a text is not a job spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not TOML or JSON, or a value of the wrong type. The text names line and column where the parser knows them.
    #[error("bad job spec: {0}")]
    Syntax(String),
    /// A key that no release knows.
    #[error("bad job spec: unknown key `{key}`{hint}")]
    UnknownKey {
        /// With its table, as in `checkpoint.dri`.
        key: String,
        /// `; did you mean …?`, or nothing.
        hint: String,
    },
    /// A value that no cluster would accept.
    #[error("bad job spec: `{key}` {why}")]
    Value {
        /// Its key.
        key: String,
        /// What is wrong and what to write instead.
        why: String,
    },
    /// Longer than a spec may be.
    #[error(
        "the job spec has {bytes} bytes; at most {SPEC_BYTES_MAX}: put data into files beside the code"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

impl From<SpecError> for Refusal {
    fn from(error: SpecError) -> Self {
        Refusal::new(Code::BadRequest, error.to_string())
    }
}

const KEYS: [&str; 42] = [
    "name",
    "nodes",
    "gpus",
    "gpu",
    "ranks",
    "launcher",
    "command",
    "env",
    "code",
    "checkpoint",
    "mpi",
    "compat",
    "on_disconnect",
    "array",
    "cpus",
    "cpu_bind",
    "mem",
    "shm",
    "retry",
    "time",
    "class",
    "team",
    "share",
    "mig",
    "disk",
    "licenses",
    "pools",
    "node_labels",
    "mix",
    "near",
    "prefer",
    "elastic",
    "grow",
    "preemptible",
    "min_runtime",
    "grace",
    "total_time",
    "begin",
    "start_by",
    "end_by",
    "after",
    "hold",
];
const CHECKPOINT_KEYS: [&str; 10] = [
    "dir",
    "replicas",
    "keep_last",
    "keep_every",
    "keep_best",
    "notice",
    "bandwidth",
    "upload",
    "tier",
    "shared",
];
const MPI_KEYS: [&str; 2] = ["mpirun", "args"];
const RETRY_KEYS: [&str; 2] = ["max", "on"];
const MIG_KEYS: [&str; 2] = ["count", "slices"];
/// Known words whose work is not built yet: better an honest no than a silent nothing.
const PLANNED: [&str; 5] = ["preempt", "idle", "secrets", "torchrun", "environment"];

/// Parses and checks a spec in TOML.
pub fn parse_toml(text: &str) -> Result<JobSpec, SpecError> {
    too_long(text.len())?;
    let value: toml::Value = toml::from_str(text)
        .map_err(|error| SpecError::Syntax(error.to_string().trim().to_owned()))?;
    let json = serde_json::to_value(value).map_err(|error| SpecError::Syntax(error.to_string()))?;
    from_value(json)
}

/// Parses and checks a spec in JSON: the same keys.
pub fn parse_json(text: &[u8]) -> Result<JobSpec, SpecError> {
    too_long(text.len())?;
    let json =
        serde_json::from_slice(text).map_err(|error| SpecError::Syntax(error.to_string()))?;
    from_value(json)
}

fn too_long(bytes: usize) -> Result<(), SpecError> {
    if bytes > SPEC_BYTES_MAX {
        Err(SpecError::TooLong { bytes })
    } else {
        Ok(())
    }
}

fn from_value(mut json: serde_json::Value) -> Result<JobSpec, SpecError> {
    let Some(table) = json.as_object_mut() else {
        return Err(SpecError::Syntax(
            "expected a table of keys such as `command`".into(),
        ));
    };
    known_keys(table.keys(), &KEYS, "")?;
    let tables = [
        ("checkpoint", &CHECKPOINT_KEYS[..]),
        ("mpi", &MPI_KEYS[..]),
        ("retry", &RETRY_KEYS[..]),
        ("mig", &MIG_KEYS[..]),
    ];
    for (key, known) in tables {
        if let Some(inner) = table.get(key).and_then(|value| value.as_object()) {
            known_keys(inner.keys(), known, &format!("{key}."))?;
        }
    }
    // What may be written in more than one way, and the keys that serde would not name in an error.
    super::elastic::rewrite(table)?;
    super::gpus::rewrite(table)?;
    super::when::rewrite(table)?;
    super::place::check_values(table)?;
    check_values(table)?;
    super::checkpoint::fill_in_shared(&mut json);
    let spec: JobSpec =
        serde_json::from_value(json).map_err(|error| SpecError::Syntax(error.to_string()))?;
    spec.check()?;
    Ok(spec)
}

/// Says of each value that cannot be what is wrong with it.
fn check_values(table: &serde_json::Map<String, serde_json::Value>) -> Result<(), SpecError> {
    for count in ["nodes", "gpus", "ranks", "cpus"] {
        if let Some(value) = table.get(count) {
            check_count(count, value)?;
        }
    }
    for amount in ["mem", "shm", "disk"] {
        if let Some(value) = table.get(amount) {
            check_amount(amount, value)?;
        }
    }
    let words: [(&str, &[&str]); 8] = [
        ("launcher", &LaunchMethod::ALL.map(|(_, word)| word)),
        ("compat", &["slurm"]),
        ("on_disconnect", &OnDisconnect::ALL.map(|(_, word)| word)),
        ("cpu_bind", &CpuBind::ALL.map(|(_, word)| word)),
        ("class", &Class::ALL.map(|(_, word)| word)),
        ("near", &Near::ALL.map(|(_, word)| word)),
        ("prefer", &Prefer::ALL.map(|(_, word)| word)),
        ("grow", &Grow::ALL.map(|(_, word)| word)),
    ];
    for (key, known) in words {
        if let Some(value) = table.get(key) {
            check_word(key, value, known)?;
        }
    }
    if let Some(value) = table.get("after") {
        super::after::check_value(value)?;
    }
    if let Some(value) = table.get("array") {
        super::array::check_value(value)?;
    }
    if let Some(checkpoint) = table.get("checkpoint").and_then(|value| value.as_object()) {
        super::checkpoint::check_table(checkpoint)?;
    }
    if let Some(retry) = table.get("retry").and_then(|value| value.as_object()) {
        super::retry::check_table(retry)?;
    }
    if !table.contains_key("command") {
        return Err(SpecError::Value {
            key: "command".into(),
            why: "is missing: name the program to run".into(),
        });
    }
    Ok(())
}

fn known_keys<'a>(
    keys: impl Iterator<Item = &'a String>,
    known: &[&str],
    table: &str,
) -> Result<(), SpecError> {
    for key in keys {
        if known.contains(&key.as_str()) {
            continue;
        }
        let hint = if PLANNED.contains(&key.as_str()) {
            "; this release does not support it yet".to_owned()
        } else {
            did_you_mean(key, known)
        };
        return Err(SpecError::UnknownKey {
            key: format!("{table}{}", crate::ids::clip(key)),
            hint,
        });
    }
    Ok(())
}

/// `; did you mean …?` for the nearest of `known`, or nothing when none is near.
pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    if word.len() > 64 {
        return String::new();
    }
    // Jaro-Winkler favours a shared beginning: `node` is nearer to `nodes` than to `code`. One slip is always near.
    let score = |known: &str| {
        let slip = strsim::damerau_levenshtein(word, known) <= 1;
        ((strsim::jaro_winkler(word, known) * 1000.0) as u32).max(if slip { 880 } else { 0 })
    };
    match known.iter().map(|k| (score(k), k)).max() {
        Some((score, known)) if score >= 800 => format!("; did you mean `{known}`?"),
        _ => String::new(),
    }
}

pub(super) fn check_count(key: &str, value: &serde_json::Value) -> Result<(), SpecError> {
    if value
        .as_u64()
        .is_some_and(|count| u32::try_from(count).is_ok())
    {
        return Ok(());
    }
    let shown = crate::ids::clip(&value.to_string());
    Err(SpecError::Value {
        key: key.into(),
        why: format!("is {shown}; use a whole number that is not negative"),
    })
}

pub(super) fn check_word(
    key: &str,
    value: &serde_json::Value,
    words: &[&str],
) -> Result<(), SpecError> {
    let text = value.as_str().unwrap_or_default();
    if words.contains(&text) {
        return Ok(());
    }
    let hint = did_you_mean(text, words);
    let shown = crate::ids::clip(&value.to_string());
    Err(SpecError::Value {
        key: key.into(),
        why: format!("is {shown}; use one of {}{hint}", words.join(", ")),
    })
}
