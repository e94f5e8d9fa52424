//! What goes of attempts that are over: their work directories after a while, their logs when they are too many, the oldest first.
//! Only what the coordinators have is touched: an attempt counts as over when its logs are marked as kept elsewhere. Checkpoints stay.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::STORED;
use crate::config::Keep;
use crate::dirs::{Dirs, attempts_on_disk};
use crate::ram;

/// Between two looks.
const EACH: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3_600);
/// So long an attempt stays whole in any case: somebody may be looking at it.
const FRESH: Duration = Duration::from_secs(600);

/// One attempt that is over.
#[derive(Debug)]
struct Over {
    folder: PathBuf,
    logs: PathBuf,
    work: PathBuf,
    since: Duration,
    log_bytes: u64,
}

/// Looks every now and then, for ever.
pub(crate) async fn clean(dirs: Dirs, keep: Keep) {
    loop {
        let dirs = dirs.clone();
        let look = tokio::task::spawn_blocking(move || sweep(&dirs, keep, SystemTime::now()));
        match look.await {
            Ok(Ok((0, 0))) => {}
            Ok(Ok((works, logs))) => {
                info!(works, logs, "old work directories and logs were removed")
            }
            Ok(Err(error)) => warn!(%error, "old attempts cannot be removed"),
            // A panic was reported where it happened.
            Err(_) => {}
        }
        tokio::time::sleep(EACH).await;
    }
}

/// How many work directories and how many attempts' logs went.
fn sweep(dirs: &Dirs, keep: Keep, now: SystemTime) -> io::Result<(usize, usize)> {
    let mut over: Vec<Over> = attempts_on_disk(dirs)
        .into_iter()
        .filter_map(|(job, epoch)| {
            let logs = dirs.logs(job, epoch);
            let marked = fs::metadata(logs.join(STORED)).and_then(|about| about.modified());
            Some(Over {
                since: now.duration_since(marked.ok()?).unwrap_or_default(),
                folder: dirs.attempt(job, epoch),
                work: dirs.work(job, epoch),
                log_bytes: bytes_in(&logs),
                logs,
            })
        })
        .filter(|attempt| attempt.since >= FRESH)
        .collect();
    over.sort_by_key(|attempt| std::cmp::Reverse(attempt.since));
    let work_for = HOUR.saturating_mul(u32::try_from(keep.work_hours).unwrap_or(u32::MAX));
    let mut works = 0;
    for attempt in over.iter().filter(|attempt| attempt.since >= work_for) {
        works += usize::from(removed(&attempt.work)?);
        // Gone long ago, unless that failed.
        ram::end(&attempt.folder)?;
    }
    let mut logs = 0;
    let mut total: u64 = over.iter().map(|attempt| attempt.log_bytes).sum();
    for attempt in &over {
        if total <= keep.logs_mib.saturating_mul(1 << 20) {
            break;
        }
        total -= attempt.log_bytes;
        // Without its mark an attempt would be asked about again, so the whole of it goes.
        logs += usize::from(removed(&attempt.work)? | removed(&attempt.logs)?);
        ram::remove(&attempt.folder)?;
        removed(&attempt.folder)?;
        // Fails while there are checkpoints or other attempts, as it should.
        let _ = attempt.folder.parent().map(fs::remove_dir);
    }
    Ok((works, logs))
}

/// Whether there was something to remove.
fn removed(folder: &Path) -> io::Result<bool> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{}: {error}", folder.display()),
        )),
    }
}

fn bytes_in(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512));
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use mlctl_proto::ids::{Epoch, JobId};

    use super::*;

    #[test]
    fn only_what_is_kept_elsewhere_goes_and_checkpoints_stay() {
        let root = tempfile::tempdir().expect("dir");
        let dirs = Dirs::new(root.path());
        let now = SystemTime::now();
        let attempt = |job: u32, epoch: u32, hours: Option<u64>| {
            let folder = root.path().join(format!("jobs/{job}/{epoch}"));
            for part in ["work", "logs"] {
                fs::create_dir_all(folder.join(part)).expect("made");
                fs::write(folder.join(part).join("rank-0.log"), vec![1; 256 << 10])
                    .expect("written");
            }
            fs::create_dir_all(root.path().join(format!("jobs/{job}/checkpoints"))).expect("made");
            if let Some(hours) = hours {
                let path = folder.join("logs").join(STORED);
                fs::write(&path, b"").expect("marked");
                let at = now - HOUR * u32::try_from(hours).expect("few");
                let file = fs::File::open(path).expect("opened");
                file.set_modified(at).expect("dated");
            }
        };
        attempt(1, 1, Some(200));
        attempt(2, 1, Some(100));
        attempt(2, 2, None);
        attempt(3, 1, Some(10));
        attempt(4, 1, Some(0));
        let base = root.path().join("ram");
        fs::create_dir(&base).expect("made");
        for job in [1, 3] {
            let at = (JobId::new(1, job), Epoch::new(1, 1));
            ram::make(&base, &dirs, at).expect("made");
        }
        let in_memory = || fs::read_dir(&base).expect("read").count();
        let there = |path: &str| root.path().join("jobs").join(path).exists();
        let keep = |work_hours, logs_mib| Keep {
            work_hours,
            logs_mib,
        };
        let sweep = |keep| sweep(&dirs, keep, now).expect("swept");
        assert_eq!(sweep(Keep::default()), (2, 0));
        assert!(!there("1/1/work") && !there("2/1/work") && there("3/1/work"));
        assert!(there("1/1/logs") && there("2/2/work"));
        assert_eq!(in_memory(), 1, "goes with the work directory");
        assert_eq!(sweep(keep(1_000, 1)), (0, 0));
        assert_eq!(sweep(keep(1_000, 0)), (0, 3));
        assert!(!there("1/1") && !there("2/1") && !there("3/1"));
        assert!(there("2/2/logs") && there("4/1/work") && there("4/1/logs"));
        assert!(there("1/checkpoints"));
        assert_eq!(in_memory(), 0, "goes with the attempt");
    }
}
