//! Disks of a test's own whose power can be cut: an ext4 file system on a loop device each, stopped dead by ext4's shutdown ioctl.
//! Does NOT lose what reached the device: the loop device is a disk without a cache of its own.
//!
//! What is lost is everything that only the page cache and the open journal transaction knew, which is what a process that
//! never syncs relies on. The ioctl's flag says not to flush the log, so no last commit hides a missing sync.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::tool;

const TOOLS: [&str; 4] = ["mkfs.ext4", "mount", "umount", "python3"];

/// A file of every disk, written and not synced just before its power is cut: it must not be there afterwards.
const LAZY: &str = "lazy";

/// `_IOR('X', 125, __u32)` with flag 2, no flush of the log, on all mount points at nearly one moment. The file that is to be lost is
/// written last, so that hardly anybody else's sync of the whole machine comes between.
const CUT: &str = "import fcntl, os, struct, sys
all = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
files = [open(path + '/lazy', 'wb', 0) for path in sys.argv[1:]]
for file in files: file.write(b'lazy' * 4096)
for one in all: fcntl.ioctl(one, 0x8004587d, struct.pack('I', 2))
";

/// A mounted disk. It is unmounted when this is dropped; its image lies in the folder that was given.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

/// Why there can be no such disks here, if so.
pub fn obstacle() -> Option<String> {
    if let Some(why) = tool::obstacle(&TOOLS) {
        return Some(why);
    }
    if Path::new("/dev/loop-control").exists() {
        return None;
    }
    Some("there are no loop devices".to_owned())
}

impl Disk {
    /// A disk of `mib` MiB, mounted at `mount`. The image is sparse.
    ///
    /// # Panics
    /// When the system refuses; ask [`obstacle`] first.
    pub fn new(mount: &Path, mib: u64) -> Self {
        let image = mount.with_extension("img");
        let made = fs::create_dir_all(mount)
            .and_then(|()| fs::File::create(&image))
            .and_then(|file| file.set_len(mib << 20));
        made.unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        let lazy = "lazy_itable_init=1,lazy_journal_init=1";
        tool::must(
            "mkfs.ext4",
            &["-q", "-m", "0", "-E", lazy, &image.to_string_lossy()],
            "",
        );
        let disk = Self {
            image,
            mount: mount.to_owned(),
        };
        disk.attach();
        disk
    }

    fn attach(&self) {
        let (image, mount) = (self.image.to_string_lossy(), self.mount.to_string_lossy());
        tool::must("mount", &["-t", "ext4", "-o", "loop", &image, &mount], "");
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Whether the last cut took nothing away: what was written just before it, and not synced, is there.
    fn survived(&self) -> bool {
        fs::read(self.mount.join(LAZY)).is_ok_and(|bytes| !bytes.is_empty())
    }

    /// Takes the file system away and mounts what the device holds, as after a boot: the journal is replayed.
    ///
    /// What is mounted is a copy of the device: a process of somebody else that made itself a mount namespace meanwhile keeps the
    /// dead file system alive, and mounting the same image once more would give that one back.
    ///
    /// # Panics
    /// When somebody still uses it, or what is there cannot be mounted, or the cut before took nothing away.
    pub fn boot(&self) {
        let begun = Instant::now();
        // A process that was killed a moment ago may still be closing its files.
        while let Err(why) = tool::run("umount", &[&self.mount.to_string_lossy()], "") {
            assert!(begun.elapsed() < Duration::from_secs(5), "{why}");
            std::thread::sleep(super::LOOK);
        }
        let (old, new) = (&self.image, self.image.with_extension("copy"));
        let words = [
            "--sparse=always",
            &old.to_string_lossy(),
            &new.to_string_lossy(),
        ];
        tool::must("cp", &words, "");
        fs::rename(&new, old).unwrap_or_else(|error| panic!("{}: {error}", old.display()));
        self.attach();
        let place = self.mount.display();
        assert!(!self.survived(), "{place}: this cut took nothing away");
        // Of an earlier cut, written over: it would tell nothing next time.
        let _ = fs::remove_file(self.mount.join(LAZY));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whatever still holds a file of it is killed by its owner.
        let _ = tool::run("umount", &["-l", &self.mount.to_string_lossy()], "");
    }
}

/// Cuts the power of `disks`: from now on nothing reaches them, and what was not synced is lost.
///
/// # Panics
/// When the kernel does not know how.
pub fn cut_power(disks: &[&Disk]) {
    let paths: Vec<String> = (disks.iter())
        .map(|disk| disk.path().to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = ["-c", CUT]
        .into_iter()
        .chain(paths.iter().map(String::as_str))
        .collect();
    tool::must("python3", &words, "");
}

/// Unmounts whatever is mounted below `dir`, the last mount first: a test that was killed could not.
pub fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts.lines().rev().filter_map(|line| {
        let place = line.split(' ').nth(1)?;
        Path::new(place).starts_with(dir).then_some(place)
    });
    for place in below {
        let _ = tool::run("umount", &["-l", place], "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::skips;
    use std::io::Write;

    fn write(path: &Path, sync: bool) {
        let mut file = fs::File::create(path).expect("made");
        file.write_all(&[7; 8192]).expect("written");
        if sync {
            file.sync_all().expect("synced");
            let folder = fs::File::open(path.parent().expect("it lies in a folder")).expect("open");
            folder.sync_all().expect("synced");
        }
    }

    #[test]
    fn a_cut_loses_what_was_not_synced_and_nothing_else() {
        if let Some(why) = obstacle() {
            return skips::skip(
                "process::disk::a_cut_loses_what_was_not_synced_and_nothing_else",
                &why,
            );
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = Disk::new(&folder.path().join("d"), 64);
        let at = |name: &str| disk.path().join(name);
        write(&at("synced"), true);
        write(&at("unsynced"), false);
        assert_eq!(fs::read(at("unsynced")).expect("still cached").len(), 8192);
        cut_power(&[&disk]);
        assert!(
            fs::write(at("late"), "x").is_err(),
            "a disk without power takes nothing"
        );
        disk.boot();
        assert_eq!(fs::read(at("synced")).expect("durable"), [7; 8192]);
        let left = fs::read(at("unsynced")).unwrap_or_default();
        assert_eq!(left.len(), 0, "it was never synced");
        let mount = disk.path().to_owned();
        drop(disk);
        let mounts = fs::read_to_string("/proc/self/mounts").expect("readable");
        assert!(!mounts.contains(&*mount.to_string_lossy()));
    }
}
