//! Arguments of the commands about jobs.
use std::path::PathBuf;

use clap::Args;

/// What to run, as flags beside or instead of a spec file.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A job spec in TOML, or in JSON if the name ends in .json
    #[arg(value_name = "SPEC")]
    pub spec: Option<PathBuf>,
    /// Name for people
    #[arg(long)]
    pub name: Option<String>,
    /// Distinct machines: how many, or a range such as 2..8
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub nodes: Option<String>,
    /// GPUs on each of them: how many, or a part of one such as 0.5
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub gpus: Option<String>,
    /// Acceptable GPU types, the best first, such as H100 or A100:80GB (repeat or separate by commas)
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub gpu: Vec<String>,
    /// When it may run.
    #[command(flatten)]
    pub turn: TurnArgs,
    /// Ranks on each node
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub ranks: Option<String>,
    /// Many tasks of one command: indices such as 0-99, 1,3,7-9 or 0-99%8 (8 at once), or how many
    #[arg(long, value_name = "INDICES")]
    pub array: Option<String>,
    /// exec, python, torchrun, mpi or jax
    #[arg(long, value_name = "METHOD")]
    pub launcher: Option<String>,
    /// A variable for every rank (repeat)
    #[arg(long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Directory to upload; default: the working directory (of the spec)
    #[arg(long, value_name = "DIR", conflicts_with = "no_code")]
    pub code: Option<PathBuf>,
    /// Upload nothing
    #[arg(long)]
    pub no_code: bool,
    /// Directory of the job's checkpoints, relative to its working directory
    #[arg(long, value_name = "DIR")]
    pub checkpoint_dir: Option<String>,
    /// Do not ask before a large upload
    #[arg(long)]
    pub yes: bool,
    /// Print what each node would run, and queue nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the id alone
    #[arg(short, long)]
    pub quiet: bool,
    /// The command, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// When a job may run, and for how long.
#[derive(Debug, Default, Args)]
pub struct TurnArgs {
    /// How urgent: low, normal, high or critical
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// How long one attempt may run, such as 4h
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// Not before: a time such as 2026-12-01T08:00Z, or +2h from now
    #[arg(long, value_name = "WHEN")]
    pub begin: Option<String>,
    /// Drop it if it has not started by then
    #[arg(long, value_name = "WHEN")]
    pub start_by: Option<String>,
    /// End it if it is not over by then
    #[arg(long, value_name = "WHEN")]
    pub end_by: Option<String>,
    /// The team that it runs for
    #[arg(long, value_name = "TEAM")]
    pub team: Option<String>,
    /// Wait for another job: ok:412, any:412, notok:412, started:412 or corr:412 (repeat or separate by commas)
    #[arg(long, value_name = "KIND:JOB", value_delimiter = ',')]
    pub after: Vec<String>,
    /// Do not start it before `mlctl release`
    #[arg(long)]
    pub hold: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to run.
    #[command(flatten)]
    pub submit: SubmitArgs,
    /// Whether lines are folded.
    #[command(flatten)]
    pub fold: FoldArgs,
}

/// Arguments of `jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Ended jobs too
    #[arg(short, long)]
    pub all: bool,
    /// All that ever were: ended jobs that left memory too
    #[arg(long)]
    pub history: bool,
    /// Only jobs of this user; `me` is you
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Job id
    pub job: String,
}

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// Job id
    pub job: String,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Job id, or JOB.INDEX: one task of an array
    pub job: String,
    /// Go on until the job has ended
    #[arg(short, long)]
    pub follow: bool,
    /// One rank only; of an array, one task
    #[arg(long, value_name = "RANK")]
    pub rank: Option<u32>,
    /// One attempt, counted from 1; default: the newest
    #[arg(long, value_name = "N")]
    pub attempt: Option<u64>,
    /// Every attempt
    #[arg(long, conflicts_with = "attempt")]
    pub all_attempts: bool,
    /// The last N lines of what is there
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    pub tail: Option<usize>,
    /// Only lines in which this regular expression matches
    #[arg(long, value_name = "PATTERN")]
    pub grep: Option<String>,
    /// Instead of its output, what the job's ranks dumped when a collective hung: written to files in DIR
    #[arg(long, value_name = "DIR", conflicts_with_all = ["follow", "tail", "grep", "all_attempts"])]
    pub dumps: Option<PathBuf>,
    /// To a terminal too, lines as they were written, with all that drives it
    #[arg(long)]
    pub raw: bool,
    /// Whether lines are folded.
    #[command(flatten)]
    pub fold: FoldArgs,
}

/// Whether identical lines of several ranks are shown as one.
#[derive(Debug, Default, Clone, Copy, Args)]
pub struct FoldArgs {
    /// Identical lines of several ranks once, as `[0-3,7] text`; the default on a terminal
    #[arg(long, overrides_with = "no_fold")]
    pub fold: bool,
    /// Every line of every rank
    #[arg(long, overrides_with = "fold")]
    pub no_fold: bool,
}

impl FoldArgs {
    /// What was asked for, if anything was.
    pub fn asked(self) -> Option<bool> {
        (self.fold || self.no_fold).then_some(self.fold)
    }
}

/// Which jobs.
#[derive(Debug, Args)]
pub struct WhichArgs {
    /// Job ids
    #[arg(value_name = "JOB", required_unless_present = "filter")]
    pub jobs: Vec<String>,
    /// Instead of ids, jobs that are not over by what they have in common: user, team, name (with *), state, class (repeat)
    #[arg(long = "where", value_name = "KEY=VALUE", conflicts_with = "jobs")]
    pub filter: Vec<String>,
}

/// Arguments of `cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Which jobs.
    #[command(flatten)]
    pub which: WhichArgs,
}

/// Arguments of `hold`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Which jobs.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Arguments of `release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Which jobs.
    #[command(flatten)]
    pub which: WhichArgs,
}

/// Arguments of `update`. The word `none` takes a value away.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Which jobs.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Distinct machines: how many, or a range such as 2..8
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub nodes: Option<String>,
    /// GPUs on each of them
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub gpus: Option<String>,
    /// Acceptable GPU types, the best first (repeat or separate by commas)
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub gpu: Vec<String>,
    /// How long one attempt may run
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// How urgent: low, normal, high or critical; only admins raise it
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Name for people
    #[arg(long)]
    pub name: Option<String>,
    /// Not before
    #[arg(long, value_name = "WHEN")]
    pub begin: Option<String>,
    /// Drop it if it has not started by then
    #[arg(long, value_name = "WHEN")]
    pub start_by: Option<String>,
    /// End it if it is not over by then
    #[arg(long, value_name = "WHEN")]
    pub end_by: Option<String>,
    /// Tasks of an array that may run at once
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub at_once: Option<String>,
}

/// Arguments of `retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Job ids
    #[arg(required = true, value_name = "JOB")]
    pub jobs: Vec<String>,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Job id
    pub job: String,
    /// Give up after this many seconds (exit code 75; the job lives)
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}
