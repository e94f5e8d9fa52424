//! `mlctl show`: everything about one job, with the last words of the rank that failed.
use std::collections::VecDeque;

use mlctl_proto::api::{Job, LogLine, LogsRequest};

use super::follow;
use crate::advice;
use crate::args::{Global, ShowArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// Lines of a failed rank that are shown.
const LAST_LINES: usize = 5;

/// Shows the job of `args`.
pub async fn run(args: &ShowArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let assumed = std::env::var(advice::NODE_MTBF_VARIABLE).ok();
    let assumed = advice::node_mtbf_days(assumed.as_deref()).map_err(Failure::usage)?;
    let mut client = Client::open(global)?;
    let job = follow::get(&mut client, &args.job).await?;
    let last = last_words(&mut client, &job).await;
    output.job(&job, &last, advice::advice(&job, assumed).as_ref());
    Ok(0)
}

/// What the rank that failed first said last; nothing if no rank did, or its log is gone.
async fn last_words(client: &mut Client, job: &Job) -> Vec<LogLine> {
    // Also of a job that waits to start again: what ended its last attempt is what people want to know.
    let newest = job.attempts.last();
    let end = job.outcome.as_ref();
    let end = end.or_else(|| newest.and_then(|attempt| attempt.end.as_ref()));
    let failed = end.filter(|end| {
        let itself = end.by_job || end.kind == "OutOfMemory";
        itself && end.exit_code != 0
    });
    let Some(rank) = failed.and_then(|end| end.rank) else {
        return Vec::new();
    };
    // A task may have failed in any wave: it is looked for in all.
    let last = job.attempts.last().filter(|_| job.array.is_none());
    let request = LogsRequest {
        job: job.id.clone(),
        follow: false,
        attempt: last.map_or(0, |attempt| attempt.number),
        rank: Some(rank),
        all_attempts: false,
        many: true,
        dumps: false,
    };
    let mut last = VecDeque::new();
    let mut keep = |line: &LogLine| {
        if line.note.is_empty() {
            last.push_back(line.clone());
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
    };
    // The job is shown with or without.
    match follow::lines(client, request, &mut keep).await {
        Ok(()) | Err(_) => last.into(),
    }
}
