//! Loud skips: a test that cannot run here says so, and `tests/run` counts and prints it.
//! Does NOT decide whether something can run.

use std::io::Write;
use std::path::Path;

/// Says on stderr, and in the file that `MLCTL_SKIPS` names, that `test` did not run and why.
pub fn skip(test: &str, reason: &str) {
    let file = std::env::var_os("MLCTL_SKIPS");
    skip_into(file.as_deref().map(Path::new), test, reason);
}

fn skip_into(file: Option<&Path>, test: &str, reason: &str) {
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = format!("{test}: {reason}\n");
    eprint!("SKIPPED {line}");
    let Some(file) = file else {
        return;
    };
    // One write to a file opened for appending: lines of parallel tests do not mix.
    let appended = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut f| f.write_all(line.as_bytes()));
    if let Err(e) = appended {
        eprintln!("cannot note the skip in {}: {e}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::skip_into;

    #[test]
    fn one_line_each() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("skips");
        skip_into(Some(&file), "a", "no\n  network");
        skip_into(Some(&file), "b", "no tool");
        skip_into(None, "c", "nobody listens");
        let text = std::fs::read_to_string(&file).expect("the file was written");
        assert_eq!(text, "a: no network\nb: no tool\n");
    }
}
