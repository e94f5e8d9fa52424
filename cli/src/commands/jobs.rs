//! `mlctl jobs`: list jobs.
use mlctl_proto::api::{Job, ListJobsRequest};

use super::decide;
use crate::args::{Global, JobsArgs};
use crate::client::{Client, cluster, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Lists the jobs that `args` select, page by page.
pub async fn run(args: &JobsArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let owner = match args.user.as_deref() {
        Some("me") => me(&mut client).await?,
        Some(user) => user.to_owned(),
        None => String::new(),
    };
    let mut all: Vec<Job> = Vec::new();
    let pauses = loop {
        let after = all.last().map(|job| job.id.clone()).unwrap_or_default();
        let request = ListJobsRequest {
            all: args.all,
            history: args.history,
            owner: owner.clone(),
            limit: 0,
            after,
        };
        let answer = client.call(|channel| {
            let request = traced(request.clone());
            async move { jobs(channel).list(request).await }
        });
        let page = answer.await?;
        let more = page.more && !page.jobs.is_empty();
        all.extend(page.jobs);
        if !more {
            break page.pauses;
        }
    };
    output.jobs(&all);
    decide::note_pauses(&pauses, output);
    Ok(0)
}

async fn me(client: &mut Client) -> Result<String, Failure> {
    let answer = client.call(|channel| {
        let request = traced(mlctl_proto::api::HelloRequest {
            version: mlctl_proto::VERSION.into(),
            capabilities: mlctl_proto::CAPABILITIES
                .iter()
                .map(|&word| word.into())
                .collect(),
        });
        async move { cluster(channel).hello(request).await }
    });
    Ok(answer.await?.user_id)
}
