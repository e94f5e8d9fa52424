//! `mlctl checkpoint push`: nodes that hold a checkpoint upload it to an object store now. Ends with 0 when every part is there, and with 1 if one failed.
//! Does NOT send any bytes itself: agents do, with their own credentials. What they have begun goes on when this command is ended.
use std::collections::BTreeMap;
use std::time::Duration;

use mlctl_proto::api::{Checkpoint, UploadCheckpointRequest, UploadState, UploadedPart};
use mlctl_proto::spec::StoreAddress;
use mlctl_proto::units::bytes_text;
use serde_json::{Value, json};

use crate::args::{Global, PushCheckpointArgs};
use crate::client::{Client, checkpoints, traced};
use crate::commands::checkpoint::show::chosen;
use crate::failure::Failure;
use crate::output::{Output, clean};

/// Not even a sign of life came for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Uploads the checkpoint of `args`.
pub async fn run(
    args: &PushCheckpointArgs,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let url = checked(args.to.as_deref())?;
    let mut client = Client::open(global)?;
    let (job, checkpoint) = chosen(&mut client, &args.checkpoint).await?;
    sealed(&checkpoint, &job.id)?;
    let request = UploadCheckpointRequest {
        job: job.id.clone(),
        attempt: checkpoint.attempt,
        name: checkpoint.name.clone(),
        url,
    };
    let pushed = push(&mut client, request, output).await?;
    let there = pushed.there();
    let rows: Vec<Value> = pushed.parts.values().map(row).collect();
    let value = json!({
        "v": 1, "job": job.id, "name": checkpoint.name, "attempt": checkpoint.attempt, "url": pushed.url, "there": there, "parts": rows,
    });
    let of = format!("{} of job {}", clean(&checkpoint.name), job.id);
    output.value(&value, &pushed.lines(&of).join("\n"));
    Ok(u8::from(!there))
}

/// The URL that was given. It is not repeated: it may hold a secret.
fn checked(url: Option<&str>) -> Result<String, Failure> {
    let Some(url) = url else {
        return Ok(String::new());
    };
    let address = StoreAddress::parse(url).map_err(|why| {
        Failure::usage(format!(
            "the URL of --to {why}; use s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory"
        ))
    });
    address.map(|_| url.to_owned())
}

/// Refuses what is only a directory.
fn sealed(checkpoint: &Checkpoint, job: &str) -> Result<(), Failure> {
    let mut filled = (checkpoint.parts.iter())
        .filter(|part| !(part.manifest.is_empty() && part.holders.is_empty()))
        .peekable();
    if filled.peek().is_some() && filled.all(|part| !part.manifest.is_empty()) {
        return Ok(());
    }
    let nodes = checkpoint.holders.join(", ");
    Err(Failure::failed(format!(
        "{} of job {job} is only a directory on {nodes} and was never sealed, so it cannot be uploaded: copy it from there",
        clean(&checkpoint.name)
    )))
}

/// What has come of it.
#[derive(Debug, Default)]
struct Pushed {
    url: String,
    /// How many there are to end.
    expected: u32,
    /// How each of those that have ended did.
    parts: BTreeMap<u32, UploadedPart>,
}

impl Pushed {
    /// Takes in what is told; the line of progress that it makes.
    fn take(&mut self, told: UploadedPart) -> Option<String> {
        let at = format!("part {}", told.index);
        let node = clean(&told.node);
        let state = told.state();
        if state == UploadState::Unspecified {
            return None;
        }
        self.url.clone_from(&told.url);
        self.expected = told.parts;
        if state == UploadState::Going {
            let before = match told.error.is_empty() {
                true => String::new(),
                false => format!(", for the one before failed: {}", clean(&told.error)),
            };
            let size = bytes_text(told.bytes);
            return Some(format!("{at}: {node} uploads {size}{before}"));
        }
        let line = line(&told);
        self.parts.insert(told.index, told);
        Some(format!(
            "{line} ({} of {})",
            self.parts.len(),
            self.expected
        ))
    }

    fn whole(&self) -> usize {
        let is_there = |part: &&UploadedPart| part.state() == UploadState::There;
        self.parts.values().filter(is_there).count()
    }

    /// All of it is in the store. A part of which no end was told is not.
    fn there(&self) -> bool {
        self.expected > 0 && u32::try_from(self.whole()) == Ok(self.expected)
    }

    /// What people are told at the end of `of`, a checkpoint.
    fn lines(&self, of: &str) -> Vec<String> {
        let url = clean(&self.url);
        let (whole, expected) = (self.whole(), self.expected);
        if self.there() {
            let parts = if expected == 1 { "part" } else { "parts" };
            return vec![format!("{of} is in {url}: {expected} {parts}")];
        }
        let failed = |part: &&UploadedPart| part.state() != UploadState::There;
        let mut lines: Vec<String> = self.parts.values().filter(failed).map(line).collect();
        lines.push(format!(
            "{whole} of {expected} parts of {of} are in {url}: give the same command again, what is there is not sent again"
        ));
        lines
    }
}

