//! Before a new attempt: what an earlier one left unfinished is moved aside, so that no trainer takes it for a checkpoint.
//! Does NOT delete anything.

use std::fs;
use std::io;
use std::path::Path;

use super::rules::is_leftover;

/// Where unfinished directories go, inside the checkpoint directory.
pub const ASIDE: &str = ".mlctl-incomplete";

/// Moves every leftover in `dir` to `dir/.mlctl-incomplete/` and returns how many. A missing `dir` has none.
///
/// # Errors
/// When the directory cannot be read, or a leftover cannot be moved.
pub fn set_aside(dir: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut moved = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(text) = name.to_str().filter(|text| is_leftover(text)) else {
            continue;
        };
        let aside = dir.join(ASIDE);
        fs::create_dir_all(&aside)?;
        // The same name may have been left more than once.
        let unique = format!("{text}.{:08x}", rand::random::<u32>());
        fs::rename(entry.path(), aside.join(unique))?;
        moved += 1;
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(set_aside(&dir.path().join("absent")).expect("fine"), 0);
        for _ in 0..2 {
            for name in ["step-10", "step-20.tmp", ".cache", "notes.partial"] {
                fs::create_dir_all(dir.path().join(name).join("x")).expect("made");
            }
            assert_eq!(set_aside(dir.path()).expect("moved"), 2);
            assert!(dir.path().join("step-10/x").exists() && dir.path().join(".cache").exists());
            assert!(!dir.path().join("step-20.tmp").exists());
        }
        assert_eq!(
            fs::read_dir(dir.path().join(ASIDE)).expect("made").count(),
            4
        );
    }
}
