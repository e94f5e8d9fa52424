//! The number of processes where v1 counts them: a group for each keeper, which it enters before it has an attempt, and in which its ranks
//! are born. To move somebody into a group costs the kernel many milliseconds, for which no rank should wait, and a bomb would be faster.
//! Keepers that begin in quick succession share one.
//!
//! With v2 a rank is born in the one group that bounds everything, and nothing is done here.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::Base;
use super::base::make;

/// Before the name of a keeper's group: its process id, or that of the warm one, and a number.
const PREFIX: &str = "keeper-";

fn group(base: &Base, name: &str) -> Option<PathBuf> {
    Some(base.pids.as_ref()?.join(format!("{PREFIX}{name}")))
}

/// Puts this process, a keeper, and what will come from it into the group `name` of at most `tasks` beside itself.
///
/// # Errors
/// When what worked at the launcher's start does not any more.
pub fn enter(base: &Base, name: &str, tasks: u64) -> io::Result<()> {
    let Some(dir) = group(base, name) else {
        return Ok(());
    };
    make(&dir)?;
    fs::write(dir.join("pids.max"), tasks.saturating_add(1).to_string())?;
    fs::write(dir.join("cgroup.procs"), "0")
}

/// Takes this process out of its group, which is empty then, and removes it: for who ends, and has nobody to see to it.
pub fn leave(base: &Base, name: &str) {
    let top = base
        .pids
        .as_ref()
        .and_then(|folder| folder.ancestors().nth(2));
    if let Some(top) = top
        && fs::write(top.join("cgroup.procs"), "0").is_ok()
    {
        remove(base, name);
    }
}

/// Removes the group of a keeper that has ended. One that is not empty stays.
pub fn remove(base: &Base, name: &str) -> bool {
    let gone = group(base, name).is_none_or(|dir| fs::remove_dir(&dir).is_ok() || !dir.exists());
    if let Some(folder) = &base.pids {
        // The node's folder, and ours, when this was the last.
        for dir in folder.ancestors().take(2) {
            let _ = fs::remove_dir(dir);
        }
    }
    gone
}

/// Removes the groups of keepers that ended while nobody watched.
pub fn remove_empty(base: &Base) {
    let entries = base
        .pids
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok());
    for entry in entries.flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if let Some(name) = name.strip_prefix(PREFIX) {
            remove(base, name);
        }
    }
}
