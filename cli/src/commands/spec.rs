//! From files and flags to a checked job spec, and to the directory whose code travels. Sends nothing.
use std::path::{Path, PathBuf};

use mlctl_proto::limits::SPEC_BYTES_MAX;
use mlctl_proto::spec::{Argv, JobSpec, parse_json, parse_toml};
use serde_json::{Map, Value};

use super::when::when;
use crate::args::{SubmitArgs, TurnArgs};
use crate::failure::Failure;

/// A spec and the directory to upload with it.
#[derive(Debug)]
pub struct Wanted {
    /// Checked; its `code` is taken out, for only the client reads it.
    pub spec: JobSpec,
    /// `None`: no code.
    pub code: Option<PathBuf>,
}

/// The spec of `args`: the file if there is one, flags over it, the words after `--` as its command.
pub fn wanted(args: &SubmitArgs) -> Result<Wanted, Failure> {
    let (mut table, base) = match &args.spec {
        Some(path) => (
            read(path)?,
            path.parent().map(Path::to_owned).unwrap_or_default(),
        ),
        None if args.command.is_empty() => {
            return Err(Failure::usage(
                "nothing to run: name a job spec (`mlctl submit job.toml`) or a command (`mlctl submit -- python train.py`)".into(),
            ));
        }
        None => (Map::new(), PathBuf::new()),
    };
    overlay(&mut table, args)?;
    let text = serde_json::to_vec(&Value::Object(table)).map_err(Failure::internal)?;
    let mut spec = parse_json(&text).map_err(|error| Failure::usage(error.to_string()))?;
    let named = spec.code.take();
    let code = code_directory(args, named, &base)?;
    Ok(Wanted { spec, code })
}

fn read(path: &Path) -> Result<Map<String, Value>, Failure> {
    let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if length > SPEC_BYTES_MAX as u64 {
        return Err(wrong(format!(
            "the job spec has {length} bytes; at most {SPEC_BYTES_MAX}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    let parsed = if json {
        parse_json(text.as_bytes())
    } else {
        parse_toml(&text)
    };
    let spec = parsed.map_err(|error| wrong(error.to_string()))?;
    match serde_json::to_value(spec).map_err(Failure::internal)? {
        Value::Object(table) => Ok(table),
        _ => Err(Failure::internal("a spec is a table")),
    }
}

fn overlay(table: &mut Map<String, Value>, args: &SubmitArgs) -> Result<(), Failure> {
    // A new count is the whole truth: what the spec's was a part of goes with it.
    if let Some(nodes) = &args.nodes {
        table.remove("elastic");
        table.insert("nodes".into(), amount(nodes));
    }
    if let Some(gpus) = &args.gpus {
        table.remove("share");
        table.remove("mig");
        table.insert("gpus".into(), amount(gpus));
    }
    if let Some(ranks) = &args.ranks {
        let number: i64 = ranks
            .parse()
            .map_err(|_| Failure::usage(format!("--ranks {ranks}: use a whole number")))?;
        table.insert("ranks".into(), number.into());
    }
    overlay_turn(table, &args.turn)?;
    if let Some(array) = &args.array {
        // A bare number says how many, as in a spec.
        let value = (array.parse::<u64>()).map_or_else(|_| array.clone().into(), Value::from);
        table.insert("array".into(), value);
    }
    if let Some(name) = &args.name {
        table.insert("name".into(), name.clone().into());
    }
    if let Some(launcher) = &args.launcher {
        table.insert("launcher".into(), launcher.clone().into());
    }
    if !args.gpu.is_empty() {
        table.insert("gpu".into(), args.gpu.clone().into());
    }
    if let Some(dir) = &args.checkpoint_dir {
        table.insert("checkpoint".into(), serde_json::json!({ "dir": dir }));
    }
    if !args.env.is_empty() {
        let env = table
            .entry("env")
            .or_insert_with(|| Value::Object(Map::new()));
        for pair in &args.env {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("--env {pair}: write KEY=VALUE")))?;
            env[key] = value.into();
        }
    }
    if !args.command.is_empty() {
        let mut words = args.command.clone();
        // `mlctl submit job.toml -- --lr 0.1` hands arguments to the spec's command; alone, they are the command.
        if let Some(Value::Array(before)) = table.get("command") {
            let before = before.iter().filter_map(Value::as_str).map(str::to_owned);
            words = before.chain(words).collect();
        }
        table.insert(
            "command".into(),
            serde_json::to_value(Argv(words)).map_err(Failure::internal)?,
        );
    }
    Ok(())
}

/// A number as a number; ranges and parts as they are written.
pub(super) fn amount(text: &str) -> Value {
    (text.parse::<i64>()).map_or_else(|_| text.into(), Value::from)
}

/// When it may run.
fn overlay_turn(table: &mut Map<String, Value>, args: &TurnArgs) -> Result<(), Failure> {
    for (key, value) in [
        ("class", &args.class),
        ("time", &args.time),
        ("team", &args.team),
    ] {
        if let Some(value) = value {
            table.insert(key.into(), value.clone().into());
        }
    }
    for (key, flag, value) in [
        ("begin", "begin", &args.begin),
        ("start_by", "start-by", &args.start_by),
        ("end_by", "end-by", &args.end_by),
    ] {
        if let Some(value) = value {
            table.insert(key.into(), when(flag, value)?.into());
        }
    }
    if !args.after.is_empty() {
        table.insert("after".into(), args.after.clone().into());
    }
    if args.hold {
        table.insert("hold".into(), true.into());
    }
    Ok(())
}

/// The flag, else the spec's key, else the working directory. A home or root directory is never taken unasked.
fn code_directory(
    args: &SubmitArgs,
    named: Option<String>,
    base: &Path,
) -> Result<Option<PathBuf>, Failure> {
    if args.no_code || named.as_deref() == Some("") {
        return Ok(None);
    }
    let asked = args
        .code
        .clone()
        .or_else(|| named.map(|dir| base.join(dir)));
    let unasked = asked.is_none();
    let dir = asked.unwrap_or_else(|| {
        if base.as_os_str().is_empty() {
            ".".into()
        } else {
            base.to_owned()
        }
    });
    let dir = dir
        .canonicalize()
        .map_err(|error| Failure::usage(format!("code directory {}: {error}", dir.display())))?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    if unasked && (dir.parent().is_none() || Some(&dir) == home.as_ref()) {
        eprintln!(
            "note: nothing is uploaded from {}; name a directory with --code",
            dir.display()
        );
        return Ok(None);
    }
    Ok(Some(dir))
}
