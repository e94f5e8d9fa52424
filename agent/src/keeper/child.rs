//! A rank between fork and exec: own session, dies with the keeper, no privileges and no way to new ones, nothing of ours left open.
//!
//! Its cgroup it has entered by then (see `spawn`). Devices are hidden by a variable, not by the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

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

/// More than any kernel knows.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// Another user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
}

/// What a rank is before it becomes its program.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// The keeper: the rank must not outlive it.
    pub(super) keeper: Pid,
    /// `None`: stay who the keeper is.
    pub(super) identity: Option<Identity>,
    /// The limit of open files that the keeper raised for itself: (soft, hard).
    pub(super) open_files: Option<(u64, u64)>,
    /// The mounts that the ranks of the attempt share; `None`: the keeper's own.
    pub(super) room: Option<Arc<OwnedFd>>,
}

impl Setup {
    /// As `keeper` itself.
    pub(super) fn of(keeper: Pid) -> Self {
        Self {
            keeper,
            identity: None,
            open_files: None,
            room: None,
        }
    }
}

/// In the child: system calls only, nothing is allocated and no lock is taken. The order matters: privileges to drop privileges are
/// dropped last, groups before the user, the death signal after the user (a change of user clears it).
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
    drop_bounding_set()?;
    if let Some(identity) = &setup.identity {
        setgroups(&identity.groups)?;
        setgid(identity.gid)?;
        setuid(identity.uid)?;
    }
    drop_capabilities()?;
    umask(Mode::from_bits_truncate(0o027));
    control(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    // The keeper may have died before the kernel was told to watch it.
    if getppid() != setup.keeper {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// No program that this process becomes can have a capability, not even one that root runs.
fn drop_bounding_set() -> io::Result<()> {
    // A kernel that does not know the option has no such sets.
    let _ = control(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
    );
    for capability in 0..CAPABILITIES_MAX {
        match control(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // The last one that the kernel knows has been dropped.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            // Not privileged: it has none, and `no_new_privs` keeps it so.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What root keeps over a change of nothing, and what others would hand on.
fn drop_capabilities() -> io::Result<()> {
    /// `struct __user_cap_header_struct`.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [[0u32; 3]; 2];
    // SAFETY: both outlive the call; version 3 reads two triples.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
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
