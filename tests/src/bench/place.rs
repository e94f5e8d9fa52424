//! Where and of what a figure was taken: commit, machine, load. A figure without them says nothing.
//! Does NOT measure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The root of the repository that this was built in.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn git(arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root())
        .output();
    output
        .map(|output| first_line(&String::from_utf8_lossy(&output.stdout)))
        .unwrap_or_default()
}

/// What `key` says in a file of `key: value` lines.
fn entry(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| {
        line.split(':')
            .next()
            .is_some_and(|word| word.trim() == key)
    });
    line.and_then(|line| line.split_once(':'))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

/// The load averages over 1, 5 and 15 minutes.
pub fn load() -> Vec<f64> {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .take(3)
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Commit, time and machine.
pub fn facts() -> Value {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    json!({
        "commit": git(&["rev-parse", "HEAD"]),
        // What was measured, that is: the benches themselves write into docs.
        "modified": !git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"]).is_empty(),
        "unix_s": seconds,
        "cpu": entry("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": entry("/proc/meminfo", "MemTotal"),
        "kernel": first_line(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
    })
}
