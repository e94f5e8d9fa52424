//! Checkpoint directories in memory: where they may lie, how they are made, and that they go. A link in an attempt's folder names its own from
//! before it is made until after it is gone, so that an agent that starts again finds it.
//! Does NOT seal what is in them, and does NOT know when an attempt needs its own no more.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mlctl_proto::ids::{Epoch, JobId};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::dirs::{Dirs, attempts_on_disk};

/// In an attempt's folder: leads to what it has in memory.
const LINK: &str = "ram";
/// There, the trainer's. What lies above is the agent's, so that no job can put anything else in its place.
const INSIDE: &str = "checkpoints";
/// How all these directories are called.
const PREFIX: &str = "mlctl-";
/// Where they lie unless the agent's configuration says so.
const SHM: &str = "/dev/shm";
/// What the kernel says of a ramfs.
const RAMFS: i128 = 0x8584_58f6;

/// Why an attempt has no checkpoint directory in memory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RamError {
    /// Its ranks would not see it.
    #[error(
        "{} is not the node's for its ranks, which have a private one: name another tmpfs as `ram_dir` in the agent's configuration",
        .0.display()
    )]
    Hidden(PathBuf),
    /// It would lie on a disk.
    #[error(
        "{} is neither a tmpfs nor a ramfs: name one as `ram_dir` in the agent's configuration",
        .0.display()
    )]
    Disk(PathBuf),
    /// The system.
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Where directories in memory lie, whether or not an attempt can have one there.
pub(crate) fn place(ram_dir: Option<&Path>) -> &Path {
    ram_dir.unwrap_or(Path::new(SHM))
}

/// The same, for an attempt whose ranks do not see what is below `hidden`.
///
/// # Errors
/// When they would not see it, or it would not be in memory.
pub(crate) fn usable<'a>(
    ram_dir: Option<&'a Path>,
    hidden: &[&Path],
) -> Result<&'a Path, RamError> {
    let base = place(ram_dir);
    if hidden.iter().any(|place| base.starts_with(place)) {
        return Err(RamError::Hidden(base.to_owned()));
    }
    let found = statfs(base).map_err(|error| RamError::Io {
        path: base.to_owned(),
        source: error.into(),
    })?;
    let kind = found.filesystem_type();
    if kind == TMPFS_MAGIC || i128::from(kind.0) == RAMFS {
        return Ok(base);
    }
    Err(RamError::Disk(base.to_owned()))
}

/// The checkpoint directory in memory of the attempt in `folder`, if it has one.
pub(crate) fn of(folder: &Path) -> Option<PathBuf> {
    let outer = fs::read_link(folder.join(LINK)).ok()?;
    Some(outer.join(INSIDE))
}

/// Makes the one of an attempt, whose folder is there, below `base`. It is the agent's, and for nobody else.
///
/// # Errors
/// When it cannot be made; then nothing is left of it.
pub(crate) fn make(
    base: &Path,
    dirs: &Dirs,
    (job, epoch): (JobId, Epoch),
) -> Result<PathBuf, RamError> {
    let outer = base.join(format!("{}{job}.{epoch}", prefix(dirs)));
    let folder = dirs.attempt(job, epoch);
    let made = make_at(&outer, &folder);
    if made.is_err() {
        // Why it could not be made is said; what stays all the same goes with the attempt.
        let _ = remove(&folder);
    }
    made.map_err(|source| RamError::Io {
        path: outer,
        source,
    })
}

fn make_at(outer: &Path, folder: &Path) -> io::Result<PathBuf> {
    remove(folder)?;
    // Of this very attempt, whose folder went without it.
    gone(fs::remove_dir_all(outer))?;
    symlink(outer, folder.join(LINK))?;
    let mut private = DirBuilder::new();
    private.mode(0o700).create(outer)?;
    let inside = outer.join(INSIDE);
    private.create(&inside)?;
    // Where ranks run as somebody else, that user must be able to pass through.
    fs::set_permissions(outer, Permissions::from_mode(0o711))?;
    Ok(inside)
}

/// Removes what the attempt in `folder` has in memory. Whether it had anything.
///
/// # Errors
/// When something of it stays.
pub(crate) fn remove(folder: &Path) -> io::Result<bool> {
    let link = folder.join(LINK);
    let Ok(outer) = fs::read_link(&link) else {
        return Ok(false);
    };
    let name = outer.file_name().unwrap_or_default();
    if name.as_bytes().starts_with(PREFIX.as_bytes()) {
        gone(fs::remove_dir_all(&outer))?;
    }
    gone(fs::remove_file(&link))?;
    Ok(true)
}

