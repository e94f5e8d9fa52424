//! Arguments of `admin`.
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::teams::DryRun;

/// Set up a cluster.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Make the authority that signs every certificate of a new cluster
    Init {
        /// Where its key is kept: a directory that only you can read
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Name of the cluster, for people
        #[arg(long, default_value = "mlctl")]
        name: String,
        /// Addresses of the coordinators, host:port, for the files that are made later (repeat)
        #[arg(long = "coordinator", value_name = "HOST:PORT", required = true)]
        coordinators: Vec<String>,
    },
    /// People who may use the cluster
    User {
        /// What to do.
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Certificates of daemons
    Cert {
        /// Of what.
        #[command(subcommand)]
        command: CertCommand,
    },
    /// Whether jobs may run as root
    AllowRoot {
        /// true or false
        #[arg(action = clap::ArgAction::Set)]
        allow: bool,
    },
    /// Change settings of the cluster, such as scheduling.policy=las or licenses.ansys=2: all of them or none
    Set {
        /// KEY=VALUE; the value `shipped` takes what was decided back (repeat)
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// Whether it is done.
        #[command(flatten)]
        dry: DryRun,
    },
    /// List settings
    Settings {
        /// Only keys that begin so, such as scheduling
        prefix: Option<String>,
        /// Only what is not as shipped
        #[arg(long)]
        changed: bool,
    },
    /// Keep something from happening by itself: starts, preemption, health or power
    Pause(PauseArgs),
    /// Let it happen again
    Resume {
        /// starts, preemption, health or power
        what: String,
        /// Only in this pool
        #[arg(long, value_name = "POOL")]
        pool: Option<String>,
        /// Whether it is done.
        #[command(flatten)]
        dry: DryRun,
    },
    /// What is paused, maintained and owned, and how many of each countable are held
    Show,
}

/// Arguments of `admin pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// starts, preemption, health or power
    pub what: String,
    /// Only in this pool
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// How long, such as 2h; default: until `admin resume`
    #[arg(long = "for", value_name = "TIME", allow_hyphen_values = true)]
    pub length: Option<String>,
    /// Why: everybody whom it concerns is shown it
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Whether it is done.
    #[command(flatten)]
    pub dry: DryRun,
}

/// People.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make a context file for a person: who may read it is that person
    Add {
        /// Name, of a-z, 0-9 and -
        name: String,
        /// May act on everybody's jobs and on the cluster
        #[arg(long)]
        admin: bool,
        /// The authority's directory
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The file to write; default NAME.toml
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Daemons.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// For a coordinator
    Coordinator {
        /// Name, of a-z, 0-9 and -
        name: String,
        /// The authority's directory
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The directory to write; default NAME
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// For a node
    Node {
        /// Name, of a-z, 0-9 and -
        name: String,
        /// The authority's directory
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The directory to write; default NAME
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}
