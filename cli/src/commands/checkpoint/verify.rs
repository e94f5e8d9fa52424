//! `mlctl checkpoint verify`: every node that holds a part reads it again from its disk. Ends with 1 if a copy is damaged or cannot be asked.
//! Does NOT mend: what a node finds damaged it drops, and the cluster makes another copy.
use std::time::Duration;

use mlctl_proto::api::{Checkpoint, CheckpointPart, VerifiedCopy, VerifyPartRequest};
use serde_json::{Value, json};

use crate::args::{Global, ShowCheckpointArgs};
use crate::client::{Client, checkpoints, traced};
use crate::commands::checkpoint::show::chosen;
use crate::failure::Failure;
use crate::output::{Output, clean, is_shared};

/// Not even a sign of life came for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// How one copy is.
struct Copy {
    part: u32,
    found: VerifiedCopy,
}

/// Verifies the checkpoint of `args`.
pub async fn run(
    args: &ShowCheckpointArgs,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let (job, checkpoint) = chosen(&mut client, &args.checkpoint).await?;
    let mut copies = Vec::new();
    for part in sealed(&checkpoint, &job.id)? {
        let request = VerifyPartRequest {
            job: job.id.clone(),
            attempt: checkpoint.attempt,
            name: checkpoint.name.clone(),
            index: part.index,
            manifest: part.manifest.clone(),
        };
        let found = verify(&mut client, request).await?;
        let of_part = |found| Copy {
            part: part.index,
            found,
        };
        copies.extend(found.into_iter().map(of_part));
    }
    if copies.is_empty() {
        return Err(Failure::failed(format!(
            "no node holds a copy of {} of job {}: it is in the object store alone, and is verified when a node fetches it",
            clean(&checkpoint.name),
            job.id
        )));
    }
    let good = copies.iter().all(|copy| copy.found.good);
    let rows: Vec<Value> = copies.iter().map(row).collect();
    let value = json!({ "v": 1, "job": job.id, "name": checkpoint.name, "attempt": checkpoint.attempt, "good": good, "copies": rows });
    let lines: Vec<String> = copies.iter().map(line).collect();
    output.value(&value, &lines.join("\n"));
    Ok(u8::from(!good))
}

/// The parts that somebody holds a copy of.
fn sealed<'a>(
    checkpoint: &'a Checkpoint,
    job: &str,
) -> Result<impl Iterator<Item = &'a CheckpointPart>, Failure> {
    let holds = |part: &&CheckpointPart| !part.manifest.is_empty();
    if is_shared(checkpoint) {
        return Err(Failure::failed(format!(
            "{} of job {job} lies in a directory that every node sees and was never sealed: mlctl has nothing to compare it with",
            clean(&checkpoint.name)
        )));
    }
    if !checkpoint.parts.iter().any(|part| holds(&part)) {
        let nodes = checkpoint.holders.join(", ");
        return Err(Failure::failed(format!(
            "{} of job {job} is only a directory on {nodes} and was never sealed: there is nothing to compare it with",
            clean(&checkpoint.name)
        )));
    }
    Ok(checkpoint.parts.iter().filter(holds))
}

async fn verify(
    client: &mut Client,
    request: VerifyPartRequest,
) -> Result<Vec<VerifiedCopy>, Failure> {
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { checkpoints(channel).verify_part(request).await }
    });
    let mut stream = answer.await?;
    let mut copies = Vec::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await;
        let message = message.map_err(|_| {
            Failure::timed_out(format!("nothing came for {} s", PATIENCE.as_secs()))
        })?;
        match message.map_err(|status| Failure::from(&status))? {
            Some(copy) if copy.node.is_empty() => {}
            Some(copy) => copies.push(copy),
            None => return Ok(copies),
        }
    }
}

fn word(copy: &VerifiedCopy) -> &'static str {
    match (copy.good, copy.asked) {
        (true, _) => "good",
        (false, true) => "damaged",
        (false, false) => "unknown",
    }
}

fn row(copy: &Copy) -> Value {
    let found = &copy.found;
    json!({ "part": copy.part, "node": found.node, "state": word(found), "error": found.error })
}

fn line(copy: &Copy) -> String {
    let found = &copy.found;
    let why = match found.error.is_empty() {
        true => String::new(),
        false => format!(": {}", clean(&found.error)),
    };
    format!(
        "part {} on {}: {}{why}",
        copy.part,
        clean(&found.node),
        word(found)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_good_damaged_or_unknown() {
        let copy = |good, asked, error: &str| Copy {
            part: 1,
            found: VerifiedCopy {
                node: "n\x1b1".into(),
                good,
                asked,
                error: error.into(),
            },
        };
        for (copy, text) in [
            (copy(true, true, ""), "good"),
            (copy(false, true, "w: 1 chunk"), "damaged: w: 1 chunk"),
            (copy(false, false, "gone"), "unknown: gone"),
        ] {
            let line = line(&copy);
            assert!(line.ends_with(text) && !line.contains('\x1b'), "{line}");
            assert_eq!(row(&copy)["part"], 1);
        }
    }

    #[test]
    fn what_was_never_sealed_cannot_be_verified() {
        let mut checkpoint = Checkpoint {
            name: "step-1".into(),
            holders: vec!["n1".into()],
            parts: vec![CheckpointPart::default()],
            ..Checkpoint::default()
        };
        let failure = sealed(&checkpoint, "4").err().expect("refused");
        assert!(failure.to_string().contains("on n1"), "{failure}");
        checkpoint.durability = "shared".into();
        let failure = sealed(&checkpoint, "4").err().expect("refused");
        assert!(failure.to_string().contains("every node sees"), "{failure}");
        checkpoint.durability = String::new();
        checkpoint.parts[0].manifest = "00".repeat(32);
        assert_eq!(sealed(&checkpoint, "4").expect("some").count(), 1);
    }
}
