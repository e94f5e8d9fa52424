//! A rank between fork and exec: own session, dies with the keeper, no new privileges, nothing of ours left open.
//!
//! No cgroup in this release: there are no limits on memory or processors, and devices are hidden by a variable, not by the kernel
//! (the agent reports `isolation: none`).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, getppid, setgid, setgroups, setsid, setuid};

/// Signals that a daemon's parent may have had ignored, which exec would pass on.
const RESET: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGPIPE,
    Signal::SIGCHLD,
    Signal::SIGTSTP,
];

/// Highest descriptor that is closed one by one where the kernel cannot close a range.
const DESCRIPTORS_MAX: i32 = 65_536;

/// Another user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
}

/// What a rank is before it becomes its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    /// The keeper: the rank must not outlive it.
    pub(super) keeper: Pid,
    /// `None`: stay who the keeper is.
    pub(super) identity: Option<Identity>,
    /// The limit of open files that the keeper raised for itself: (soft, hard).
    pub(super) open_files: Option<(u64, u64)>,
}

/// Makes `command` start as `setup` says.
pub(super) fn prepare(command: &mut Command, setup: Setup) {
    // SAFETY: the closure runs in the forked child of a process with one thread, and calls system calls only: it neither allocates nor
    // takes a lock. What it reads was made before the fork.
    unsafe {
        command.pre_exec(move || enter(&setup));
    }
}

/// In the child. The order matters: groups before the user, the death signal after the user (a change of user clears it).
pub(super) fn enter(setup: &Setup) -> io::Result<()> {
    setsid()?;
    for kind in RESET {
        // SAFETY: sets the default action: no handler of ours can run in the child.
        unsafe { signal(kind, SigHandler::SigDfl) }?;
    }
    SigSet::empty().thread_set_mask()?;
    close_all_on_exec()?;
    if let Some((soft, hard)) = setup.open_files {
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if let Some(identity) = &setup.identity {
        setgroups(&identity.groups)?;
        setgid(identity.gid)?;
        setuid(identity.uid)?;
    }
    umask(Mode::from_bits_truncate(0o027));
    control(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    // The keeper may have died before the kernel was told to watch it.
    if getppid() != setup.keeper {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Every descriptor above standard error goes at exec, not before: the pipe by which a failing exec is told lies among them.
fn close_all_on_exec() -> io::Result<()> {
    // SAFETY: takes three integers and touches no memory.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return Ok(());
    }
    // Linux before 5.11.
    for fd in 3..DESCRIPTORS_MAX {
        // SAFETY: sets a flag of a descriptor, or fails because there is none.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// One `prctl` that takes an integer.
pub(super) fn control(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take integers and touch no memory of ours; what they do not use must be 0.
    let done = unsafe { libc::prctl(option, value, zero, zero, zero) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
