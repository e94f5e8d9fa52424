//! `mlctl checkpoint show`: one checkpoint with its parts.
use mlctl_proto::api::{Checkpoint, Job};

use crate::args::{Global, ShowCheckpointArgs};
use crate::client::Client;
use crate::commands::follow;
use crate::failure::Failure;
use crate::output::{Output, clean};

/// Names that an error lists.
const LISTED_MAX: usize = 8;

/// Shows the checkpoint of `args`.
pub async fn run(
    args: &ShowCheckpointArgs,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let (job, name) = split(&args.checkpoint)?;
    let mut client = Client::open(global)?;
    let job = follow::get(&mut client, job).await?;
    output.checkpoint(&job, &named(&job, name)?);
    Ok(0)
}

/// The newest checkpoint that a person means by `412/step-9000`, or by `412` alone, with its job.
pub(super) async fn chosen(client: &mut Client, text: &str) -> Result<(Job, Checkpoint), Failure> {
    let (job, name) = split(text)?;
    let job = follow::get(client, job).await?;
    let newest = named(&job, name)?.last().copied().cloned();
    let newest = newest.ok_or_else(|| Failure::not_found("there is no checkpoint".into()))?;
    Ok((job, newest))
}

/// `412/step-9000` as job and name.
fn split(text: &str) -> Result<(&str, Option<&str>), Failure> {
    match text.split_once('/') {
        None => Ok((text, None)),
        Some((job, name)) if !job.is_empty() && !name.is_empty() => Ok((job, Some(name))),
        Some(_) => Err(Failure::usage(format!(
            "`{}` names no checkpoint: use JOB/NAME, such as 412/step-9000, or a job id alone for its newest",
            clean(text)
        ))),
    }
}

/// Those of that name, of every attempt that made one; without a name the newest.
fn named<'a>(job: &'a Job, name: Option<&str>) -> Result<Vec<&'a Checkpoint>, Failure> {
    let list = &job.checkpoints;
    let found: Vec<&Checkpoint> = match name {
        None => list.last().into_iter().collect(),
        Some(name) => list.iter().filter(|one| one.name == name).collect(),
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let newest = list.iter().rev().take(LISTED_MAX);
    let names: Vec<String> = newest.map(|one| clean(&one.name)).collect();
    let there = match names.is_empty() {
        true => {
            "it has none; a checkpoint is listed once every node's part of it is complete".into()
        }
        false => format!("its newest are {}", names.join(", ")),
    };
    let what = name.map_or("no checkpoint".to_owned(), |name| {
        format!("no checkpoint {}", clean(name))
    });
    Err(Failure::not_found(format!(
        "job {} has {what}: {there}",
        job.id
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_and_a_name() {
        assert_eq!(split("412").ok(), Some(("412", None)));
        assert_eq!(split("412/step-1").ok(), Some(("412", Some("step-1"))));
        for wrong in ["412/", "/step-1", "/"] {
            let failure = split(wrong).expect_err(wrong);
            assert!(failure.to_string().contains("JOB/NAME"), "{failure}");
        }
    }

    #[test]
    fn the_newest_or_all_of_a_name() {
        let one = |name: &str, attempt| Checkpoint {
            name: name.into(),
            attempt,
            ..Checkpoint::default()
        };
        let job = Job {
            id: "4".into(),
            checkpoints: vec![one("a", 1), one("a", 2), one("b", 2)],
            ..Job::default()
        };
        let attempts = |name| -> Vec<u64> {
            let found = named(&job, name).expect("there");
            found.iter().map(|one| one.attempt).collect()
        };
        assert_eq!(attempts(Some("a")), [1, 2]);
        assert_eq!(attempts(None), [2]);
        let failure = named(&job, Some("x\x1b[2J")).expect_err("none");
        assert!(
            failure.to_string().ends_with("its newest are b, a, a"),
            "{failure}"
        );
        assert!(!failure.to_string().contains('\x1b'));
        assert!(named(&Job::default(), None).is_err());
    }
}
