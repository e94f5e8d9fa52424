//! The disk under the data directory: how much is free, and the reserve that is given up when nothing else is left.
//!
//! A thread of its own measures ten times a second, because a disk fills faster than people notice. What the numbers
//! mean is decided in `vitals::space`; what is refused because of them in `vitals::admission`.
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;

use crate::config::DiskConfig;
use crate::vitals::space::{self, Limits, Reserve, Room};

/// In the data directory.
const NAME: &str = "reserve";
/// Between two measurements.
const EVERY: Duration = Duration::from_millis(100);

/// How full the disk is, as last measured. Clones share it.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<Measured>);

#[derive(Debug)]
struct Measured {
    dir: PathBuf,
    limits: Limits,
    free: AtomicU64,
    level: AtomicU8,
    stop: AtomicBool,
}

/// The thread that measures; ends with this value.
#[derive(Debug)]
pub struct Disk {
    gauge: Gauge,
    thread: Option<JoinHandle<()>>,
}

impl Gauge {
    /// The level.
    pub fn room(&self) -> Room {
        match self.0.level.load(Ordering::Relaxed) {
            0 => Room::Enough,
            1 => Room::Low,
            _ => Room::Short,
        }
    }

    /// Bytes free.
    pub fn free(&self) -> u64 {
        self.0.free.load(Ordering::Relaxed)
    }

    /// What this member wants of the disk.
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    fn show(&self, free: u64, room: Room) {
        let level = match room {
            Room::Enough => 0,
            Room::Low => 1,
            Room::Short => 2,
        };
        self.0.free.store(free, Ordering::Relaxed);
        self.0.level.store(level, Ordering::Relaxed);
    }
}

impl Disk {
    /// Measures the disk under `dir`, gives up or allocates the reserve, and goes on doing so. Comes first of all that
    /// opens something there: a log cannot be opened on a full disk.
    ///
    /// # Errors
    /// When the disk cannot be measured, or the system has no thread to give.
    pub fn open(dir: &Path, config: &DiskConfig, dev: bool) -> io::Result<Self> {
        let about = statvfs(dir)?;
        let total = bytes(about.blocks(), about.fragment_size());
        let gauge = Gauge(Arc::new(Measured {
            dir: dir.to_owned(),
            limits: config.limits(dev, total),
            free: AtomicU64::new(0),
            level: AtomicU8::new(0),
            stop: AtomicBool::new(false),
        }));
        let mut work = Work {
            held: is_held(&dir.join(NAME), gauge.limits().reserve),
            gauge: gauge.clone(),
            room: Room::Enough,
            failing: false,
        };
        work.measure();
        let thread = std::thread::Builder::new()
            .name("disk".into())
            .spawn(move || work.run())?;
        Ok(Self {
            gauge,
            thread: Some(thread),
        })
    }

    /// What is measured.
    pub fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.gauge.0.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to report.
            let _ = thread.join();
        }
    }
}

struct Work {
    gauge: Gauge,
    held: bool,
    room: Room,
    /// The last measurement or allocation failed, which was said.
    failing: bool,
}

impl Work {
    fn run(mut self) {
        while !self.gauge.0.stop.load(Ordering::Acquire) {
            std::thread::park_timeout(EVERY);
            self.measure();
        }
    }

    fn measure(&mut self) {
        let dir = self.gauge.dir().to_owned();
        let free = match statvfs(&dir) {
            Ok(about) => bytes(about.blocks_available(), about.fragment_size()),
            Err(error) => return self.failed("measure the disk", &error.into()),
        };
        let limits = self.gauge.limits();
        let (room, action) = space::judge(free, limits, self.held, self.room);
        let path = dir.join(NAME);
        let room = match action {
            Reserve::Keep => {
                self.failing = false;
                room
            }
            Reserve::Release => {
                match release(&path) {
                    Ok(()) => self.held = false,
                    Err(error) => self.failed("give up the reserve", &error),
                }
                room
            }
            Reserve::Hold => match allocate(&path, limits.reserve) {
                Ok(()) => {
                    self.held = true;
                    room
                }
                Err(error) => {
                    self.failed("allocate the reserve", &error);
                    // Without it there is nothing to fall back on.
                    room.max(Room::Low)
                }
            },
        };
        self.gauge.show(free, room);
        if room != self.room {
            self.say(free, room);
            self.room = room;
        }
    }

    fn say(&self, free: u64, room: Room) {
        let (dir, limits) = (self.gauge.dir().display(), self.gauge.limits());
        match room {
            Room::Enough => {
                tracing::info!(%dir, free, mark = limits.mark, "there is enough disk space again");
            }
            Room::Low => {
                tracing::warn!(%dir, free, mark = limits.mark, "disk space is low: a cluster that needs this member takes no new jobs");
            }
            Room::Short => {
                tracing::warn!(%dir, free, reserve = limits.reserve, "the disk is nearly full: the reserve is given up for what ends work");
            }
        }
    }

    fn failed(&mut self, doing: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(dir = %self.gauge.dir().display(), %error, "cannot {doing}");
        }
    }
}

// The widths of these numbers differ between platforms.
#[allow(clippy::useless_conversion)]
fn bytes(blocks: nix::libc::fsblkcnt_t, size: nix::libc::c_ulong) -> u64 {
    u64::from(blocks).saturating_mul(u64::from(size))
}

/// Whether the reserve is there, whole and really allocated.
fn is_held(path: &Path, reserve: u64) -> bool {
    use std::os::unix::fs::MetadataExt;
    let about = fs::metadata(path);
    about.is_ok_and(|about| about.len() >= reserve && about.blocks() * 512 >= reserve)
}

fn release(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Some file systems give blocks back only when the removal is on disk.
    sync_parent(path)
}

fn allocate(path: &Path, reserve: u64) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let length = i64::try_from(reserve).map_err(io::Error::other)?;
    let allocated = posix_fallocate(&file, 0, length).map_err(io::Error::from);
    let allocated = allocated.and_then(|()| file.sync_all());
    if allocated.is_err() {
        // A part of a reserve only takes space away. It is said by the caller that there is none.
        let _ = fs::remove_file(path);
    }
    allocated?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_really_allocated_and_really_given_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = DiskConfig {
            reserve_mib: Some(1),
            mark_mib: Some(2),
            logs_mib: None,
        };
        let path = dir.path().join(NAME);
        let disk = Disk::open(dir.path(), &config, true).expect("opens");
        assert_eq!(
            disk.gauge().room(),
            Room::Enough,
            "a machine that can build has 3 MiB left"
        );
        assert!(is_held(&path, 1 << 20));
        drop(disk);
        // A sparse file of the same length is no reserve.
        File::create(&path)
            .and_then(|file| file.set_len(1 << 20))
            .expect("sparse");
        assert!(!is_held(&path, 1 << 20));
        let disk = Disk::open(dir.path(), &config, true).expect("opens again");
        assert!(is_held(&path, 1 << 20));
        drop(disk);
        release(&path).expect("given up");
        assert!(!path.exists());
        release(&path).expect("twice does no harm");
    }

    #[test]
    fn a_disk_below_its_mark_is_low_from_the_first_moment() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = DiskConfig {
            reserve_mib: Some(1),
            // More than any disk has.
            mark_mib: Some(1 << 40),
            logs_mib: None,
        };
        let disk = Disk::open(dir.path(), &config, false).expect("opens");
        assert_eq!(disk.gauge().room(), Room::Low);
        assert!(
            !dir.path().join(NAME).exists(),
            "there is no room for a reserve"
        );
    }
}
