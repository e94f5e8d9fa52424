//! Checkpoint directories in memory: where they may lie, how they are made, and that they go. A link in an attempt's folder names its own from
//! before it is made until after it is gone, so that an agent that starts again finds it.
//! Does NOT seal what is in them, and does NOT know when an attempt needs its own no more.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mlctl_proto::ids::{Epoch, JobId};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::geteuid;

use crate::dirs::{Dirs, attempts_on_disk};

/// In an attempt's folder: leads to what it has in memory.
const LINK: &str = "ram";
/// In an attempt's folder, from before what it had in memory goes: it had something, and nobody can tell any more what.
const GONE: &str = "ram-gone";
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

/// What an attempt has in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Memory {
    /// It never had anything there.
    Never,
    /// Its checkpoint directory.
    Here(PathBuf),
    /// It had, and that is gone: with its end, or with a boot of the machine.
    Gone,
}

/// What the attempt in `folder` has in memory.
pub(crate) fn of(folder: &Path) -> Memory {
    // From then on what is left there may be half of what was.
    if folder.join(GONE).exists() {
        return Memory::Gone;
    }
    let Ok(outer) = fs::read_link(folder.join(LINK)) else {
        return Memory::Never;
    };
    // Where everybody may make directories, somebody else may have made one of that name since the machine booted.
    let found = fs::symlink_metadata(&outer);
    let own = found.is_ok_and(|one| one.is_dir() && one.uid() == geteuid().as_raw());
    let inside = outer.join(INSIDE);
    match own && inside.is_dir() {
        true => Memory::Here(inside),
        false => Memory::Gone,
    }
}

/// Whether something of the attempt in `folder` may still be in memory.
pub(crate) fn is_named(folder: &Path) -> bool {
    fs::symlink_metadata(folder.join(LINK)).is_ok()
}

/// The attempt in `folder` needs what it has in memory no more: it goes, and that it was there stays known. Whether it had anything.
///
/// # Errors
/// When something of it stays.
pub(crate) fn end(folder: &Path) -> io::Result<bool> {
    if !is_named(folder) {
        return Ok(false);
    }
    // First: without it a part that went would look like one that never was.
    fs::write(folder.join(GONE), "")?;
    remove(folder)
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
    gone(fs::remove_file(folder.join(GONE)))?;
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

/// Removes what the attempt in `folder` has in memory, as if it had never had anything there. Whether it had.
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
    // Who cannot read which attempts there are must not take theirs for nobody's.
    match fs::read_dir(dirs.jobs()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let attempts = attempts_on_disk(dirs).into_iter();
    let links = attempts.map(|(job, epoch)| dirs.attempt(job, epoch).join(LINK));
    // By name alone: the same place may have been called otherwise when they were made.
    let named = links.filter_map(|link| Some(fs::read_link(link).ok()?.file_name()?.to_owned()));
    let named: BTreeSet<OsString> = named.collect();
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
        if ours && !named.contains(&entry.file_name()) && fs::remove_dir_all(entry.path()).is_ok() {
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
        assert_eq!(of(&folder), Memory::Never);
        assert!(!remove(&folder).expect("nothing to do") && !end(&folder).expect("nor here"));
        assert_eq!(of(&folder), Memory::Never);
        for _ in 0..2 {
            let made = make(&base, &dirs, at(1)).expect("made");
            assert_eq!(of(&folder), Memory::Here(made.clone()));
            assert_eq!(count(&made), 0, "what was there before is gone");
            let mode = fs::metadata(&made).expect("there").mode();
            assert_eq!(mode & 0o777, 0o700);
            fs::write(made.join("step-1"), "x").expect("written");
        }
        assert_eq!(count(&base), 1);
        assert!(remove(&folder).expect("removed"));
        assert_eq!((of(&folder), count(&base)), (Memory::Never, 0));
    }

    #[test]
    fn what_is_gone_is_not_taken_for_what_never_was() {
        let (_root, dirs, base) = node();
        let folder = dirs.attempt(at(1).0, at(1).1);
        make(&base, &dirs, at(1)).expect("made");
        fs::write(folder.join(GONE), "").expect("written");
        assert_eq!(of(&folder), Memory::Gone, "its removal has begun");
        assert!(end(&folder).expect("it ends"));
        assert_eq!((of(&folder), count(&base)), (Memory::Gone, 0));
        assert!(!end(&folder).expect("nothing is left"));
        // The machine has booted again, and a file has the name now.
        let made = make(&base, &dirs, at(1)).expect("made");
        let outer = made.parent().expect("it has one");
        fs::remove_dir_all(outer).expect("removed");
        assert_eq!(of(&folder), Memory::Gone);
        symlink(&base, outer).expect("linked");
        assert_eq!(of(&folder), Memory::Gone, "not ours");
        fs::remove_file(outer).expect("removed");
        assert!(is_named(&folder) && end(&folder).expect("it ends"));
        assert!(!is_named(&folder));
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
        assert_eq!(of(&dirs.attempt(at(1).0, at(1).1)), Memory::Never);
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
