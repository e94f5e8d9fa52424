//! Before a new attempt: what an earlier one left unfinished is moved aside, so that no trainer takes it for a checkpoint.
//! Does NOT delete anything.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};

use super::look::{listing, names};
use super::rules::is_leftover;
use super::seal::{Facts, Life, Why, Writers, left_half};

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
        move_aside(dir, text)?;
        moved += 1;
    }
    Ok(moved)
}

/// Moves this one there.
///
/// # Errors
/// When it cannot be moved.
pub(crate) fn move_aside(dir: &Path, name: &str) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = open(dir, flags, Mode::empty())?;
    match mkdirat(&dir, ASIDE, Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => {}
        other => other?,
    }
    // The directory is the job's user's, who may have put a link there that leads to somebody else's.
    let aside = openat(&dir, ASIDE, flags, Mode::empty())?;
    // The same name may have been left more than once.
    let unique = format!("{name}.{:08x}", rand::random::<u32>());
    Ok(renameat(&dir, name, &aside, unique.as_str())?)
}

/// Moves what a library began under its final name and did not finish, as far as the files themselves show it, and returns the names with
/// what they lack. `keep` stays, whatever it is. Only for jobs of one node: of several a part may be whole without the file that
/// completes it. `ranks` are those of the job.
///
/// # Errors
/// When one cannot be moved.
pub fn set_aside_half(dir: &Path, ranks: Range<u32>, keep: &str) -> io::Result<Vec<(String, Why)>> {
    let facts = Facts {
        writers: Writers::Nobody,
        quiet_ms: 0,
        life: Life::EndedBadly,
        renamed: false,
        committed: None,
        marker_elsewhere: false,
        ranks,
        nodes: 1,
        before: None,
    };
    let mut moved = Vec::new();
    for name in names(dir).into_iter().filter(|name| name != keep) {
        let Ok(found) = listing(dir, &name, true) else {
            continue;
        };
        if let Some(why) = left_half(&found, &facts) {
            move_aside(dir, &name)?;
            moved.push((name, why));
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_library_did_not_finish_goes_and_ones_own_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let make = |names: &[&str]| {
            for name in names {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().expect("below")).expect("made");
                fs::write(path, b"{\"global_step\": 5}").expect("written");
            }
        };
        make(&[
            "checkpoint-5/config.json",
            "checkpoint-5/trainer_state.json",
            "checkpoint-6/config.json",
            "checkpoint-7/weights",
            "checkpoint-8/rng_state.pth",
            "step-9/__0_0.distcp",
            "step-10/model",
        ]);
        let moved = set_aside_half(dir.path(), 0..1, "checkpoint-8").expect("moved");
        let expected = [
            ("checkpoint-6", "trainer_state.json"),
            ("step-9", ".metadata"),
        ];
        let expected = expected.map(|(name, file)| (name.to_owned(), Why::Missing(file.into())));
        assert_eq!(moved, expected);
        assert_eq!(names(dir.path()).len(), 4);
        let aside = fs::read_dir(dir.path().join(ASIDE)).expect("made");
        assert_eq!(aside.count(), 2);
        assert_eq!(
            set_aside_half(&dir.path().join("absent"), 0..1, "").expect("fine"),
            []
        );
    }

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
