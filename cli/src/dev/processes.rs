//! Which keepers a node has, and killing what is surely ours: a pid counts only with its start time.
use std::fs;
use std::os::unix::ffi::OsStrExt;
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

/// Kills the keepers of the node whose data is in `data`, their ranks, and all that those have started, wherever it went.
pub fn kill_attempts(data: &Path) {
    let keepers = keepers(data);
    let families: Vec<i32> = keepers
        .iter()
        .flat_map(|keeper| descendants(keeper.pid))
        .collect();
    // The keepers first, so that none of them gets to say anything.
    keepers.iter().for_each(|keeper| kill_now(keeper.pid));
    families.into_iter().for_each(kill_now);
    // Whose keeper had died before is found by what every rank inherits.
    let mark = [
        b"MLCTL_ATTEMPT_DIR=",
        data.join("jobs").as_os_str().as_bytes(),
        b"/",
    ]
    .concat();
    let marked = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(&mark))
    };
    everybody().filter(marked).for_each(kill_now);
}

fn everybody() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Everything below `pid`. A keeper adopts what its ranks leave behind, so while it lives nothing escapes this.
fn descendants(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        let tasks = fs::read_dir(format!("/proc/{parent}/task"))
            .into_iter()
            .flatten()
            .flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<i32> = lists
            .flat_map(|list| {
                list.split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        found.extend(&children);
        next.extend(children);
    }
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
    fn what_a_lost_attempt_left_is_found_by_its_environment() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let start = |attempt: &Path| {
            let mut command = std::process::Command::new("sleep");
            command
                .arg("1000")
                .env("MLCTL_ATTEMPT_DIR", attempt)
                .spawn()
                .expect("started")
        };
        let mut ours = start(&dir.path().join("jobs/7/1"));
        let mut other = start(&dir.path().join("jobs-of-others/7/1"));
        // Between fork and exec a child still has the environment of its parent.
        while !fs::read(format!("/proc/{}/cmdline", ours.id()))
            .expect("it lives")
            .starts_with(b"sleep")
        {
            std::thread::yield_now();
        }
        assert!(descendants(std::process::id() as i32).contains(&(ours.id() as i32)));
        kill_attempts(dir.path());
        assert!(!ours.wait().expect("ended").success());
        assert!(
            other.try_wait().expect("asked").is_none(),
            "another node's is left alone"
        );
        other.kill().and_then(|()| other.wait()).expect("ended");
    }

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
