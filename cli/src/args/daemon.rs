//! Arguments of the daemons.
use std::path::PathBuf;

use clap::Args;

/// Arguments of `coordinator`.
#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// Its configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// First start with an empty data directory. Never use it after a disk was lost: the member would vote twice
    #[arg(long)]
    pub bootstrap: bool,
    /// If the data directory cannot vote any more (wiped or damaged), set it aside and join again under a new member id.
    /// Changes nothing for a directory that is sound
    #[arg(long, conflicts_with = "bootstrap")]
    pub rejoin: bool,
    /// End when this process ends
    #[arg(long, hide = true, value_name = "PID")]
    pub die_with: Option<i32>,
}

/// Arguments of `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Its configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// End when this process ends
    #[arg(long, hide = true, value_name = "PID")]
    pub die_with: Option<i32>,
}

/// Arguments of `launcher`.
#[derive(Debug, Args)]
pub struct LauncherArgs {
    /// The agent's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// End when this process ends
    #[arg(long, hide = true, value_name = "PID")]
    pub die_with: Option<i32>,
}
