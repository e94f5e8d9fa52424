//! Which keepers a node has, and killing what is surely ours: a pid counts only with its start time.
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A keeper by the file it left in its attempt's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeper {
    /// `JOB.ATTEMPT`.
    pub name: String,
    /// Its process.
    pub pid: i32,
}

/// When a process started, in clock ticks since boot: the 22nd field of its stat line.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(") ")?.1;
    if after_name.starts_with('Z') {
        return None;
    }
    after_name.split(' ').nth(19)?.parse().ok()
}

/// The living keepers of the node whose data is in `data`.
pub fn keepers(data: &Path) -> Vec<Keeper> {
    let mut found = Vec::new();
    let jobs = fs::read_dir(data.join("jobs"))
        .into_iter()
        .flatten()
        .flatten();
    for job in jobs {
        for attempt in fs::read_dir(job.path()).into_iter().flatten().flatten() {
            let Ok(text) = fs::read(attempt.path().join("keeper.json")) else {
                continue;
            };
            let Ok(note) = serde_json::from_slice::<serde_json::Value>(&text) else {
                continue;
            };
            let pid = note["pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok())
                .unwrap_or(0);
            if pid > 1
                && start_time(pid).is_some()
                && start_time(pid) == note["start_time"].as_u64()
            {
                let name = format!(
                    "{}.{}",
                    job.file_name().to_string_lossy(),
                    attempt.file_name().to_string_lossy()
                );
                found.push(Keeper { name, pid });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Ends a process at once. One that is gone already is no error.
pub fn kill_now(pid: i32) {
    if pid > 1 {
        // ESRCH: it has ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Asks a process to end.
pub fn terminate(pid: i32) {
    if pid > 1 {
        // ESRCH: it has ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_pid_is_not_a_keeper() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let attempt = dir.path().join("jobs/7/1");
        fs::create_dir_all(&attempt).expect("made");
        let me = std::process::id();
        let start = start_time(me as i32).expect("we live");
        for (start, count) in [(start, 1), (start + 1, 0)] {
            fs::write(
                attempt.join("keeper.json"),
                format!("{{\"pid\":{me},\"start_time\":{start}}}"),
            )
            .expect("written");
            assert_eq!(keepers(dir.path()).len(), count);
        }
        fs::write(attempt.join("keeper.json"), b"\xff").expect("written");
        assert!(keepers(dir.path()).is_empty());
    }
}
