//! Rule: the command line builds where the daemons cannot: on macOS its tree holds neither raft nor what raft needs to build.
//! Does NOT build for macOS: it reads what `cargo tree` says.

use super::Violation;
use super::cargo::Answer;

/// The build dependency that does not work there.
pub const ABSENT: &str = "protobuf-build";

/// The arguments of the question for one platform.
pub fn question(platform: &str) -> [&str; 9] {
    [
        "tree",
        "-p",
        "mlctl",
        "--target",
        platform,
        "-e",
        "normal,build",
        "-i",
        ABSENT,
    ]
}

/// Is the library in the tree that cargo printed?
///
/// # Errors
/// What cargo said when it answered neither way.
pub fn found(answer: &Answer) -> Result<bool, String> {
    if answer.success && answer.out.starts_with(ABSENT) {
        return Ok(true);
    }
    // Known to the lock file but not reached on this platform; or not in the lock file at all.
    let nothing =
        answer.success && answer.out.trim().is_empty() && answer.err.contains("nothing to print");
    let unknown = !answer.success && answer.err.contains("did not match any packages");
    if nothing || unknown {
        Ok(false)
    } else {
        Err(format!("cargo tree: {}{}", answer.out, answer.err))
    }
}

/// Judges the answer for macOS.
///
/// # Errors
/// What cargo said when it answered neither way.
pub fn check(answer: &Answer) -> Result<Vec<Violation>, String> {
    let way: Vec<&str> = answer.out.lines().map(str::trim).collect();
    Ok(found(answer)?
        .then(|| {
            Violation::new(
                "cli/Cargo.toml",
                0,
                format!("on macOS `mlctl` needs {ABSENT}: {}", way.join(" ")),
                "keep the daemons under [target.'cfg(target_os = \"linux\")'.dependencies]",
            )
        })
        .into_iter()
        .collect())
}
