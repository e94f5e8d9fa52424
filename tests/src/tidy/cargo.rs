//! Asks cargo about the workspace: metadata and trees, from what is on disk first, from the registry only when that is not enough.
//! Does NOT judge the answers: the rules do.

use std::path::Path;
use std::process::{Command, Output};

/// The platforms that releases are built for: everything on the first, the command line alone on the second.
pub const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin"];

/// What cargo said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Did it succeed?
    pub success: bool,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Answer {
    /// True when cargo failed because something is neither on disk nor to be had from the registry.
    pub fn registry_out_of_reach(&self) -> bool {
        const SIGNS: [&str; 6] = [
            "you're using offline mode",
            "--offline was specified",
            "failed to download",
            "download of",
            "failed to get",
            "Could not resolve host",
        ];
        !self.success && SIGNS.iter().any(|sign| self.err.contains(sign))
    }
}

/// Runs cargo in `root`, offline; once more with the registry when something is not on disk.
///
/// # Errors
/// A sentence when cargo cannot be started.
pub fn ask(root: &Path, arguments: &[&str]) -> Result<Answer, String> {
    let offline = run(root, arguments, true)?;
    if offline.registry_out_of_reach() {
        run(root, arguments, false)
    } else {
        Ok(offline)
    }
}

fn run(root: &Path, arguments: &[&str], offline: bool) -> Result<Answer, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .current_dir(root)
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_NET_RETRY", "1");
    command
        .args(arguments)
        .arg("--locked")
        .args(offline.then_some("--offline"));
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    Ok(Answer {
        success: status.success(),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::Answer;

    #[test]
    fn tells_a_missing_registry_from_a_fault() {
        for (success, err, expect) in [
            (
                false,
                "attempting to make an HTTP request, but --offline was specified",
                true,
            ),
            (
                false,
                "no matching package named `x` found\nAs a reminder, you're using offline mode",
                true,
            ),
            (false, "error: failed to get `x` as a dependency", true),
            (
                false,
                "the lock file needs to be updated but --locked was passed",
                false,
            ),
            (true, "warning: download of x was slow", false),
        ] {
            let answer = Answer {
                success,
                out: String::new(),
                err: err.to_owned(),
            };
            assert_eq!(answer.registry_out_of_reach(), expect, "{err}");
        }
    }
}
