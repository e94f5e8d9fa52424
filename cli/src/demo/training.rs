//! One training on a cluster, watched through its log: what step it is at, what it resumed from, how it ended.
use std::time::Instant;

use mlctl_proto::api::{Job, LogLine, LogsRequest, SubmitRequest};
use mlctl_runtime::telemetry::trace_context;
use serde::Deserialize;
use tokio::sync::watch;

use super::workload::Workload;
use crate::client::{Client, fresh_key, jobs, traced, upload_code};
use crate::commands::follow;
use crate::failure::Failure;

/// The last line of the trainer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TrainerResult {
    /// On held-out images, 0 to 1.
    pub accuracy: f64,
    /// Steps trained.
    pub steps: u64,
    /// Of the final parameters.
    pub params_digest: String,
    /// 0: from the beginning.
    pub resumed_from_step: u64,
}

/// What the log has told so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Newest attempt heard of.
    pub attempt: u64,
    /// Newest step of any attempt.
    pub step: u64,
    /// When the first step of an attempt after the first was heard.
    pub recovered: Option<Instant>,
    /// Set by the last line.
    pub result: Option<TrainerResult>,
}

impl Progress {
    fn hear(&mut self, line: &LogLine) {
        self.attempt = self.attempt.max(line.attempt);
        let text = String::from_utf8_lossy(&line.text);
        if let Some(rest) = text.strip_prefix("step ") {
            let step = rest
                .split('/')
                .next()
                .and_then(|step| step.trim().parse().ok());
            self.step = step.unwrap_or(self.step);
            if line.attempt > 1 && self.recovered.is_none() {
                self.recovered = Some(Instant::now());
            }
        }
        if let Some(json) = text.strip_prefix("result ") {
            self.result = serde_json::from_str(json).ok();
        }
    }
}

/// Submits `workload` under `name` and returns the job's id.
pub async fn submit(
    client: &mut Client,
    workload: &Workload,
    name: &str,
) -> Result<String, Failure> {
    let code_manifest = match &workload.code {
        Some(dir) => upload_code(client, dir, true).await?,
        None => String::new(),
    };
    let mut spec = workload.spec.clone();
    spec.name = Some(name.to_owned());
    let request = SubmitRequest {
        key: fresh_key(),
        spec: spec.canonical_json(),
        code_manifest,
        traceparent: trace_context::current_traceparent().unwrap_or_else(trace_context::generate),
        uid: nix::unistd::getuid().as_raw(),
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).submit(request).await }
    });
    Ok(answer.await?.job)
}

/// Follows `job` to its end. Every line goes to `show`, what it tells to `progress`.
pub async fn follow(
    client: &mut Client,
    job: &str,
    progress: &watch::Sender<Progress>,
    show: &dyn Fn(&LogLine),
) -> Result<(Job, TrainerResult), Failure> {
    let request = LogsRequest {
        job: job.to_owned(),
        follow: true,
        attempt: 0,
        rank: None,
        all_attempts: true,
        many: true,
        dumps: false,
    };
    follow::lines(client, request, &mut |line: &LogLine| {
        progress.send_modify(|progress| progress.hear(line));
        show(line);
    })
    .await?;
    let ended = follow::ended(client, job, &|_| {}).await?;
    let result = progress.borrow().result.clone();
    match result {
        Some(result) if ended.state == "Completed" => Ok((ended, result)),
        _ => Err(Failure::failed(format!(
            "the training did not complete: job {job} is {}; look: mlctl show {job}",
            ended.state
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_the_story() {
        let mut progress = Progress::default();
        let mut hear = |attempt, text: &str| {
            progress.hear(&LogLine {
                attempt,
                text: text.into(),
                ..LogLine::default()
            });
            (
                progress.step,
                progress.recovered.is_some(),
                progress.result.is_some(),
            )
        };
        assert_eq!(hear(1, "step 40/400 loss 0.8"), (40, false, false));
        assert_eq!(hear(2, "resumed from step 20 (/x)"), (40, false, false));
        assert_eq!(hear(2, "step 25/400 loss 0.9"), (25, true, false));
        assert_eq!(hear(2, "step nonsense"), (25, true, false));
        let result = "result {\"accuracy\":0.9,\"steps\":400,\"params_digest\":\"ab\",\"resumed_from_step\":20,\"world_size\":2}";
        assert_eq!(hear(2, result), (25, true, true));
    }
}
