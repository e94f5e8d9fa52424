//! Arguments of `checkpoint`.
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// List the checkpoints of a job, or of all your jobs
    Ls(LsCheckpointsArgs),
    /// Everything about one checkpoint: its parts, and who has them
    Show(ShowCheckpointArgs),
    /// Fetch a checkpoint to this machine; after a break the same command goes on
    Get(GetCheckpointArgs),
    /// Have every node that holds a checkpoint read it again from its disk
    Verify(ShowCheckpointArgs),
    /// Upload a checkpoint to an object store now, and wait until all of it is there
    Push(PushCheckpointArgs),
    /// What the checkpoints of each team take
    Usage,
    /// Keep checkpoints, whatever the rules of their job say
    Pin(NamedCheckpointsArgs),
    /// Let the rules of their job decide again
    Unpin(NamedCheckpointsArgs),
    /// Remove checkpoints and their copies
    Rm(NamedCheckpointsArgs),
    /// Inside a job: say that a checkpoint's directory is complete
    Commit(CommitArgs),
}

/// Arguments of `checkpoint ls`.
#[derive(Debug, Args)]
pub struct LsCheckpointsArgs {
    /// Job id; default: all your jobs, also those that are over
    pub job: Option<String>,
    /// Everybody's
    #[arg(short, long, conflicts_with = "job")]
    pub all: bool,
    /// Only JOB/NAME of each
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `checkpoint show` and `verify`.
#[derive(Debug, Args)]
pub struct ShowCheckpointArgs {
    /// Job id and name of a checkpoint; of a job id alone: the newest one
    #[arg(value_name = "JOB[/NAME]")]
    pub checkpoint: String,
}

/// Arguments of `checkpoint get`.
#[derive(Debug, Args)]
pub struct GetCheckpointArgs {
    /// Job id and name of a checkpoint; of a job id alone: the newest one
    #[arg(value_name = "JOB[/NAME]")]
    pub checkpoint: String,
    /// A directory that is not there yet; default: the checkpoint's name
    pub dir: Option<PathBuf>,
}

/// Arguments of `checkpoint push`.
#[derive(Debug, Args)]
pub struct PushCheckpointArgs {
    /// Job id and name of a checkpoint; of a job id alone: the newest one
    #[arg(value_name = "JOB[/NAME]")]
    pub checkpoint: String,
    /// An object store, such as s3://bucket/prefix or file:///directory; default: the one that the job's spec names
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
}

/// Arguments of `checkpoint pin`, `unpin` and `rm`.
#[derive(Debug, Args)]
pub struct NamedCheckpointsArgs {
    /// Job id
    pub job: String,
    /// Names of checkpoints
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Of this attempt, counted from 1; default: of the names that several have, the newest is pinned, and all are unpinned or removed
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub attempt: u64,
}

/// Arguments of `checkpoint commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// The directory of the checkpoint, in $MLCTL_CHECKPOINT_DIR
    pub dir: PathBuf,
    /// Which step it is
    #[arg(long, value_name = "N")]
    pub step: Option<u64>,
    /// How good it is, such as val_loss=0.12 (repeat)
    #[arg(long = "metric", value_name = "KEY=VALUE", allow_hyphen_values = true)]
    pub metrics: Vec<String>,
}
