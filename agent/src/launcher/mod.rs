//! The launcher: the small process on a node that starts keepers, so that they are never children of the agent. When it runs as root it is
//! also the only one that needs to be: its message set is fixed, and its answers depend on its own configuration, not on the agent's word.
//!
//! Synchronous, no network, no runtime. It does NOT know jobs, and keepers outlive it.

pub mod client;
mod groups;
pub mod protocol;
mod server;
mod start;
mod warm;

use std::path::PathBuf;
use std::{fs, io};

pub use server::run;

use crate::config::{Config, PIDS_LEAST, PIDS_MOST};
use crate::users::Users;

/// The launcher's socket in the agent's data directory.
pub const SOCKET: &str = "launcher.sock";

/// What a launcher is told at start, from the agent's configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LauncherConfig {
    /// The agent's data directory: the socket lies in it, attempts below its `jobs`.
    pub data_dir: PathBuf,
    /// The only user that ranks may run as; empty: the launcher's own, or the plan's.
    pub job_user: String,
    /// Which user belongs to whom.
    pub users: Users,
    /// Ranks have a `/tmp` and a `/dev/shm` of their own.
    pub private_tmp: bool,
    /// Processes and threads of one attempt.
    pub pids_max: u64,
}

impl LauncherConfig {
    /// What of the agent's configuration concerns the launcher.
    pub fn of(config: &Config) -> Self {
        Self {
            data_dir: config.data_dir.clone(),
            job_user: config.job_user.clone(),
            users: config.users.clone(),
            private_tmp: config.private_tmp(),
            pids_max: config.pids_max.unwrap_or_else(half_of_the_machine),
        }
    }
}

/// A job that runs wild must leave the machine enough to be ended with: half of the numbers that there are for processes.
fn half_of_the_machine() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/pid_max");
    let most: Option<u64> = text.ok().and_then(|text| text.trim().parse().ok());
    most.map_or(PIDS_MOST, |most| (most / 2).clamp(PIDS_LEAST, PIDS_MOST))
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
