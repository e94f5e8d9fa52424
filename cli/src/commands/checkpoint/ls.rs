//! `mlctl checkpoint ls`: the checkpoints of a job, or of all jobs of somebody.
use mlctl_proto::api::{ListCheckpointsRequest, ListedCheckpoint};

use crate::args::{Global, LsCheckpointsArgs};
use crate::client::{Client, checkpoints, traced};
use crate::failure::Failure;
use crate::output::{Output, clean};

/// Lists what `args` select, page by page.
pub async fn run(
    args: &LsCheckpointsArgs,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let listed = all(&mut client, args).await?;
    if !args.quiet {
        output.checkpoints(&listed);
        return Ok(0);
    }
    for one in &listed {
        let name = one.checkpoint.as_ref().map_or("", |one| one.name.as_str());
        output.line(&format!("{}/{}", one.job, clean(name)));
    }
    Ok(0)
}

async fn all(
    client: &mut Client,
    args: &LsCheckpointsArgs,
) -> Result<Vec<ListedCheckpoint>, Failure> {
    let mut all: Vec<ListedCheckpoint> = Vec::new();
    loop {
        let after = all.last().map(|one| one.job.clone()).unwrap_or_default();
        let seen = all.iter().rev().take_while(|one| one.job == after).count();
        let request = ListCheckpointsRequest {
            job: args.job.clone().unwrap_or_default(),
            all: args.all,
            after,
            seen: u32::try_from(seen).unwrap_or(u32::MAX),
        };
        let answer = client.call(|channel| {
            let request = traced(request.clone());
            async move { checkpoints(channel).list(request).await }
        });
        let page = answer.await?;
        let more = page.more && !page.checkpoints.is_empty();
        all.extend(page.checkpoints);
        if !more {
            return Ok(all);
        }
    }
}
