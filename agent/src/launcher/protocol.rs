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
    /// It does not.
    Failed {
        /// What, why and what to do, for people.
        why: String,
    },
}
