//! `mlctl checkpoint commit`: inside a job, the writer's word that a checkpoint's directory is complete: the file `.mlctl-complete` in it.
//! Asks no coordinator; the agent of this node sees the file. Does NOT check the checkpoint's bytes.
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mlctl_proto::errors::{Code, Refusal};
use serde_json::{Map, Value, json};

use crate::args::CommitArgs;
use crate::failure::Failure;
use crate::output::{Output, clean};

/// The file.
const COMPLETE: &str = ".mlctl-complete";
/// Names the directory that the agent looks at, in a job.
const CHECKPOINT_DIR: &str = "MLCTL_CHECKPOINT_DIR";
/// Metrics of one checkpoint.
const METRICS_MAX: usize = 32;
/// A metric's name, bytes.
const METRIC_NAME_BYTES_MAX: usize = 64;

/// Says that the directory of `args` is complete.
pub fn run(args: &CommitArgs, output: &dyn Output) -> Result<u8, Failure> {
    let word = word(args)?;
    let root = std::env::var_os(CHECKPOINT_DIR).map(PathBuf::from);
    let dir = checked(&args.dir, root.as_deref())?;
    if let Some(later) = stands(&dir).map_err(|error| failed(&dir, &error))? {
        return Err(later);
    }
    if newest(&dir)
        .map_err(|error| failed(&dir, &error))?
        .is_none()
    {
        return Err(Failure::usage(format!(
            "{} holds nothing yet: write the checkpoint first, then commit it",
            clean(&dir.to_string_lossy())
        )));
    }
    write(&dir, word.as_bytes()).map_err(|error| failed(&dir, &error))?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    output.value(
        &json!({ "v": 1, "committed": name, "dir": dir.to_string_lossy(), "step": args.step }),
        &format!("{} is marked as complete", clean(&name)),
    );
    Ok(0)
}

/// What the file holds: nothing, or JSON.
fn word(args: &CommitArgs) -> Result<String, Failure> {
    let mut metrics = Map::new();
    for text in &args.metrics {
        let (name, value) = metric(text).map_err(|why| {
            Failure::usage(format!(
                "--metric {}: {why}, such as val_loss=0.12",
                clean(text)
            ))
        })?;
        if metrics.insert(name.clone(), value).is_some() {
            return Err(Failure::usage(format!(
                "--metric {name} is given twice: give each metric once"
            )));
        }
    }
    if metrics.len() > METRICS_MAX {
        let why = format!(
            "{} metrics are given: at most {METRICS_MAX} are kept",
            metrics.len()
        );
        return Err(Failure::usage(why));
    }
    let mut word = Map::new();
    if let Some(step) = args.step {
        word.insert("step".into(), step.into());
    }
    if !metrics.is_empty() {
        word.insert("metrics".into(), metrics.into());
    }
    Ok(match word.is_empty() {
        true => String::new(),
        false => Value::from(word).to_string(),
    })
}

fn metric(text: &str) -> Result<(String, Value), &'static str> {
    let (name, value) = text.split_once('=').ok_or("it is no KEY=VALUE")?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    if name.is_empty() || name.len() > METRIC_NAME_BYTES_MAX || !name.bytes().all(legal) {
        return Err("a name has 1 to 64 letters, digits and `_ - . /`");
    }
    let value: f64 = value
        .parse()
        .map_err(|_| "the value is no decimal number")?;
    // Neither infinity nor what is not a number has a place in JSON.
    let value = serde_json::Number::from_f64(value).ok_or("the value is not finite")?;
    Ok((name.to_owned(), value.into()))
}

/// The directory, if it is one that the agent looks at.
fn checked(dir: &Path, root: Option<&Path>) -> Result<PathBuf, Failure> {
    let shown = clean(&dir.to_string_lossy());
    let real = dir.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::not_found(format!(
            "there is no directory {shown}: write the checkpoint first, then commit it"
        )),
        _ => failed(dir, &error),
    })?;
    if !real.is_dir() {
        return Err(Failure::usage(format!(
            "{shown} is not a directory: a checkpoint that is one file counts as complete once it was renamed to its name; to commit it, put it into a directory"
        )));
    }
    let Some(root) = root else {
        return Ok(real);
    };
    let root = root.canonicalize().map_err(|error| {
        let why = format!("${CHECKPOINT_DIR} is {}: {error}", root.display());
        Failure::config_text(why)
    })?;
    let below = real
        .strip_prefix(&root)
        .map(|below| below.components().count());
    let root = clean(&root.to_string_lossy());
    match below {
        Ok(1) => Ok(real),
        Ok(0) => Err(Failure::usage(format!(
            "{shown} is the directory of all checkpoints of this job: name one in it"
        ))),
        Ok(_) => Err(Failure::usage(format!(
            "{shown} lies inside a checkpoint: commit the directory of the whole checkpoint, the one directly in {root}"
        ))),
        Err(_) => Err(Failure::usage(format!(
            "{shown} is not in {root}: only checkpoints in ${CHECKPOINT_DIR} are looked at, so write them there"
        ))),
    }
}

/// Why nothing is left to say: it is complete already, and nothing was written after that.
fn stands(dir: &Path) -> io::Result<Option<Failure>> {
    let said = match fs::symlink_metadata(dir.join(COMPLETE)) {
        Ok(said) => said.modified()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let newest = newest(dir)?;
    Ok(newest.is_none_or(|newest| newest <= said).then(|| {
        let why = format!(
            "{} is complete already, and nothing was written to it since: there is nothing to commit; another step needs another directory",
            clean(&dir.to_string_lossy())
        );
        Failure::from(Refusal::new(Code::Conflict, why))
    }))
}

/// When anything in `dir` but the word itself was written last. Links are not followed.
fn newest(dir: &Path) -> io::Result<Option<SystemTime>> {
    let mut newest = None;
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            let facts = entry.metadata()?;
            if facts.is_dir() {
                left.push(entry.path());
            } else if entry.file_name() != COMPLETE {
                newest = newest.max(Some(facts.modified()?));
            }
        }
    }
    Ok(newest)
}

/// Puts the word there at once or not at all, so that it stands after a crash of the machine too.
fn write(dir: &Path, word: &[u8]) -> io::Result<()> {
    let aside = dir.join(format!("{COMPLETE}.{:016x}.tmp", rand::random::<u64>()));
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).open(&aside)?;
        file.write_all(word)?;
        file.sync_all()?;
        fs::rename(&aside, dir.join(COMPLETE))
    })();
    if written.is_err() {
        // What matters is the first error.
        let _ = fs::remove_file(&aside);
    }
    written?;
    File::open(dir)?.sync_all()
}

fn failed(dir: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "{} is not marked as complete: {error}",
        clean(&dir.to_string_lossy())
    ))
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
