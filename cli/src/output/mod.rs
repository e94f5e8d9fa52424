//! What commands print. Data goes to stdout, the rest to stderr; tables for people and JSON for programs behind one trait.
mod array;
mod checkpoints;
pub mod clean;
pub mod decisions;
pub mod fold;
mod json;
mod retries;
mod table;
pub mod teams;
mod turn;
pub mod why;

use std::collections::BTreeSet;

use mlctl_proto::api::{
    CancelReply, Checkpoint, CheckpointUsageReply, EditReply, Job, ListedCheckpoint, LogLine, Node,
    RetryReply, WhyReply,
};

use crate::advice::Advice;
use crate::args::Format;
use crate::failure::Failure;

pub(crate) use checkpoints::is_shared;
pub use clean::clean;

/// One way to print.
pub trait Output {
    /// A line of data.
    fn line(&self, text: &str);
    /// A remark for people, on stderr.
    fn note(&self, text: &str);
    /// A value that has no table: JSON as it is, people get `text`.
    fn value(&self, json: &serde_json::Value, text: &str);
    /// A table: JSON as it is, people get the rows below their titles.
    fn table(&self, json: &serde_json::Value, head: &[&str], rows: &[Vec<String>]);
    /// A job was queued.
    fn submitted(&self, id: &str, name: &str);
    /// A listing of jobs.
    fn jobs(&self, jobs: &[Job]);
    /// One job in full; `last`: what the rank that failed first said last; `advice`: about its checkpoints, if there is any.
    fn job(&self, job: &Job, last: &[LogLine], advice: Option<&Advice>);
    /// A listing of checkpoints.
    fn checkpoints(&self, listed: &[ListedCheckpoint]);
    /// Checkpoints of `job` in full.
    fn checkpoint(&self, job: &Job, shown: &[&Checkpoint]);
    /// What the checkpoints of each team take.
    fn usage(&self, reply: &CheckpointUsageReply);
    /// Why a job does not run.
    fn why(&self, why: &WhyReply);
    /// A line of these ranks' output, or a remark between the lines; `raw`: also to a terminal as it is.
    fn log_lines(&self, ranks: &BTreeSet<u32>, line: &LogLine, raw: bool);
    /// Whether identical lines of several ranks are shown as one, if it was `asked` for or against it.
    fn folds(&self, asked: Option<bool>) -> bool {
        let _ = asked;
        false
    }
    /// Jobs were cancelled.
    fn cancelled(&self, reply: &CancelReply);
    /// Jobs were held, released or changed; `how`: what became of them, in a word or two.
    fn edited(&self, reply: &EditReply, how: &str);
    /// Jobs are tried again.
    fn retried(&self, reply: &RetryReply);
    /// A job that was followed has ended.
    fn ended(&self, job: &Job);
    /// A listing of nodes.
    fn nodes(&self, nodes: &[Node]);
    /// A command failed.
    fn failure(&self, failure: &Failure);
}

/// The printer of `format`.
pub fn of(format: Format) -> Box<dyn Output> {
    match format {
        Format::Table => Box::new(table::Table::new()),
        Format::Json => Box::new(json::Json),
    }
}

/// Writes one line to stdout. A reader that went away is no error.
fn out(text: &[u8]) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text)
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush());
    if written.is_err() {
        std::process::exit(0);
    }
}