async fn push(
    client: &mut Client,
    request: UploadCheckpointRequest,
    output: &dyn Output,
) -> Result<Pushed, Failure> {
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { checkpoints(channel).upload(request).await }
    });
    let mut stream = answer.await?;
    let mut pushed = Pushed::default();
    loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await;
        let message = message.map_err(|_| {
            let why = format!(
                "nothing came for {} s; what nodes have begun goes on: give the same command again",
                PATIENCE.as_secs()
            );
            Failure::timed_out(why)
        })?;
        let goes_on = "; what nodes have begun goes on: give the same command again";
        match message.map_err(|status| Failure::from(&status).and(goes_on))? {
            Some(told) => {
                if let Some(line) = pushed.take(told) {
                    output.note(&line);
                }
            }
            None => return Ok(pushed),
        }
    }
}

fn word(part: &UploadedPart) -> &'static str {
    match part.state() {
        UploadState::There => "there",
        UploadState::Failed | UploadState::Going | UploadState::Unspecified => "failed",
    }
}

fn row(part: &UploadedPart) -> Value {
    let node = Some(&part.node).filter(|node| !node.is_empty());
    json!({ "part": part.index, "node": node, "bytes": part.bytes, "state": word(part), "error": part.error })
}

fn line(part: &UploadedPart) -> String {
    let node = match part.node.is_empty() {
        true => String::new(),
        false => format!(" on {}", clean(&part.node)),
    };
    let why = match part.error.is_empty() {
        true => String::new(),
        false => format!(": {}", clean(&part.error)),
    };
    format!("part {}{node}: {}{why}", part.index, word(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::api::CheckpointPart;

    fn told(index: u32, state: UploadState, node: &str, error: &str) -> UploadedPart {
        UploadedPart {
            index,
            state: state.into(),
            node: node.into(),
            bytes: 2_048,
            error: error.into(),
            url: "s3://runs/a".into(),
            parts: 2,
        }
    }

    #[test]
    fn every_part_must_be_there() {
        let mut pushed = Pushed::default();
        assert!(!pushed.there(), "nothing was told");
        assert_eq!(pushed.take(UploadedPart::default()), None);
        let going = told(0, UploadState::Going, "n1", "");
        let line = pushed.take(going).expect("progress");
        assert_eq!(line, "part 0: n1 uploads 2.0 KiB");
        let line = pushed.take(told(0, UploadState::There, "n1", ""));
        assert_eq!(line.as_deref(), Some("part 0 on n1: there (1 of 2)"));
        assert!(!pushed.there(), "the other one has not ended");
        let again = told(1, UploadState::Going, "n3", "n2: x\x1b[2J");
        let line = pushed.take(again).expect("progress");
        assert!(line.ends_with("failed: n2: x\u{fffd}[2J"), "{line}");
        pushed.take(told(1, UploadState::There, "n3", ""));
        assert!(pushed.there());
        assert_eq!(
            pushed.lines("step-5 of job 4"),
            ["step-5 of job 4 is in s3://runs/a: 2 parts"]
        );
        assert_eq!(row(&pushed.parts[&1])["state"], "there");
    }

    #[test]
    fn what_failed_is_said_with_what_to_do() {
        let mut pushed = Pushed::default();
        pushed.take(told(0, UploadState::There, "", ""));
        pushed.take(told(1, UploadState::Failed, "n2", "access denied"));
        assert!(!pushed.there());
        let lines = pushed.lines("step-5 of job 4");
        assert_eq!(lines[0], "part 1 on n2: failed: access denied");
        assert!(lines[1].starts_with("1 of 2 parts of step-5"), "{lines:?}");
        let rows: Vec<Value> = pushed.parts.values().map(row).collect();
        assert_eq!(rows[0]["node"], Value::Null);
        assert_eq!(rows[1]["state"], "failed");
    }

    #[test]
    fn a_url_that_may_hold_a_secret_is_refused_and_not_repeated() {
        assert_eq!(checked(None).expect("none"), "");
        assert_eq!(checked(Some("s3://runs/a")).expect("good"), "s3://runs/a");
        for url in [
            "s3://me:hunter2@runs/a",
            "s3://runs/a?token=hunter2",
            "hunter2",
        ] {
            let failure = checked(Some(url)).expect_err("refused");
            let text = failure.to_string();
            assert_eq!(failure.exit(), 64);
            assert!(text.contains("s3://bucket/prefix"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_was_never_sealed_cannot_be_uploaded() {
        let mut checkpoint = Checkpoint {
            name: "step-1".into(),
            holders: vec!["n1".into()],
            parts: vec![CheckpointPart {
                holders: vec!["n1".into()],
                ..CheckpointPart::default()
            }],
            ..Checkpoint::default()
        };
        let failure = sealed(&checkpoint, "4").expect_err("refused");
        assert!(failure.to_string().contains("on n1"), "{failure}");
        checkpoint.parts[0].manifest = "00".repeat(32);
        // A node that wrote nothing.
        checkpoint.parts.push(CheckpointPart::default());
        assert!(sealed(&checkpoint, "4").is_ok());
        checkpoint.parts.remove(0);
        assert!(sealed(&checkpoint, "4").is_err());
    }
}
