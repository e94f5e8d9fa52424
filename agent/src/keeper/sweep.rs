//! After a keeper was killed: its ranks died with it, but what they had started may live on. Finds and kills such processes by the
//! `MLCTL_ATTEMPT_DIR` in their environment.
//!
//! For attempts without a keeper only. A process that wiped its environment is not found: that takes a cgroup.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Passes over the process table: killing one may leave others that it was just starting.
const PASSES: u32 = 10;

/// Kills every process whose environment names `attempt_dir`, and returns how many. Reads all of `/proc`: not for the runtime's threads.
pub fn kill_leftovers(attempt_dir: &Path) -> u32 {
    let wanted = [b"MLCTL_ATTEMPT_DIR=", attempt_dir.as_os_str().as_bytes()].concat();
    let mut killed = 0;
    for _ in 0..PASSES {
        let round = kill_round(&wanted);
        if round == 0 {
            break;
        }
        killed += round;
    }
    killed
}

fn kill_round(wanted: &[u8]) -> u32 {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = std::process::id().cast_signed();
    let mut killed = 0;
    for pid in pids.filter(|pid| *pid != own) {
        // The handle first, then the question: a process that takes over the id in between is not the one that we hold.
        if let Some(handle) = open(pid)
            && names(pid, wanted)
            && kill(&handle)
        {
            killed += 1;
        }
    }
    killed
}

fn names(pid: i32, wanted: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|b| *b == 0)
            .any(|variable| variable == wanted)
    })
}

fn open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: takes two integers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn kill(handle: &OwnedFd) -> bool {
    // SAFETY: the third argument may be null, which means the signal's default details; nothing else is a pointer.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            handle.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    done == 0
}
