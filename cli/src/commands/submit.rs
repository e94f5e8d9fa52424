//! `mlctl submit`: queue a job and print its id.
use mlctl_proto::api::{SubmitReply, SubmitRequest};
use mlctl_runtime::telemetry::trace_context;

use super::spec::wanted;
use crate::args::{Global, SubmitArgs};
use crate::client::{Client, fresh_key, jobs, traced, upload_code};
use crate::failure::Failure;
use crate::output::Output;

/// Queues the job of `args`.
pub async fn run(args: &SubmitArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let reply = submit(&mut client, args).await?;
    if args.quiet {
        output.line(&reply.job);
    } else {
        output.submitted(&reply.job, &reply.name);
    }
    Ok(0)
}

/// Uploads what is missing and submits under one key, so that a retry never makes a second job.
#[tracing::instrument(name = "submit", skip_all)]
pub async fn submit(client: &mut Client, args: &SubmitArgs) -> Result<SubmitReply, Failure> {
    let wanted = wanted(args)?;
    let code_manifest = match &wanted.code {
        Some(dir) => upload_code(client, dir, args.yes).await?,
        None => String::new(),
    };
    let request = SubmitRequest {
        key: fresh_key(),
        spec: wanted.spec.canonical_json(),
        code_manifest,
        traceparent: trace_context::current_traceparent().unwrap_or_else(trace_context::generate),
        uid: nix::unistd::getuid().as_raw(),
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).submit(request).await }
    });
    answer.await
}
