//! The warm keeper: a process that has started as a keeper does and waits for attempts; for each it forks a keeper, which begins at once.
//! Starting the whole program anew for every attempt would take several milliseconds of a processor, most of them for the loader.
//!
//! Its parent, the launcher, asks over a socket that is its standard input: one datagram per attempt with the directory, the launcher's
//! pipe and the attempt's log. It ends with its launcher; the keepers live on. It does NOT check whether an attempt may be kept: the
//! launcher did.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getppid, setsid};

use super::terms::Terms;
use super::{cage, room};
use crate::cgroup::count;

/// The longest path of an attempt's directory.
pub(crate) const DIR_BYTES_MAX: usize = 4_096;
/// What the launcher hands over with a directory: its pipe, which becomes standard output, and the log, which becomes standard error.
pub(crate) const DESCRIPTORS: usize = 2;
/// After so long without an order it sees to a group for the next keeper, milliseconds.
const REST_MS: u8 = 60;
/// A word of its command line that means nothing: its room is where a keeper writes what it is, for people who look at processes.
pub(crate) const ROOM: usize = 512;

/// What came from the launcher.
struct Order {
    attempt_dir: Vec<u8>,
    pipe: OwnedFd,
    log: OwnedFd,
}

/// Forks keepers until the launcher is gone. Must be called from the main thread of a process that has no other. Returns the exit code of
/// the process: of this one, or, in a keeper, of that.
pub fn run(mut terms: Terms) -> i32 {
    // It was started through a descriptor, whose number would be its short name; keepers inherit this one.
    let _ = std::fs::write("/proc/self/comm", "mlctl-keeper");
    let signals = match take_signals() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "the warm keeper cannot take signals");
            return 70;
        }
    };
    let launcher = io::stdin();
    let mut keepers = BTreeMap::new();
    // Somebody was born in the group in which processes are counted: the next ones should have another.
    let mut used = false;
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(launcher.as_fd(), PollFlags::POLLIN),
        ];
        let patience = if used {
            PollTimeout::from(REST_MS)
        } else {
            PollTimeout::NONE
        };
        match poll(&mut fds, patience) {
            Ok(0) => {
                used = false;
                move_on(&mut terms, &keepers);
                continue;
            }
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => {
                tracing::error!(%error, "the warm keeper cannot wait");
                return 70;
            }
        }
        let asked = fds[1].any().unwrap_or(true);
        while let Ok(Some(_)) = signals.read_signal() {
            take_ends(&terms, &mut keepers);
        }
        if !asked {
            continue;
        }
        let order = match receive(launcher.as_fd()) {
            Ok(Some(order)) => order,
            // The launcher is gone, or no launcher.
            Ok(None) => {
                count::leave(&terms.cgroups, &terms.count);
                return 0;
            }
            Err(error) => {
                tracing::error!(%error, "the warm keeper cannot hear its launcher");
                return 70;
            }
        };
        match fork_for(order, launcher.as_fd(), &terms) {
            Forked::Keeper(order) => {
                drop(signals);
                return keep(order, &terms);
            }
            Forked::Warm(child, kept) => {
                keepers.insert(child, kept);
                used = true;
            }
            Forked::None => {}
        }
    }
}

/// Who goes on after a fork.
enum Forked {
    /// The new process.
    Keeper(Order),
    /// This one, with a keeper more.
    Warm(Pid, Kept),
    /// This one; it could not be done, and the launcher knows.
    None,
}

/// Forks a keeper and tells the launcher.
fn fork_for(order: Order, launcher: BorrowedFd, terms: &Terms) -> Forked {
    // SAFETY: this process has one thread, so the child is whole: no lock is held by a thread that it lacks.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => Forked::Keeper(order),
        Ok(ForkResult::Parent { child }) => {
            answer(launcher, &child.to_string());
            let attempt_dir = PathBuf::from(OsStr::from_bytes(&order.attempt_dir));
            let count = terms.count.clone();
            Forked::Warm(child, Kept { attempt_dir, count })
        }
        Err(error) => {
            answer(
                launcher,
                &format!("cannot start a keeper: {}", error.desc()),
            );
            Forked::None
        }
    }
}

fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// The next keeper is born in a group of its own. To enter one holds all cgroups of the machine up for many milliseconds, which neither the
/// attempt that was just begun nor one that is on its way should wait for: those that come in quick succession share a group and its bound.
fn move_on(terms: &mut Terms, keepers: &BTreeMap<Pid, Kept>) {
    let before = terms.count.clone();
    if let Err(error) = terms.enter_next() {
        tracing::error!(%error, "the processes of the next attempt are not counted on their own");
    }
    if !keepers.values().any(|kept| kept.count == before) {
        count::remove(&terms.cgroups, &before);
    }
}

