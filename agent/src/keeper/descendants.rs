//! What the ranks left behind: double-forked, detached, stopped. As subreaper the keeper inherits every orphan below it, so whatever is
//! left becomes its child sooner or later, and only its own children are ever signalled: nobody else can reap them, so no process id
//! can have passed to a stranger.

use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How a child ended: its id, exit code, signal (0: it exited).
pub(super) type Ended = (Pid, i32, i32);

/// The children of this process.
#[derive(Debug, Default)]
pub(super) struct Reaped {
    /// Those that ended since the last call.
    pub(super) ended: Vec<Ended>,
    /// Are there others?
    pub(super) more: bool,
}

/// Takes the ends of all children that have one.
pub(super) fn reap() -> Reaped {
    take_all(|| ())
}

/// The same; with the end of a child for which `leads` holds its process group ends too.
pub(super) fn reap_groups(leads: impl Fn(Pid) -> bool) -> Reaped {
    take_all(|| {
        if let Some(pid) = next_end().filter(|pid| leads(*pid)) {
            // It was not reaped yet, so the id is still that of its group. None left is as good.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    })
}

fn take_all(before_each: impl Fn()) -> Reaped {
    let mut reaped = Reaped::default();
    loop {
        before_each();
        let mut status = 0;
        // Not through the safe wrapper: it loses the process id when a real-time signal ended the child.
        // SAFETY: `status` outlives the call and is the one integer that it writes.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            0 => {
                reaped.more = true;
                return reaped;
            }
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return reaped,
            pid if libc::WIFEXITED(status) => {
                reaped
                    .ended
                    .push((Pid::from_raw(pid), libc::WEXITSTATUS(status), 0))
            }
            pid if libc::WIFSIGNALED(status) => {
                reaped
                    .ended
                    .push((Pid::from_raw(pid), 0, libc::WTERMSIG(status)))
            }
            _ => {}
        }
    }
}

/// The child whose end would be taken next.
fn next_end() -> Option<Pid> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` outlives the call, which writes all of it or leaves the zeroes.
    let done = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) };
    // SAFETY: zeroes are a value of it, and so is what the call wrote; of a child's end the id is the part that holds.
    let pid = unsafe { info.assume_init().si_pid() };
    (done == 0 && pid > 0).then(|| Pid::from_raw(pid))
}

/// Kills every child. What they leave behind becomes a child of ours: call again until [`reap`] finds none.
pub(super) fn kill_children() {
    for pid in children() {
        // Gone already is as good.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// The direct children of this process, from the kernel's list or, where it keeps none, from everybody's parent.
fn children() -> Vec<Pid> {
    let own = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/self/task/{own}/children"));
    if let Ok(text) = text {
        return text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .map(Pid::from_raw)
            .collect();
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(own))
        .map(Pid::from_raw)
        .collect()
}

/// The parent of a process.
pub(crate) fn parent_of(pid: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also `)`: what counts stands behind the last one.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_read_from_the_kernel() {
        assert_eq!(
            parent_of(std::process::id() as i32),
            Some(nix::unistd::getppid().as_raw() as u32)
        );
        assert_eq!(parent_of(-1), None);
    }
}
