//! The file that tells ranks how long they still have: `$MLCTL_DEADLINE_FILE`, written whole once it is known that they are to end.
//! One form for whatever ends them. Does NOT signal anybody.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use crate::launch::plan::DEADLINE;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// For programs: `time_limit` or `stop`.
    pub reason: String,
    /// One sentence for people.
    pub why: String,
    /// How long the ranks had from when this was written, milliseconds.
    pub left_ms: u64,
    /// When they are killed, UTC milliseconds by this node's clock.
    pub at_ms: u64,
}

/// Leaves word for the ranks of the attempt in `attempt_dir`.
///
/// # Errors
/// When it cannot be written: then they have the signal alone.
pub(super) fn write(attempt_dir: &Path, reason: &str, why: &str, left_ms: u64) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let at = now.unwrap_or(Duration::ZERO) + Duration::from_millis(left_ms);
    let deadline = Deadline {
        reason: reason.into(),
        why: why.into(),
        left_ms,
        at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
    };
    let (path, aside) = (
        attempt_dir.join(DEADLINE),
        attempt_dir.join("deadline.json.new"),
    );
    fs::write(&aside, serde_json::to_vec(&deadline)?)?;
    // Ranks may be somebody else's processes.
    fs::set_permissions(&aside, Permissions::from_mode(0o644))?;
    fs::rename(aside, path)
}
