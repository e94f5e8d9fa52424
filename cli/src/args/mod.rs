//! The command line as clap sees it, and nothing else: no command does its work here.
mod admin;
mod checkpoint;
mod daemon;
mod dev;
mod jobs;
mod node;
mod simulate;
mod teams;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub use admin::{AdminCommand, CertCommand, PauseArgs, UserCommand};
pub use checkpoint::{
    CheckpointCommand, CommitArgs, GetCheckpointArgs, LsCheckpointsArgs, NamedCheckpointsArgs,
    PushCheckpointArgs, ShowCheckpointArgs,
};
pub use daemon::{AgentArgs, CoordinatorArgs, LauncherArgs};
pub use dev::{DemoArgs, DevArgs, DevCommand};
pub use jobs::{
    CancelArgs, HoldArgs, JobsArgs, LogsArgs, ReleaseArgs, RetryArgs, RunArgs, ShowArgs,
    SubmitArgs, TurnArgs, UpdateArgs, WaitArgs, WhichArgs, WhyArgs,
};
pub use node::{MaintenanceArgs, NodeCommand, OwnArgs};
pub use simulate::{SharedBy, SimulateArgs};
pub use teams::{DryRun, LimitArgs, QuotaCommand, QuotaSetArgs, TeamCommand};

/// One training cluster out of a pile of GPU servers.
#[derive(Debug, Parser)]
#[command(
    name = "mlctl",
    version,
    disable_version_flag = true,
    propagate_version = false,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// How to print: tables for people, JSON for programs
    #[arg(short = 'o', long = "output", global = true, value_enum, default_value_t = Format::Table, env = "MLCTL_OUTPUT")]
    pub output: Format,
    /// The context file that says which cluster and who you are
    #[arg(
        long = "context",
        global = true,
        value_name = "FILE",
        env = "MLCTL_CONFIG"
    )]
    pub context: Option<PathBuf>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one value, versioned.
    Json,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Queue a job and print its id
    Submit(SubmitArgs),
    /// Queue a job, follow its output and end with its exit code
    Run(RunArgs),
    /// List jobs
    Jobs(JobsArgs),
    /// Everything about one job
    Show(ShowArgs),
    /// Why a job is not running yet
    Why(WhyArgs),
    /// The output of a job's ranks
    Logs(LogsArgs),
    /// End jobs
    Cancel(CancelArgs),
    /// Try jobs again: what is held or backs off may start, what is over is submitted anew
    Retry(RetryArgs),
    /// Keep jobs that wait from starting
    Hold(HoldArgs),
    /// Let jobs start that a person holds
    Release(ReleaseArgs),
    /// Change jobs in place: what waits keeps its place in the queue
    Update(UpdateArgs),
    /// Wait until a job has ended, and end with its exit code
    Wait(WaitArgs),
    /// What jobs saved: list it, keep it, remove it
    #[command(visible_alias = "ckpt")]
    Checkpoint {
        /// What to do.
        #[command(subcommand)]
        command: CheckpointCommand,
    },
    /// GPUs that are free now, by pool and type, and on how many nodes how many of them
    Gpus,
    /// List the machines of the cluster
    Nodes,
    /// What an admin does with one machine
    Node {
        /// What to do.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Teams: who shares the cluster, and who is in which
    Team {
        /// What to do.
        #[command(subcommand)]
        command: TeamCommand,
    },
    /// What teams may hold and use up, and what of it is in use
    Quota {
        /// What to do.
        #[command(subcommand)]
        command: QuotaCommand,
    },
    /// Replay a recorded load on a described cluster, in virtual time, with the scheduler's own code
    Simulate(SimulateArgs),
    /// A whole cluster on this machine, for trying out and for tests
    Dev(DevArgs),
    /// Watch a cluster train a model and survive a killed node
    Demo(DemoArgs),
    /// Set up a cluster, and decide about scheduling: authority, users, settings, pauses
    Admin {
        /// What to do.
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Print completions for a shell
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the version; -v adds how it was built
    Version {
        /// Also the build's cfgs and capabilities
        #[arg(short, long)]
        verbose: bool,
    },
    /// Run a coordinator
    Coordinator(CoordinatorArgs),
    /// Run a node's agent
    Agent(AgentArgs),
    /// Run a node's launcher
    Launcher(LauncherArgs),
    /// Supervise a dev cluster
    #[command(hide = true)]
    DevSupervisor {
        /// Its state directory.
        #[arg(long)]
        dir: PathBuf,
    },
    /// The trainer of the demo
    #[command(hide = true)]
    DemoTrainer(crate::demo::trainer::TrainerArgs),
}
