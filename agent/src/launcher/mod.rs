//! The launcher: the small process on a node that starts keepers, so that they are never children of the agent. When it runs as root it is
//! also the only one that needs to be: its message set is fixed, and its answers depend on its own configuration, not on the agent's word.
//!
//! Synchronous, no network, no runtime. It does NOT know jobs, and keepers outlive it.

pub mod client;
pub mod protocol;
mod server;
mod start;
mod warm;

use std::io;
use std::path::PathBuf;

pub use server::run;

/// The launcher's socket in the agent's data directory.
pub const SOCKET: &str = "launcher.sock";

/// What a launcher is told at start, from the agent's configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LauncherConfig {
    /// The agent's data directory: the socket lies in it, attempts below its `jobs`.
    pub data_dir: PathBuf,
    /// The only user that ranks may run as; empty: the launcher's own, or the plan's.
    pub job_user: String,
}

/// Why a launcher cannot run.
#[derive(Debug, thiserror::Error)]
pub enum LauncherRunError {
    /// A file or socket of its data directory.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is one already.
    #[error("another launcher serves {}", path.display())]
    Busy {
        /// The data directory.
        path: PathBuf,
    },
    /// The kernel refuses something that is needed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
