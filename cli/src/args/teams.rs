//! Arguments of `team` and `quota`.
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with teams.
#[derive(Debug, Subcommand)]
pub enum TeamCommand {
    /// List teams; of one team: its members too
    Ls {
        /// Only this team and those in it
        team: Option<String>,
    },
    /// Make a team, or change its weight and limits; what is not named stays
    Set {
        /// Its path, such as acme/vision
        team: String,
        /// Its part among its siblings, 1 or more
        #[arg(long, value_name = "N", allow_hyphen_values = true)]
        weight: Option<String>,
        /// The most urgent class of its jobs: low, normal, high, critical, or none
        #[arg(long, value_name = "CLASS")]
        max_class: Option<String>,
        /// What is limited.
        #[command(flatten)]
        limits: LimitArgs,
        /// Whether it is done.
        #[command(flatten)]
        dry: DryRun,
    },
    /// Remove a team that has no jobs and no teams in it
    Rm {
        /// Its path
        team: String,
        /// Whether it is done.
        #[command(flatten)]
        dry: DryRun,
    },
    /// Let users submit jobs to a team
    AddUser {
        /// Its path
        team: String,
        /// Ids such as u-1a2b3c4d, or names that the cluster has seen
        #[arg(required = true, value_name = "USER")]
        users: Vec<String>,
        /// Their jobs go to this team unless they say otherwise
        #[arg(long)]
        default: bool,
        /// Whether it is done.
        #[command(flatten)]
        dry: DryRun,
    },
    /// Users leave a team; their jobs stay
    RmUser {
        /// Its path
        team: String,
        /// Ids, or names that the cluster has seen
        #[arg(required = true, value_name = "USER")]
        users: Vec<String>,
        /// Whether it is done.
        #[command(flatten)]
        dry: DryRun,
    },
    /// Make and change many teams at once, from a file: all of it or nothing
    Import {
        /// In TOML, or in JSON if the name ends in .json
        file: PathBuf,
        /// Whether it is done.
        #[command(flatten)]
        dry: DryRun,
    },
}

/// What to do with quotas and budgets.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// What teams may hold and use up, and what of it is in use
    Show {
        /// Only this team and those in it
        team: Option<String>,
    },
    /// Change what a team may hold and use up; what is not named stays
    Set(Box<QuotaSetArgs>),
    /// What a team's users hold and have used
    Usage {
        /// Only this team and those in it
        team: Option<String>,
    },
    /// Whether so many GPUs more would be within quota and budget, and what fails where
    Explain {
        /// The team's path
        team: String,
        /// How many, such as 8 or 0.5
        #[arg(long, value_name = "N", allow_hyphen_values = true)]
        gpus: String,
        /// Of which type, such as H100 or H100@POOL
        #[arg(long, value_name = "TYPE")]
        gpu: String,
    },
}

/// Arguments of `quota set`.
#[derive(Debug, Args)]
pub struct QuotaSetArgs {
    /// The team's path
    pub team: String,
    /// Its own GPUs, such as H100=64 or H100@POOL=8 (repeat)
    #[arg(long, value_name = "TYPE=N", allow_hyphen_values = true)]
    pub gpus: Vec<String>,
    /// GPUs beyond those, while others do not use theirs: a number, or unlimited (repeat)
    #[arg(long, value_name = "TYPE=N", allow_hyphen_values = true)]
    pub borrow: Vec<String>,
    /// Of its own, those that others may have while it does not use them: a number, or unlimited (repeat)
    #[arg(long, value_name = "TYPE=N", allow_hyphen_values = true)]
    pub lend: Vec<String>,
    /// GPUs that one user may hold: a number, or unlimited (repeat)
    #[arg(long, value_name = "TYPE=N", allow_hyphen_values = true)]
    pub per_user: Vec<String>,
    /// Take the quota of a type away (repeat)
    #[arg(long, value_name = "TYPE")]
    pub remove: Vec<String>,
    /// GPU-hours that it may use up, such as H100=20000/month or H100=500/30d; none takes a budget away (repeat)
    #[arg(long, value_name = "TYPE=N/WINDOW", allow_hyphen_values = true)]
    pub gpu_hours: Vec<String>,
    /// The time zone of months
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub zone: String,
    /// What happens when GPU-hours are used up: hold, low_priority or stop
    #[arg(long, value_name = "WHAT", default_value = "hold")]
    pub exhausted: String,
    /// The last day of these GPU-hours, such as 2027-03-31; default: they stay
    #[arg(long, value_name = "DATE")]
    pub until: Option<String>,
    /// What else is limited.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Whether it is done.
    #[command(flatten)]
    pub dry: DryRun,
}

/// Limits beside GPUs; `none` takes one away.
#[derive(Debug, Default, Args)]
pub struct LimitArgs {
    /// Tasks that may wait, or none
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub max_pending: Option<String>,
    /// Jobs that may run at once, or none
    #[arg(
        long,
        visible_alias = "max-jobs",
        value_name = "N",
        allow_hyphen_values = true
    )]
    pub max_running: Option<String>,
    /// How long an attempt may run, such as 3d, or none
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub max_time: Option<String>,
    /// What checkpoints may take on nodes, such as 20TiB, or none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub checkpoint_bytes: Option<String>,
    /// Tasks of one user that may wait, or none
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub user_max_pending: Option<String>,
    /// Jobs of one user that may run at once, or none
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub user_max_running: Option<String>,
}

/// Whether a change is done.
#[derive(Debug, Default, Clone, Copy, Args)]
pub struct DryRun {
    /// Only say what would change
    #[arg(long)]
    pub dry_run: bool,
}
