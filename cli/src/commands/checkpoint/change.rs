//! `mlctl checkpoint pin|unpin|rm`: all names are one command: all of them, or none.
use mlctl_proto::api::{ChangeCheckpointsRequest, CheckpointAction, NamedCheckpoint};
use serde_json::json;

use crate::args::{Global, NamedCheckpointsArgs};
use crate::client::{Client, checkpoints, fresh_key, traced};
use crate::failure::Failure;
use crate::output::{Output, clean};

/// Does `action` with the checkpoints of `args`.
pub async fn run(
    args: &NamedCheckpointsArgs,
    action: CheckpointAction,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let named = |name: &String| NamedCheckpoint {
        name: name.clone(),
        attempt: args.attempt,
    };
    let request = ChangeCheckpointsRequest {
        key: fresh_key(),
        job: args.job.clone(),
        which: args.names.iter().map(named).collect(),
        action: action.into(),
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { checkpoints(channel).change(request).await }
    });
    answer.await?;
    let (word, text) = match action {
        CheckpointAction::Pin => ("pinned", "stays until it is unpinned"),
        CheckpointAction::Unpin => ("unpinned", "stays only as long as the rules of its job say"),
        _ => ("removed", "is removed with its copies"),
    };
    let line = |name: &String| format!("{} of job {} {text}", clean(name), clean(&args.job));
    let lines: Vec<String> = args.names.iter().map(line).collect();
    output.value(
        &json!({ "v": 1, "job": args.job, word: args.names }),
        &lines.join("\n"),
    );
    Ok(0)
}