/// A keeper that was forked.
struct Kept {
    attempt_dir: PathBuf,
    /// The group in which its processes are counted.
    count: String,
}

/// Takes the ends of keepers, and sees to what they left.
fn take_ends(terms: &Terms, keepers: &mut BTreeMap<Pid, Kept>) {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR | Errno::EINVAL) => continue,
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(status) => status,
        };
        let Some(kept) = status.pid().and_then(|pid| keepers.remove(&pid)) else {
            continue;
        };
        let well = matches!(status, WaitStatus::Exited(_, 0));
        if !well {
            tracing::warn!(?status, "a keeper ended");
        }
        if well && !room::is_there(&kept.attempt_dir) {
            count::remove(&terms.cgroups, &kept.count);
            continue;
        }
        // In a process of its own: what does not end at once keeps no attempt waiting.
        // SAFETY: this process has one thread, so the child is whole.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                clear(terms, &kept);
                std::process::exit(0);
            }
            Ok(ForkResult::Parent { .. }) => {}
            Err(error) => {
                tracing::error!(error = error.desc(), "what a keeper left is not cleared")
            }
        }
    }
}

/// Ends what a keeper left, and removes its groups and its ranks' own folders.
fn clear(terms: &Terms, kept: &Kept) {
    cage::clear(&terms.cgroups, &kept.attempt_dir);
    count::remove(&terms.cgroups, &kept.count);
    room::remove(&kept.attempt_dir);
}

/// The next order; `None`: there is no launcher any more, or it sent nonsense, which is the same.
fn receive(launcher: BorrowedFd) -> io::Result<Option<Order>> {
    let mut bytes = [0; DIR_BYTES_MAX];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([RawFd; DESCRIPTORS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(launcher.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel just gave us these descriptors; nobody else owns them.
            descriptors.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    let count = message.bytes;
    let mut descriptors = descriptors.into_iter();
    Ok(match (descriptors.next(), descriptors.next()) {
        (Some(pipe), Some(log)) if count > 0 => Some(Order {
            attempt_dir: bytes[..count].to_vec(),
            pipe,
            log,
        }),
        _ => None,
    })
}

fn answer(launcher: BorrowedFd, word: &str) {
    if let Err(error) = send(
        launcher.as_raw_fd(),
        word.as_bytes(),
        MsgFlags::MSG_NOSIGNAL,
    ) {
        tracing::warn!(%error, "the launcher did not hear what became of a keeper");
    }
}

/// In the forked process: becomes the keeper of one attempt.
fn keep(order: Order, terms: &Terms) -> i32 {
    if let Err(error) = settle(&order) {
        // Still on the log of the warm keeper, or already on its own.
        tracing::error!(%error, "a keeper cannot begin");
        return 70;
    }
    let dir = Path::new(OsStr::from_bytes(&order.attempt_dir)).to_owned();
    drop(order);
    let warm = getppid();
    let code = super::run(&dir, terms);
    if getppid() != warm {
        // Nobody is there who would see to it. It may take a while.
        count::leave(&terms.cgroups, &terms.count);
        room::remove(&dir);
    }
    code
}

/// Its own session, so that a signal to the launcher's process group does not reach it, its own standard streams, its own name.
fn settle(order: &Order) -> io::Result<()> {
    setsid()?;
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(&order.pipe)?;
    dup2_stderr(&order.log)?;
    name(&[b"mlctl", b"keeper", &order.attempt_dir]);
    Ok(())
}

/// Writes what this process is over its command line, as far as there is room.
fn name(words: &[&[u8]]) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may hold anything; what counts stands behind the last `)`. The bounds are fields 48 and 49 of all.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut bounds = fields.split_whitespace().skip(45).map(str::parse::<usize>);
    let (Some(Ok(start)), Some(Ok(end))) = (bounds.next(), bounds.next()) else {
        return;
    };
    let text = words.join(&0);
    let room = end.saturating_sub(start);
    if start == 0 || room < ROOM || text.len() >= room {
        return;
    }
    let area = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel says that the words of our command line lie from `start` to `end`, which is memory of this process that lives as
    // long as it does and may be written. Nobody else uses it: the standard library copies words when it is asked for them, and this
    // process has one thread. The last byte stays 0.
    unsafe {
        area.write_bytes(0, room);
        area.copy_from_nonoverlapping(text.as_ptr(), text.len());
    }
}
