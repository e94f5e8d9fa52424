//! What an agent may ask of the launcher: all of it. One question and one answer per connection.

use serde::{Deserialize, Serialize};

/// One message, bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Are you there?
    Ping,
    /// Start the keeper of an attempt whose plan is written.
    StartKeeper {
        /// Absolute, inside `<data_dir>/jobs`, as `<job>/<epoch>`.
        attempt_dir: String,
    },
    /// The keeper of this attempt is gone: end what it left, and remove its cgroups.
    Sweep {
        /// As above.
        attempt_dir: String,
    },
    /// How well are attempts kept apart on this node?
    Isolation,
}

/// How well attempts are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// By process groups alone.
    None,
    /// Not in everything.
    Partial,
    /// In everything that mlctl knows to do.
    Full,
}

/// From the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Yes.
    Pong,
    /// The keeper runs and takes connections.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// Nothing of the attempt is left.
    Swept {
        /// Processes that were found by their environment and killed; those of its cgroup are not counted.
        killed: u32,
    },
    /// How well.
    Isolation {
        /// Cgroups bound attempts and end them.
        level: Level,
        /// What is missing, one sentence each.
        missing: Vec<String>,
    },
    /// It does not.
    Failed {
        /// What, why and what to do, for people.
        why: String,
    },
}
