//! Arguments of `dev` and `demo`.
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// What to do; nothing: start the cluster
    #[command(subcommand)]
    pub command: Option<DevCommand>,
    /// Number of nodes; default 2, or what the directory has
    #[arg(long, value_name = "N")]
    pub nodes: Option<u32>,
    /// Simulated GPUs on each node, shown as SIM; default 0
    #[arg(long, value_name = "N")]
    pub gpus: Option<u32>,
    /// Return when all nodes are Ready; the cluster goes on in the background
    #[arg(long)]
    pub detach: bool,
    /// Where the cluster lives
    #[arg(long, global = true, value_name = "DIR", env = "MLCTL_DEV_DIR")]
    pub dir: Option<PathBuf>,
}

/// What to do with a dev cluster.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// End all its processes; its data stays
    Stop,
    /// Start what `dev kill` had killed
    Start {
        /// A node or a coordinator
        name: String,
    },
    /// Kill a node or a coordinator as a power cut would; `leader` is the leading coordinator
    Kill {
        /// A node, a coordinator, or `leader`
        name: String,
    },
    /// List its processes
    Status,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Train with PyTorch DDP instead of the built-in trainer
    #[arg(long)]
    pub torch: bool,
    /// Seed of the parameters and of the order of the images
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,
    /// Leave the cluster running at the end
    #[arg(long)]
    pub keep: bool,
}
