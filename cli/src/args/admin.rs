//! Arguments of `admin`.
use std::path::PathBuf;

use clap::Subcommand;

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
