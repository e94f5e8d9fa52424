//! What of old logs goes when they are too many: whole attempts that are over, the longest quiet ones first. Blocks on the disk.
//!
//! Does NOT decide what is over: the caller knows the state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mlctl_proto::ids::{Epoch, JobId};

/// Younger logs never go: their job may be one that this member has not heard of yet.
const QUIET: Duration = Duration::from_secs(600);

/// The logs of one attempt on the disk.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// When something was added last.
    quiet_since: SystemTime,
    bytes: u64,
    dir: PathBuf,
}

/// Removes logs of attempts for which `is_open` is false until what is left is at most `bytes_max`. How many bytes went.
///
/// # Errors
/// When the directory cannot be read. What cannot be removed stays and is said.
pub fn clean(
    dir: &Path,
    bytes_max: u64,
    now: SystemTime,
    is_open: impl Fn(JobId, Epoch) -> bool,
) -> io::Result<u64> {
    let mut found = Vec::new();
    let mut total: u64 = 0;
    for (job, job_dir) in named::<JobId>(dir)? {
        for (epoch, dir) in named::<Epoch>(&job_dir)? {
            // Whoever removes it at the same time has done our work.
            let Ok((bytes, quiet_since)) = measure(&dir) else {
                continue;
            };
            total = total.saturating_add(bytes);
            let quiet = now.duration_since(quiet_since).unwrap_or_default();
            if quiet >= QUIET && !is_open(job, epoch) {
                found.push(Found {
                    quiet_since,
                    bytes,
                    dir,
                });
            }
        }
    }
    found.sort_unstable_by_key(|found| found.quiet_since);
    let mut gone = 0;
    for old in found {
        if total <= bytes_max {
            break;
        }
        if let Err(error) = fs::remove_dir_all(&old.dir) {
            tracing::warn!(dir = %old.dir.display(), %error, "these old logs cannot be removed");
            continue;
        }
        // The job's directory goes with its last attempt; while there are others this fails, as it should.
        let _ = old.dir.parent().map(fs::remove_dir);
        total = total.saturating_sub(old.bytes);
        gone += old.bytes;
    }
    Ok(gone)
}

/// The entries of `dir` that are named like an id.
fn named<T: std::str::FromStr>(dir: &Path) -> io::Result<Vec<(T, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let named = entries.flatten().filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        Some((id, entry.path()))
    });
    Ok(named.collect())
}

/// Bytes on the disk, and when the newest file was written.
fn measure(dir: &Path) -> io::Result<(u64, SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let mut newest = fs::metadata(dir)?.modified()?;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let about = entry?.metadata()?;
        bytes += about.blocks() * 512;
        newest = newest.max(about.modified()?);
    }
    Ok((bytes, newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(dir: &Path, attempt: &str, kib: usize, age_s: u64, now: SystemTime) {
        let dir = dir.join(attempt);
        fs::create_dir_all(&dir).expect("made");
        let path = dir.join("0_0.open");
        fs::write(&path, vec![1; kib << 10]).expect("written");
        for path in [path, dir] {
            let file = fs::File::open(path).expect("opened");
            let at = now - Duration::from_secs(age_s);
            file.set_modified(at).expect("dated");
        }
    }

    #[test]
    fn the_oldest_that_are_over_go_until_there_is_room() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let now = SystemTime::now();
        for (attempt, age_s) in [
            ("1/1", 9_000),
            ("2/1", 8_000),
            ("2/2", 7_000),
            ("3/1", 6_000),
            ("4/1", 60),
        ] {
            logs(dir.path(), attempt, 64, age_s, now);
        }
        let open = |job: JobId, _| job == JobId::new(1, 1);
        let there = || {
            let all = ["1/1", "2/1", "2/2", "3/1", "4/1"];
            all.map(|attempt| dir.path().join(attempt).exists())
        };
        let cleaned = |most: u64| clean(dir.path(), most, now, open).expect("cleaned");
        assert_eq!(cleaned(1 << 20), 0);
        assert_eq!(there(), [true; 5]);
        assert!(cleaned(300 << 10) >= 64 << 10);
        assert_eq!(there(), [true, false, true, true, true]);
        cleaned(0);
        assert_eq!(there(), [true, false, false, false, true]);
        assert!(!dir.path().join("2").exists());
        assert_eq!(clean(&dir.path().join("none"), 0, now, open).ok(), Some(0));
    }
}
