//! Following a job: its output as it comes, over the loss of coordinators, and its end.
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mlctl_proto::api::{GetJobRequest, Job, LogLine, LogsRequest, WatchRequest};
use mlctl_proto::errors::Code;
use mlctl_proto::limits::CLIENT_RETRY_MS;

use crate::client::{Client, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;
use crate::output::fold::Fold;

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

/// Prints the output of `job` until it has ended, and returns it as it ended. `fold`: whether lines are folded, if it was said.
pub async fn to_the_end(
    client: &mut Client,
    job: &str,
    output: &dyn Output,
    fold: Option<bool>,
) -> Result<Job, Failure> {
    let request = LogsRequest {
        job: job.to_owned(),
        follow: true,
        attempt: 0,
        rank: None,
        all_attempts: true,
        many: true,
        dumps: false,
    };
    let mut printer = Printer::new(output, fold, false);
    lines(client, request, &mut printer).await?;
    printer.finish();
    ended(client, job, &|text| output.note(text)).await
}

/// Where lines go.
pub trait Sink {
    /// A line, or a remark between lines.
    fn line(&mut self, line: &LogLine);
    /// When [`Sink::tick`] is wanted, if nothing comes.
    fn due(&self) -> Option<Instant> {
        None
    }
    /// It is time.
    fn tick(&mut self) {}
}

impl<F: FnMut(&LogLine)> Sink for F {
    fn line(&mut self, line: &LogLine) {
        self(line);
    }
}

/// Prints lines, identical ones of several ranks as one if that is wanted.
pub struct Printer<'a> {
    output: &'a dyn Output,
    fold: Option<Fold>,
    raw: bool,
    began: Instant,
}

impl<'a> Printer<'a> {
    /// Prints to `output`; `fold` and `raw` as they were asked for.
    pub fn new(output: &'a dyn Output, fold: Option<bool>, raw: bool) -> Self {
        Self {
            output,
            fold: output.folds(fold).then(Fold::default),
            raw,
            began: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Prints what waits.
    pub fn finish(&mut self) {
        while let Some(group) = self.fold.as_mut().and_then(Fold::take) {
            self.output.log_lines(&group.ranks, &group.line, self.raw);
        }
    }
}

impl Sink for Printer<'_> {
    fn line(&mut self, line: &LogLine) {
        let now = self.now_ms();
        match &mut self.fold {
            Some(fold) => fold.push(now, line),
            None => self
                .output
                .log_lines(&BTreeSet::from([line.rank]), line, self.raw),
        }
        self.tick();
    }

    fn due(&self) -> Option<Instant> {
        let due = self.fold.as_ref()?.due()?;
        Some(self.began + Duration::from_millis(due))
    }

    fn tick(&mut self) {
        let now = self.now_ms();
        while let Some(group) = self.fold.as_mut().and_then(|fold| fold.ready(now)) {
            self.output.log_lines(&group.ranks, &group.line, self.raw);
        }
    }
}

impl Drop for Printer<'_> {
    /// Also what waits when the stream broke, or was left, is shown.
    fn drop(&mut self) {
        self.finish();
    }
}

/// Hands lines to `sink` until the stream ends by itself. A lost coordinator is replaced; no line comes twice.
pub async fn lines(
    client: &mut Client,
    request: LogsRequest,
    sink: &mut dyn Sink,
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
    sink: &mut dyn Sink,
    silent_since: &mut Instant,
) -> Result<(), Failure> {
    let channel = client.channel().await?;
    let opened = jobs(channel).logs(traced(request.clone())).await;
    let mut stream = opened
        .map_err(|status| Failure::from(&status))?
        .into_inner();
    printed.restart();
    loop {
        let due = sink.due();
        let message = tokio::select! {
            biased;
            message = stream.message() => message,
            () = until(due) => {
                sink.tick();
                continue;
            }
        };
        let Some(mut line) = message.map_err(|status| Failure::from(&status))? else {
            return Ok(());
        };
        *silent_since = Instant::now();
        let more = std::mem::take(&mut line.more);
        for line in std::iter::once(line).chain(more) {
            if printed.is_new(&line) {
                sink.line(&line);
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// What was printed of each (attempt, rank, stream), so that a second stream can skip it.
#[derive(Default)]
struct Printed {
    shown: BTreeMap<(u64, u32, bool, bool), u64>,
    seen: BTreeMap<(u64, u32, bool, bool), u64>,
    /// How far each rank's log was printed, where lines say that.
    offsets: BTreeMap<(u64, u32), u64>,
}

impl Printed {
    fn restart(&mut self) {
        self.seen.clear();
    }

    fn is_new(&mut self, line: &LogLine) -> bool {
        if line.offset > 0 {
            let shown = self.offsets.entry((line.attempt, line.rank)).or_default();
            let new = line.offset > *shown;
            *shown = (*shown).max(line.offset);
            return new;
        }
        let key = (line.attempt, line.rank, line.stderr, !line.note.is_empty());
        let seen = self.seen.entry(key).or_default();
        *seen += 1;
        let shown = self.shown.entry(key).or_default();
        let new = *seen > *shown;
        *shown = (*shown).max(*seen);
        new
    }
}

/// Waits for the end of `job` by watching it: no polling. A job that is held is not over; who waits is told, once.
pub async fn ended(client: &mut Client, job: &str, note: &dyn Fn(&str)) -> Result<Job, Failure> {
    let mut told = false;
    loop {
        let now = get(client, job).await?;
        if terminal(&now) {
            return Ok(now);
        }
        tell_held(&now, &mut told, note);
        match watch(client, &now, &mut told, note).await {
            Ok(Some(job)) => return Ok(job),
            // The stream ended or its index was too old: look again.
            Ok(None) => {}
            Err(failure) if failure.may_retry() => client.rotate(),
            Err(failure) if failure.code() == Some(Code::Compacted) => {}
            Err(failure) => return Err(failure),
        }
    }
}

fn tell_held(job: &Job, told: &mut bool, note: &dyn Fn(&str)) {
    if job.state == "Held" && !std::mem::replace(told, true) {
        note(&format!("job {} is held: {}", job.id, job.reason));
    }
}

async fn watch(
    client: &mut Client,
    since: &Job,
    told: &mut bool,
    note: &dyn Fn(&str),
) -> Result<Option<Job>, Failure> {
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
        for job in event.changes.into_iter().filter_map(|change| change.job) {
            if terminal(&job) {
                return Ok(Some(job));
            }
            tell_held(&job, told, note);
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

    #[test]
    fn offsets_tell_what_is_new_even_when_the_beginning_is_gone() {
        let line = |rank, offset| LogLine {
            attempt: 1,
            rank,
            offset,
            ..LogLine::default()
        };
        let mut printed = Printed::default();
        printed.restart();
        assert!(printed.is_new(&line(0, 10)) && printed.is_new(&line(0, 20)));
        printed.restart();
        let again: Vec<bool> = [(0, 20), (0, 30), (1, 10)]
            .map(|(rank, offset)| printed.is_new(&line(rank, offset)))
            .into();
        assert_eq!(again, [false, true, true]);
    }
}
