//! The system's own tools (`ip`, `nft`, `mount`, …), run to their end with whatever they said as the error.
//! Does NOT decide what their absence means: a test asks first and skips.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs `program` with `words` and `input` on its stdin.
///
/// # Errors
/// What it said, when it cannot be started or fails.
pub fn run(program: &str, words: &[&str], input: &str) -> Result<String, String> {
    let shown = || format!("{program} {}", words.join(" "));
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", shown()))?;
    // Dropped at once: the tool sees the end of its input. One that does not read it has failed, and says so below.
    let _ = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child
        .wait_with_output()
        .map_err(|error| format!("{}: {error}", shown()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {} ({input:?})", shown(), said.trim()))
}

/// As [`run`], where a failure is the end of the test.
///
/// # Panics
/// When the tool fails.
#[track_caller]
pub fn must(program: &str, words: &[&str], input: &str) -> String {
    run(program, words, input).unwrap_or_else(|why| panic!("{why}"))
}

/// The first of `programs` that is not installed.
pub fn missing<'a>(programs: &[&'a str]) -> Option<&'a str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let there = |program: &str| folders.iter().any(|folder| folder.join(program).is_file());
    programs.iter().find(|program| !there(program)).copied()
}

/// What stands in the way of a test that needs root and `programs`, if anything does.
pub fn obstacle(programs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("this needs root".to_owned());
    }
    missing(programs).map(|program| format!("{program} is not installed"))
}

/// The process that made something, when its name is `PREFIX` and a process id, and perhaps more that is no digit.
pub fn maker(name: &str, prefix: &str) -> Option<i32> {
    let rest = name.strip_prefix(prefix)?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// The names in a folder; none when it cannot be read.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_said_is_the_error() {
        assert_eq!(run("cat", &[], "in and out"), Ok("in and out".to_owned()));
        let error = run("sh", &["-c", "echo no such luck >&2; exit 3"], "").expect_err("it fails");
        assert!(error.contains("no such luck"), "{error}");
        assert!(run("no-such-tool-here", &[], "").is_err());
        assert_eq!(
            missing(&["sh", "no-such-tool-here"]),
            Some("no-such-tool-here")
        );
    }

    #[test]
    fn makers_are_found_by_name() {
        for (name, wanted) in [
            ("mlt123a0", Some(123)),
            ("mlt123", Some(123)),
            ("mlt-123-a-c1", None),
            ("mltx", None),
            ("eth0", None),
        ] {
            assert_eq!(maker(name, "mlt"), wanted, "{name}");
        }
        assert_eq!(maker("mlt-123-a-c1", "mlt-"), Some(123));
    }
}