/// Removes from `base` what no attempt on this node's disk names any more, as after its disk was wiped. How many there were.
///
/// # Errors
/// When `base` cannot be read.
pub(crate) fn remove_orphans(base: &Path, dirs: &Dirs) -> io::Result<usize> {
    let attempts = attempts_on_disk(dirs).into_iter();
    let links = attempts.map(|(job, epoch)| dirs.attempt(job, epoch).join(LINK));
    let named: BTreeSet<PathBuf> = links.filter_map(|link| fs::read_link(link).ok()).collect();
    let prefix = prefix(dirs);
    let entries = match fs::read_dir(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let ours = entry.file_name().as_bytes().starts_with(prefix.as_bytes());
        // What somebody else gave such a name stays.
        if ours && !named.contains(&entry.path()) && fs::remove_dir_all(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// How those of this agent are called: several may run on one machine.
fn prefix(dirs: &Dirs) -> String {
    let whose = blake3::hash(dirs.root().as_os_str().as_bytes()).to_hex();
    format!("{PREFIX}{}.", &whose[..16])
}

/// What was not there is gone as well.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn at(epoch: u64) -> (JobId, Epoch) {
        (JobId::new(1, 7), Epoch::new(1, epoch))
    }

    /// A node with one attempt, and a place for directories in memory.
    fn node() -> (tempfile::TempDir, Dirs, PathBuf) {
        let root = tempfile::tempdir().expect("dir");
        let dirs = Dirs::new(root.path().join("data"));
        fs::create_dir_all(dirs.attempt(at(1).0, at(1).1)).expect("made");
        let base = root.path().join("ram");
        fs::create_dir(&base).expect("made");
        (root, dirs, base)
    }

    fn count(base: &Path) -> usize {
        fs::read_dir(base).expect("read").count()
    }

    #[test]
    fn it_is_named_until_it_is_gone() {
        let (_root, dirs, base) = node();
        let folder = dirs.attempt(at(1).0, at(1).1);
        assert_eq!(of(&folder), None);
        assert!(!remove(&folder).expect("nothing to do"));
        for _ in 0..2 {
            let made = make(&base, &dirs, at(1)).expect("made");
            assert_eq!(of(&folder).as_ref(), Some(&made));
            assert_eq!(count(&made), 0, "what was there before is gone");
            let mode = fs::metadata(&made).expect("there").mode();
            assert_eq!(mode & 0o777, 0o700);
            fs::write(made.join("step-1"), "x").expect("written");
        }
        assert_eq!(count(&base), 1);
        assert!(remove(&folder).expect("removed"));
        assert_eq!((of(&folder), count(&base)), (None, 0));
        // The machine has booted again.
        let made = make(&base, &dirs, at(1)).expect("made");
        fs::remove_dir_all(made.parent().expect("it has one")).expect("removed");
        assert!(remove(&folder).expect("removed"));
    }

    #[test]
    fn a_link_of_somebody_else_leads_to_no_removal() {
        let (root, dirs, _base) = node();
        let folder = dirs.attempt(at(1).0, at(1).1);
        let other = root.path().join("other");
        fs::create_dir(&other).expect("made");
        symlink(&other, folder.join(LINK)).expect("linked");
        assert!(remove(&folder).expect("removed"));
        assert!(other.exists());
    }

    #[test]
    fn where_it_cannot_be_made_nothing_is_left() {
        let (root, dirs, _base) = node();
        let base = root.path().join("absent");
        assert!(matches!(
            make(&base, &dirs, at(1)),
            Err(RamError::Io { .. })
        ));
        assert_eq!(of(&dirs.attempt(at(1).0, at(1).1)), None);
    }

    #[test]
    fn what_no_attempt_names_goes_and_what_others_made_stays() {
        let (root, dirs, base) = node();
        let kept = make(&base, &dirs, at(1)).expect("made");
        let lost = dirs.attempt(at(2).0, at(2).1);
        fs::create_dir_all(&lost).expect("made");
        let orphan = make(&base, &dirs, at(2)).expect("made");
        fs::remove_dir_all(&lost).expect("removed");
        let another = Dirs::new(root.path().join("another"));
        fs::create_dir_all(another.attempt(at(1).0, at(1).1)).expect("made");
        let theirs = make(&base, &another, at(1)).expect("made");
        assert_eq!(remove_orphans(&base, &dirs).expect("read"), 1);
        assert!(kept.exists() && theirs.exists() && !orphan.exists());
        let absent = remove_orphans(&root.path().join("absent"), &dirs);
        assert_eq!(absent.expect("nothing there"), 0);
    }

    #[test]
    fn only_memory_that_the_ranks_see_is_used() {
        let shm = Path::new(SHM);
        assert!(matches!(
            usable(None, &[shm]),
            Err(RamError::Hidden(place)) if place == shm
        ));
        let below = Path::new("/tmp/ram");
        assert!(matches!(
            usable(Some(below), &[Path::new("/tmp"), shm]),
            Err(RamError::Hidden(_))
        ));
        // Neither is it hidden by a name that only begins alike, nor is it in memory.
        let proc = Path::new("/proc");
        assert!(matches!(
            usable(Some(proc), &[Path::new("/pro")]),
            Err(RamError::Disk(_))
        ));
        assert!(matches!(
            usable(Some(Path::new("/absent/ram")), &[]),
            Err(RamError::Io { .. })
        ));
    }
}
