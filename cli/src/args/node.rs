//! Arguments of `node`.
use clap::{Args, Subcommand};

use super::teams::DryRun;

/// What an admin does with machines.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Say that a silent machine is gone for good, so that what it held starts elsewhere
    DeclareLost {
        /// Its name
        node: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Keep a machine or a pool free for a time; without arguments: list all such times
    Maintenance(MaintenanceArgs),
    /// Say whose a machine is, and what others may do there
    Own(OwnArgs),
    /// Say that a machine is nobody's any more
    Disown {
        /// Its name
        node: String,
        /// Whether it is done.
        #[command(flatten)]
        dry: DryRun,
    },
}

/// Arguments of `node maintenance`.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    /// The machine
    #[arg(requires = "length")]
    pub node: Option<String>,
    /// Every machine of a pool instead
    #[arg(
        long,
        value_name = "POOL",
        conflicts_with = "node",
        requires = "length"
    )]
    pub pool: Option<String>,
    /// From when, such as 2026-12-01T08:00Z or +3h; default: now
    #[arg(long, value_name = "TIME", requires = "length")]
    pub from: Option<String>,
    /// How long, such as 2h
    #[arg(
        long = "for",
        value_name = "TIME",
        requires = "reason",
        allow_hyphen_values = true
    )]
    pub length: Option<String>,
    /// Why: everybody whom it concerns is shown it
    #[arg(long, value_name = "TEXT", requires = "length")]
    pub reason: Option<String>,
    /// Take one back, by its number
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["node", "pool", "length"])]
    pub cancel: Option<u64>,
    /// Whether it is done.
    #[command(flatten)]
    pub dry: DryRun,
}

/// Arguments of `node own`.
#[derive(Debug, Args)]
pub struct OwnArgs {
    /// The machine
    pub node: String,
    /// The team's path: teams in it are owners too
    #[arg(long, value_name = "TEAM")]
    pub team: String,
    /// Who else may run there: none, preemptible or any
    #[arg(long, value_name = "WHO", default_value = "preemptible")]
    pub guests: String,
    /// The longest notice that guests get, such as 5m; default: that of their class
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub guest_grace: Option<String>,
    /// Whether it is done.
    #[command(flatten)]
    pub dry: DryRun,
}
