//! Starting one keeper: is the directory one of ours, the start itself, and its word that it is there.
//! Does NOT fork (see `warm`) and does NOT wait for a keeper's end.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlctl_proto::ids::{Epoch, JobId};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use super::LauncherConfig;
use super::warm::Warm;
use crate::keeper;

/// From the start of a keeper to its word that it takes connections.
const READY_DEADLINE: Duration = Duration::from_secs(4);
/// The longest word that a keeper may have.
const WORD_BYTES_MAX: usize = 4 * 1024;

/// Has the keeper of `attempt_dir` started and waits until it takes connections.
///
/// # Errors
/// One sentence for people.
pub(super) fn keeper(
    config: &LauncherConfig,
    warm: &Warm,
    attempt_dir: &str,
) -> Result<u32, String> {
    let dir = checked(&config.data_dir, Path::new(attempt_dir))?;
    let log = dir.join("keeper.log");
    let errors = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&log);
    let errors = errors.map_err(|e| format!("cannot write {}: {e}", log.display()))?;
    let (ours, theirs) =
        pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("cannot make a pipe: {}", e.desc()))?;
    let pid = warm.keeper(&dir, &theirs, &errors)?;
    drop(theirs);
    // Not waited for here: it lives on, and the warm keeper takes its end.
    match word_of(ours) {
        Ok(word) if word == keeper::READY => Ok(pid),
        Ok(word) if word.is_empty() => Err(format!(
            "the keeper ended at once; {} may say why",
            log.display()
        )),
        Ok(word) => Err(word),
        Err(why) => {
            // It holds no ranks yet: those start on an agent's word.
            kill_keeper(pid, &dir);
            Err(format!("the keeper did not come up: {why}"))
        }
    }
}

/// Kills `pid` if it is the keeper of `dir`, and nobody else's process by now.
fn kill_keeper(pid: u32, dir: &Path) {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_it = words
        .split(|b| *b == 0)
        .any(|word| word == dir.as_os_str().as_bytes());
    if is_it && let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The directory without links, if it is an attempt's: `<data_dir>/jobs/<job>/<epoch>`.
pub(super) fn checked(data_dir: &Path, attempt_dir: &Path) -> Result<PathBuf, String> {
    let refused = |why: &str| format!("no keeper is started in {}: {why}", attempt_dir.display());
    let canonical = |path: &Path| {
        path.canonicalize()
            .map_err(|e| refused(&format!("{}: {e}", path.display())))
    };
    if !attempt_dir.is_absolute() {
        return Err(refused("it is not an absolute path"));
    }
    let jobs = canonical(&data_dir.join("jobs"))?;
    let real = canonical(attempt_dir)?;
    let inside = real
        .strip_prefix(&jobs)
        .map_err(|_| refused(&format!("it is not inside {}", jobs.display())))?;
    let mut words = inside.iter().map(|word| word.to_str().unwrap_or_default());
    let job = words
        .next()
        .is_some_and(|word| word.parse::<JobId>().is_ok());
    let epoch = words
        .next()
        .is_some_and(|word| word.parse::<Epoch>().is_ok());
    if !job || !epoch || words.next().is_some() {
        return Err(refused("it is not the directory of an attempt"));
    }
    if !real.is_dir() {
        return Err(refused("it is not a directory"));
    }
    Ok(real)
}

/// The first line that the keeper writes, or all of it when it ends before.
fn word_of(pipe: OwnedFd) -> Result<String, String> {
    let mut pipe = File::from(pipe);
    let deadline = Instant::now() + READY_DEADLINE;
    let mut word = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!(
                "nothing came from it within {} s",
                READY_DEADLINE.as_secs()
            ));
        }
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        let count = pipe.read(&mut buffer).map_err(|e| e.to_string())?;
        word.extend_from_slice(&buffer[..count]);
        let line = word.iter().position(|b| *b == b'\n');
        if count == 0 || line.is_some() || word.len() > WORD_BYTES_MAX {
            word.truncate(line.unwrap_or(word.len()));
            return Ok(String::from_utf8_lossy(&word).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_directories_of_attempts_are_taken() {
        let root = tempfile::tempdir().expect("dir");
        let data = root.path().join("data");
        let at = |path: &str| data.join(path);
        for dir in [
            "jobs/1/1",
            "jobs/1/2/work",
            "jobs/1/checkpoints",
            "jobs/2-3/2-1",
            "other/1/1",
        ] {
            std::fs::create_dir_all(at(dir)).expect("made");
        }
        std::fs::write(at("jobs/1/7"), "a file").expect("written");
        symlink(at("other/1/1"), at("jobs/1/9")).expect("link");
        symlink(at("jobs/1/1"), root.path().join("door")).expect("link");
        for good in [
            at("jobs/1/1"),
            at("jobs/2-3/2-1"),
            at("jobs/1/2/../1"),
            root.path().join("door"),
        ] {
            let real = checked(&data, &good).expect("good");
            assert!(real.starts_with(at("jobs")), "{}", real.display());
        }
        for bad in [
            at("jobs"),
            at("jobs/1"),
            at("jobs/1/checkpoints"),
            at("jobs/1/2/work"),
            at("jobs/1/7"),
            at("jobs/1/8"),
            at("jobs/1/9"),
            at("jobs/../other/1/1"),
            at("other/1/1"),
            "/".into(),
            "/etc".into(),
            "jobs/1/1".into(),
            "".into(),
            "/proc/self/cwd".into(),
        ] {
            assert!(checked(&data, &bad).is_err(), "{}", bad.display());
        }
    }
}
