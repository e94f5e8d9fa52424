//! Processes of an attempt that are no children of its keeper, found by the `MLCTL_ATTEMPT_DIR` in their environment: what is left after a
//! keeper was killed, and the ranks of an MPI job.
//!
//! A process that wiped its environment is not found: that takes a cgroup.

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

/// What every MPI gives its ranks and nobody else.
const MPI_RANK: [&[u8]; 3] = [b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK=", b"PMIX_RANK="];

/// Ends the ranks of an MPI job on this node, which are no children of a keeper: TERM, also for one that is stopped. Returns how many had it.
/// `mpirun` would pass TERM on too, and kill them a second or two later.
pub(super) fn terminate_mpi_ranks(attempt_dir: &str) -> u32 {
    let wanted = [b"MLCTL_ATTEMPT_DIR=", attempt_dir.as_bytes()].concat();
    let is_rank = |environ: &[u8]| {
        let mut variables = environ.split(|b| *b == 0);
        let own = variables.clone().any(|variable| variable == wanted);
        own && variables.any(|variable| MPI_RANK.iter().any(|rank| variable.starts_with(rank)))
    };
    signal_all(is_rank, &[libc::SIGTERM, libc::SIGCONT])
}

fn kill_round(wanted: &[u8]) -> u32 {
    let of_attempt = |environ: &[u8]| environ.split(|b| *b == 0).any(|one| one == wanted);
    signal_all(of_attempt, &[libc::SIGKILL])
}

/// Sends these signals to every process but this one whose environment is `right`, and returns how many had them.
fn signal_all(right: impl Fn(&[u8]) -> bool, signals: &[i32]) -> u32 {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = std::process::id().cast_signed();
    let mut told = 0;
    for pid in pids.filter(|pid| *pid != own) {
        // The handle first, then the question: a process that takes over the id in between is not the one that we hold.
        if let Some(handle) = open(pid)
            && fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| right(&environ))
            && signals.iter().all(|signal| send(&handle, *signal))
        {
            told += 1;
        }
    }
    told
}

fn open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: takes two integers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send(handle: &OwnedFd, signal: i32) -> bool {
    // SAFETY: the third argument may be null, which means the signal's default details; nothing else is a pointer.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            handle.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    done == 0
}
