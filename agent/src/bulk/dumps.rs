//! Dumps that PyTorch's flight recorder left in the work directory of an attempt that failed: they are put beside its logs, as logs of
//! their own, so that they leave the node and are kept as those are. Bounded; does NOT look into them.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use mlctl_proto::limits::DUMP_NAME;
use mlctl_proto::logs::{DUMP, DUMP_BYTES_MAX, Frame, encode};
use tracing::{info, warn};

/// Collects what there is. What cannot be collected stays where it is and is said.
pub(crate) fn collect(work: &Path, logs: &Path) {
    match collected(work, logs, DUMP_BYTES_MAX) {
        Ok(0) => {}
        Ok(dumps) => {
            info!(dumps, logs = %logs.display(), "dumps of hung collectives were put beside the logs")
        }
        Err(error) => {
            warn!(work = %work.display(), %error, "dumps of hung collectives cannot be collected; they stay in the work directory")
        }
    }
}

/// How many were collected.
fn collected(work: &Path, logs: &Path, bytes_max: u64) -> io::Result<usize> {
    let entries = match fs::read_dir(work) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let rank = entry
                .file_name()
                .to_str()?
                .strip_prefix(DUMP_NAME)?
                .parse::<u32>()
                .ok()?;
            let about = entry.metadata().ok()?;
            // A link could lead anywhere.
            (about.is_file() && rank < DUMP).then_some((rank, entry.path(), about))
        })
        .collect();
    found.sort_by_key(|(rank, ..)| *rank);
    let (mut left, mut dumps) = (bytes_max, 0);
    for (rank, path, about) in found {
        if about.len() > left {
            warn!(path = %path.display(), bytes = about.len(), "this dump is not collected: a node keeps {bytes_max} bytes of them");
            continue;
        }
        let text = fs::read(&path)?;
        left = left.saturating_sub(text.len() as u64);
        let since = about
            .modified()
            .ok()
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let frame = Frame {
            flags: 0,
            time_ms: since.map_or(0, |since| since.as_millis() as u64),
            text: &text,
        };
        let mut frames = Vec::new();
        encode(frame, &mut frames);
        fs::write(logs.join(format!("rank-{}.log", rank | DUMP)), frames)?;
        dumps += 1;
    }
    Ok(dumps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::logs::decode;

    #[test]
    fn dumps_become_logs_as_far_as_there_is_room() {
        let dir = tempfile::tempdir().expect("dir");
        let (work, logs) = (dir.path().join("work"), dir.path().join("logs"));
        assert_eq!(collected(&work, &logs, 100).ok(), Some(0));
        fs::create_dir_all(&work).expect("made");
        fs::create_dir_all(&logs).expect("made");
        for (name, bytes) in [
            ("nccl-trace-rank-0", 60),
            ("nccl-trace-rank-1", 50),
            ("nccl-trace-rank-7", 40),
            ("nccl-trace-rank-x", 1),
            ("nccl-trace-rank-4294967295", 1),
            ("train.py", 1),
        ] {
            fs::write(work.join(name), vec![7; bytes]).expect("written");
        }
        std::os::unix::fs::symlink("/etc/passwd", work.join("nccl-trace-rank-2")).expect("linked");
        assert_eq!(collected(&work, &logs, 100).ok(), Some(2));
        let mut names: Vec<_> = fs::read_dir(&logs)
            .expect("listed")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["rank-2147483648.log", "rank-2147483655.log"]);
        let bytes = fs::read(logs.join("rank-2147483655.log")).expect("read");
        let (frame, used) = decode(&bytes).expect("sound").expect("a frame");
        assert_eq!((frame.text, used), (&[7; 40][..], bytes.len()));
    }
}
