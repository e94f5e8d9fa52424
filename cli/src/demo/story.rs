//! The story of the demo: a reference training, the same with a node lost in the middle, and the comparison.
use std::path::Path;
use std::time::Duration;

use mlctl_proto::api::{Job, LogLine};
use mlctl_runtime::config::ContextFile;
use tokio::sync::watch;

use super::strike::{Kill, Restored, restored, strike};
use super::training::{Progress, TrainerResult, follow, submit};
use super::workload::Workload;
use crate::client::Client;
use crate::dev::layout::Layout;
use crate::failure::Failure;

/// How the two trainings went.
#[derive(Debug)]
pub struct Outcome {
    /// Of the undisturbed training.
    pub reference: TrainerResult,
    /// Of the one that lost a node.
    pub survivor: TrainerResult,
    /// Attempts of the latter.
    pub attempts: usize,
    /// The step it had reached when the node died.
    pub killed_at_step: u64,
    /// From the kill to the next step of the training.
    pub recovery: Duration,
    /// The node that died held rank 0.
    pub killed_rank0: bool,
    /// Nothing of its disk was left.
    pub disk_wiped: bool,
    /// What the last attempt was brought, and by whom.
    pub restored: Restored,
}

/// Runs both trainings on the dev cluster in `dir`, telling what happens through `tell`.
pub async fn play(
    dir: &Path,
    workload: &Workload,
    tell: &dyn Fn(&str),
) -> Result<Outcome, Failure> {
    let context = ContextFile::read(&Layout::new(dir).context()).map_err(Failure::config)?;
    let mut client = Client::of(&context);
    tell(&format!(
        "\n1. An undisturbed training, as the reference: {}",
        workload.what
    ));
    let job = submit(&mut client, workload, "reference").await?;
    let (sender, _) = watch::channel(Progress::default());
    let (_, reference) = follow(&mut client, &job, &sender, &|line| {
        show(line, workload.steps, tell)
    })
    .await?;
    tell(&format!(
        "   parameters {}  accuracy {:.3}",
        short(&reference.params_digest),
        reference.accuracy
    ));

    tell(
        "\n2. The same training again; this time the node of rank 0 dies in the middle, and its disk with it",
    );
    let job = submit(&mut client, workload, "survivor").await?;
    let (sender, receiver) = watch::channel(Progress::default());
    let mut second = Client::of(&context);
    let watching = receiver.clone();
    let striking = async {
        let killed = strike(dir, &mut second, &job, workload, receiver, tell).await?;
        let restored = restored(dir, &mut second, &job, watching).await?;
        Ok::<_, Failure>((killed, restored))
    };
    let following = async {
        let followed = follow(&mut client, &job, &sender, &|line| {
            show(line, workload.steps, tell)
        })
        .await;
        (followed, sender)
    };
    let ((followed, sender), killed) = tokio::join!(following, striking);
    let (ended, survivor) = followed?;
    let (killed, restored) = killed?;
    let recovered = sender.borrow().recovered;
    let recovery = recovered.map_or(Duration::ZERO, |at| at.saturating_duration_since(killed.at));
    tell(&format!(
        "   parameters {}  accuracy {:.3}",
        short(&survivor.params_digest),
        survivor.accuracy
    ));
    tell(&history(&ended, &killed, &survivor, (recovery, &restored)));
    Ok(Outcome {
        reference,
        survivor,
        attempts: ended.attempts.len(),
        killed_at_step: killed.step,
        recovery,
        killed_rank0: killed.rank0,
        disk_wiped: killed.wiped,
        restored,
    })
}

/// One line in ten, so that a person can follow.
fn show(line: &LogLine, steps: u64, tell: &dyn Fn(&str)) {
    if !line.note.is_empty() {
        tell(&format!("   -- {}", line.note));
        return;
    }
    let text = String::from_utf8_lossy(&line.text);
    let step: Option<u64> = text
        .strip_prefix("step ")
        .and_then(|rest| rest.split('/').next())
        .and_then(|step| step.parse().ok());
    let milestone = step.is_some_and(|step| step.is_multiple_of((steps / 5).max(1)));
    // Of what a failing rank says on stderr, the line that names the error; a whole traceback hides the story.
    let error = text.starts_with("error:") || (!text.starts_with(' ') && text.contains("Error: "));
    let matters = text.starts_with("resumed") || (line.stderr && error);
    if milestone || matters {
        tell(&format!("   [{}] {text}", line.rank));
    }
}

fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}

fn history(
    job: &Job,
    killed: &Kill,
    survivor: &TrainerResult,
    (recovery, restored): (Duration, &Restored),
) -> String {
    let nodes = |number: usize| -> String {
        let attempt = job.attempts.get(number);
        let names = attempt.map(|a| {
            a.allocations
                .iter()
                .map(|a| a.node.as_str())
                .collect::<Vec<_>>()
                .join(" + ")
        });
        names.unwrap_or_default()
    };
    format!(
        "   attempt 1 on {}: {} lost at step {}, with its disk\n   attempt {} on {}: resumed from step {}, training again {:.1} s after the kill\n   the checkpoint, {} bytes, came from {}",
        nodes(0),
        killed.node,
        killed.step,
        job.attempts.len(),
        nodes(job.attempts.len().saturating_sub(1)),
        survivor.resumed_from_step,
        recovery.as_secs_f64(),
        restored.bytes,
        restored.from.join(" and ")
    )
}
