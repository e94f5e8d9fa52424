//! Which binary the tests run: `$MLCTL_BIN`, refused when it is missing or older than what it was built from.
//! Does NOT build anything: a test that builds would test another binary than the one that was asked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How to get a binary that is accepted.
const REMEDY: &str = "build it and name it: cargo build --profile checked && MLCTL_BIN=target/checked/mlctl (tests/run does both)";

/// The binary under test, absolute.
///
/// # Errors
/// A sentence that says what is wrong with `$MLCTL_BIN` and which command mends it.
pub fn under_test() -> Result<PathBuf, String> {
    // Cargo starts tests in the crate's folder; people name the binary from the root.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    accept(std::env::var_os("MLCTL_BIN"), root)
}

/// The driver library for tests, which is built into the same folder.
///
/// # Errors
/// As [`under_test`], or when it is not there.
pub fn fake_driver() -> Result<PathBuf, String> {
    let library = under_test()?.with_file_name("libfake_nvml.so");
    modified(&library).map_err(|why| {
        format!(
            "{}: {why}; {REMEDY}, with --workspace for this one",
            library.display()
        )
    })?;
    Ok(library)
}

fn accept(named: Option<OsString>, root: &Path) -> Result<PathBuf, String> {
    let Some(named) = named.filter(|name| !name.is_empty()) else {
        return Err(format!(
            "MLCTL_BIN is not set, so there is no binary to test; {REMEDY}"
        ));
    };
    let binary = root.join(named);
    let built = modified(&binary)
        .map_err(|why| format!("MLCTL_BIN: {}: {why}; {REMEDY}", binary.display()))?;
    let listing = binary.with_extension("d");
    let text = std::fs::read_to_string(&listing).map_err(|why| {
        format!("{}: {why}: without the list of its sources nobody can tell whether {} is stale; {REMEDY}", listing.display(), binary.display())
    })?;
    for source in sources(&text) {
        match modified(&source) {
            Ok(changed) if changed <= built => {}
            Ok(_) => {
                return Err(format!(
                    "{} is older than {}; {REMEDY}",
                    binary.display(),
                    source.display()
                ));
            }
            Err(why) => {
                return Err(format!(
                    "{} was built from {}: {why}; {REMEDY}",
                    binary.display(),
                    source.display()
                ));
            }
        }
    }
    Ok(binary)
}

fn modified(path: &Path) -> Result<SystemTime, String> {
    std::fs::metadata(path)
        .and_then(|data| data.modified())
        .map_err(|error| error.to_string())
}

/// The paths behind the first colon of cargo's list, in which a space of a path is written `\ `.
fn sources(listing: &str) -> Vec<PathBuf> {
    let after = listing.split_once(": ").map_or("", |(_, after)| after);
    let spaced = after.replace("\\ ", "\0");
    spaced
        .split_whitespace()
        .map(|path| path.replace('\0', " ").into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, write};
    use std::time::Duration;

    fn dated(path: &Path, seconds: u64) {
        let when = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_modified(when))
            .expect("dated");
    }

    #[test]
    fn what_is_missing_or_stale_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        let refused = |name: Option<&str>, word: &str| {
            let why = accept(name.map(Into::into), root).expect_err(word);
            assert!(
                why.contains(word) && why.contains("cargo build --profile checked"),
                "{why}"
            );
        };
        refused(None, "not set");
        refused(Some(""), "not set");
        refused(Some("mlctl"), "No such file");
        let source = root.join("a b.rs");
        for name in ["mlctl", "a b.rs", "c.rs"] {
            write(root.join(name), name).expect("written");
        }
        refused(Some("mlctl"), "without the list");
        let listing = format!("{0}/mlctl: {0}/a\\ b.rs {0}/c.rs\n", root.display());
        write(root.join("mlctl.d"), listing).expect("written");
        for (name, seconds) in [("a b.rs", 10), ("c.rs", 20), ("mlctl", 20)] {
            dated(&root.join(name), seconds);
        }
        assert_eq!(
            accept(Some("mlctl".into()), root).expect("fresh"),
            root.join("mlctl")
        );
        dated(&source, 21);
        refused(Some("mlctl"), "is older than");
        std::fs::remove_file(&source).expect("removed");
        refused(Some("mlctl"), "was built from");
    }
}
