//! The process table of this machine, and signals to processes that a test started.
//! Does NOT look at other users' processes and never signals by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its words, separated by blanks.
    pub words: String,
}

/// The id of a child.
pub fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a process id fits an i32")
}

/// Sends `signal` to a process that a test started. One that is gone already is no error.
///
/// # Panics
/// For an id that is no single process, or when the system refuses.
pub fn send(pid: i32, signal: Signal) {
    assert!(pid > 1, "{pid} is not one process");
    match signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("cannot send {signal} to {pid}: {error}"),
    }
}

/// As `kill -9`.
pub fn kill(pid: i32) {
    send(pid, Signal::SIGKILL);
}

/// Whether `pid` still does something: a zombie does not.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn living() -> impl Iterator<Item = i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(move |&pid| pid != own && alive(pid))
}

fn blank_separated(file: PathBuf) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

fn named(pid: i32) -> Process {
    Process {
        pid,
        words: blank_separated(format!("/proc/{pid}/cmdline").into()),
    }
}

/// Living processes among whose words `word` is, but for `mlctl` itself, which may hand it on.
pub fn with_word(word: &str) -> Vec<Process> {
    let all = living().map(named);
    all.filter(|process| {
        process.words.contains(word)
            && !process
                .words
                .split(' ')
                .next()
                .unwrap_or("")
                .ends_with("mlctl")
    })
    .collect()
}

/// Living processes whose words are exactly `words`.
pub fn doing(words: &str) -> Vec<Process> {
    living()
        .map(named)
        .filter(|process| process.words == words)
        .collect()
}

/// Living processes that have to do with `dir`: by their words, their environment or their working directory.
pub fn around(dir: &Path) -> Vec<Process> {
    let text = dir.to_string_lossy().into_owned();
    let touches = |pid: &i32| {
        blank_separated(format!("/proc/{pid}/cmdline").into()).contains(&text)
            || blank_separated(format!("/proc/{pid}/environ").into()).contains(&text)
            || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
    };
    living().filter(touches).map(named).collect()
}

/// `pid` and everything below it.
pub fn family(pid: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = living()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(
            parents
                .iter()
                .filter(|pair| pair.1 == parent)
                .map(|pair| pair.0),
        );
        at += 1;
    }
    found
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_found_until_it_is_gone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = Command::new("sleep")
            .arg("1000.0517")
            .current_dir(folder.path())
            .spawn()
            .expect("started");
        let pid = pid_of(&child);
        // Between fork and exec the child still has our words.
        let found = super::super::until("the child", super::super::command::DEADLINE, || {
            with_word("1000.0517").pop()
        });
        let around = around(folder.path());
        let family = family(i32::try_from(std::process::id()).expect("small"));
        send(pid, Signal::SIGKILL);
        child.wait().expect("reaped");
        assert_eq!(found.pid, pid);
        assert!(
            around.iter().any(|process| process.pid == pid),
            "{around:?}"
        );
        assert!(family.contains(&pid), "{family:?}");
        assert!(!alive(pid) && with_word("1000.0517").is_empty());
        send(pid, Signal::SIGKILL);
    }
}
