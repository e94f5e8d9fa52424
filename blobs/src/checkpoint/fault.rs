//! Places where a process that is told so is killed, or finds the disk full, for the tests that do it everywhere: `kill:7` in
//! `MLCTL_BLOBS_FAULT` dies as by `kill -9` before the seventh change of the disk, `full:7` fails the seventh write and every later one.
//! Only builds with debug assertions listen; in the others a step is nothing at all. Does NOT know what is tested.
use std::io;

/// What a step does to the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Needs room.
    Write,
    /// Does not.
    Other,
}

#[cfg(debug_assertions)]
pub(super) fn step(step: Step) -> io::Result<()> {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static ARMED: OnceLock<Option<(bool, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let read = || {
        let text = std::env::var("MLCTL_BLOBS_FAULT").ok()?;
        let (what, number) = text.split_once(':')?;
        Some((what == "kill", number.parse().ok()?))
    };
    let Some((kill, number)) = *ARMED.get_or_init(read) else {
        return Ok(());
    };
    if !kill && step != Step::Write {
        return Ok(());
    }
    let passed = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if kill && passed == number {
        // Nothing of this process runs after it: no buffer is flushed, nothing is dropped.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort();
    }
    if !kill && passed >= number {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Nothing: this build has no faults.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(super) fn step(_: Step) -> io::Result<()> {
    Ok(())
}
