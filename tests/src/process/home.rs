//! The directory of one test's cluster, and commands that know it and nothing of this machine's user.
//! Directories carry the test's process id; what a test left that was killed itself is ended and removed by the next one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{disk, machine, tool};

/// Directories of one test process, told apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh directory with an empty `work` in it.
///
/// # Panics
/// When it cannot be made.
pub fn fresh() -> PathBuf {
    remove_leftovers();
    // Short: sockets lie below it.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let root = PathBuf::from(format!("/tmp/mlt-{}-{number}", std::process::id()));
    fs::create_dir_all(root.join("work"))
        .unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    root
}

/// `binary` with `context` as its context, at home in `root`.
pub fn command(binary: &Path, root: &Path, context: &Path) -> Command {
    let mut command = Command::new(binary);
    scrub(&mut command, root);
    command
        .env("MLCTL_CONFIG", context)
        .current_dir(root.join("work"));
    command
}

/// Takes this user's own settings away from `command`.
pub fn scrub(command: &mut Command, root: &Path) {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("MLCTL_") {
            command.env_remove(key);
        }
    }
    command.env("HOME", root).env("USER", "tester");
}

/// Removes `root`, unless `MLCTL_TEST_KEEP` says that somebody wants to look at it.
pub fn remove(root: &Path) {
    if std::env::var_os("MLCTL_TEST_KEEP").is_some_and(|keep| !keep.is_empty()) {
        eprintln!("kept: {}", root.display());
        return;
    }
    discard_groups(root, 4);
    if let Err(error) = fs::remove_dir_all(root) {
        eprintln!("{}: {error}", root.display());
    }
}

/// Removes the cgroups of every node that kept its data below `root`: a launcher that was killed has not.
fn discard_groups(dir: &Path, depth: u32) {
    if dir.join("jobs").is_dir() {
        mlctl_agent::cgroup::Base::discard(dir);
    } else if depth > 0 {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                discard_groups(&entry.path(), depth - 1);
            }
        }
    }
}

/// Ends and removes what tests left that were killed themselves.
fn remove_leftovers() {
    use std::os::unix::fs::MetadataExt;
    let ours = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let maker = tool::maker(&entry.file_name().to_string_lossy(), "mlt-");
        let own = entry.metadata().is_ok_and(|data| data.uid() == ours);
        if maker.is_some_and(|pid| !machine::alive(pid)) && own {
            machine::around(&entry.path())
                .iter()
                .for_each(|process| machine::kill(process.pid));
            disk::unmount_below(&entry.path());
            // Another test may be doing the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
