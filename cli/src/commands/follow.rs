//! Following a job: its output as it comes, over the loss of coordinators, and its end.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mlctl_proto::api::{GetJobRequest, Job, LogLine, LogsRequest, WatchRequest};
use mlctl_proto::errors::Code;
use mlctl_proto::limits::CLIENT_RETRY_MS;

use crate::client::{Client, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;

/// The state of `job` as of now.
pub async fn get(client: &mut Client, job: &str) -> Result<Job, Failure> {
    let answer = client.call(|channel| {
        let request = traced(GetJobRequest {
            job: job.to_owned(),
        });
        async move { jobs(channel).get(request).await }
    });
    answer.await
}

/// Whether a job in this state has ended for good.
pub fn terminal(job: &Job) -> bool {
    matches!(
        job.state.as_str(),
        "Completed" | "Failed" | "Cancelled" | "TimedOut"
    )
}

/// Prints the output of `job` until it has ended, and returns it as it ended.
pub async fn to_the_end(
    client: &mut Client,
    job: &str,
    output: &dyn Output,
) -> Result<Job, Failure> {
    let request = LogsRequest {
        job: job.to_owned(),
        follow: true,
        attempt: 0,
        rank: None,
        all_attempts: true,
    };
    lines(client, request, &mut |line| output.log_line(line)).await?;
    ended(client, job).await
}

/// Hands lines to `sink` until the stream ends by itself. A lost coordinator is replaced; no line comes twice.
pub async fn lines(
    client: &mut Client,
    request: LogsRequest,
    sink: &mut dyn FnMut(&LogLine),
) -> Result<(), Failure> {
    let mut printed = Printed::default();
    let mut silent_since = Instant::now();
    loop {
        let failure = match stream(client, &request, &mut printed, sink, &mut silent_since).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if !failure.may_retry() || silent_since.elapsed() > Duration::from_millis(CLIENT_RETRY_MS) {
            return Err(failure);
        }
        client.rotate();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn stream(
    client: &mut Client,
    request: &LogsRequest,
    printed: &mut Printed,
    sink: &mut dyn FnMut(&LogLine),
    silent_since: &mut Instant,
) -> Result<(), Failure> {
    let channel = client.channel().await?;
    let opened = jobs(channel).logs(traced(request.clone())).await;
    let mut stream = opened
        .map_err(|status| Failure::from(&status))?
        .into_inner();
    printed.restart();
    while let Some(line) = stream
        .message()
        .await
        .map_err(|status| Failure::from(&status))?
    {
        *silent_since = Instant::now();
        if printed.is_new(&line) {
            sink(&line);
        }
    }
    Ok(())
}

/// What was printed of each (attempt, rank, stream), so that a second stream can skip it.
#[derive(Default)]
struct Printed {
    shown: BTreeMap<(u64, u32, bool, bool), u64>,
    seen: BTreeMap<(u64, u32, bool, bool), u64>,
}

impl Printed {
    fn restart(&mut self) {
        self.seen.clear();
    }

    fn is_new(&mut self, line: &LogLine) -> bool {
        let key = (line.attempt, line.rank, line.stderr, !line.note.is_empty());
        let seen = self.seen.entry(key).or_default();
        *seen += 1;
        let shown = self.shown.entry(key).or_default();
        let new = *seen > *shown;
        *shown = (*shown).max(*seen);
        new
    }
}

/// Waits for the end of `job` by watching it: no polling.
pub async fn ended(client: &mut Client, job: &str) -> Result<Job, Failure> {
    loop {
        let now = get(client, job).await?;
        if terminal(&now) {
            return Ok(now);
        }
        match watch(client, &now).await {
            Ok(Some(job)) => return Ok(job),
            // The stream ended or its index was too old: look again.
            Ok(None) => {}
            Err(failure) if failure.may_retry() => client.rotate(),
            Err(failure) if failure.code() == Some(Code::Compacted) => {}
            Err(failure) => return Err(failure),
        }
    }
}

async fn watch(client: &mut Client, since: &Job) -> Result<Option<Job>, Failure> {
    let channel = client.channel().await?;
    let request = WatchRequest {
        from_index: since.index,
        jobs: vec![since.id.clone()],
    };
    let opened = jobs(channel).watch(traced(request)).await;
    let mut stream = opened
        .map_err(|status| Failure::from(&status))?
        .into_inner();
    while let Some(event) = stream
        .message()
        .await
        .map_err(|status| Failure::from(&status))?
    {
        let ended = event
            .changes
            .into_iter()
            .filter_map(|change| change.job)
            .find(terminal);
        if ended.is_some() {
            return Ok(ended);
        }
    }
    Ok(None)
}

/// Says how `job` ended and returns its exit code.
pub fn end(job: &Job, output: &dyn Output) -> u8 {
    output.ended(job);
    let code = job.outcome.as_ref().map_or(0, |outcome| outcome.exit_code);
    u8::try_from(code).unwrap_or(70)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stream_prints_only_what_is_new() {
        let line = |rank, text: &str| LogLine {
            attempt: 1,
            rank,
            text: text.into(),
            ..LogLine::default()
        };
        let mut printed = Printed::default();
        printed.restart();
        assert!(
            printed.is_new(&line(0, "a"))
                && printed.is_new(&line(1, "a"))
                && printed.is_new(&line(0, "b"))
        );
        printed.restart();
        let again: Vec<bool> = [(1, "a"), (0, "a"), (1, "c"), (0, "b"), (0, "d")]
            .map(|(rank, text)| printed.is_new(&line(rank, text)))
            .into();
        assert_eq!(again, [false, false, true, false, true]);
    }
}
