//! The launcher's end of the warm keeper: asks it for a keeper, and starts another one when it is gone.
//! Does NOT decide where a keeper may be started (see `start`).

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use nix::unistd::setsid;

use crate::keeper::terms::{Terms, VARIABLE};
use crate::keeper::warm::ROOM;

/// A warm keeper answers within this, or another one is started.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where keepers come from.
#[derive(Debug)]
pub(super) struct Warm {
    program: File,
    terms: Terms,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    process: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Keepers are not told: they are processes of their own.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Warm {
    /// Starts one from `program`: the open file and not its path, behind which there may be another release later.
    pub(super) fn new(program: File, terms: Terms) -> Self {
        let warm = Self {
            program,
            terms,
            running: Mutex::new(None),
        };
        match warm.begin() {
            Ok(running) => {
                *warm.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running)
            }
            Err(error) => {
                tracing::warn!(%error, "no warm keeper yet; tried again when one is asked for")
            }
        }
        warm
    }

    /// Has a keeper started for `dir` that talks into `pipe` and logs into `log`, and returns its process id.
    ///
    /// # Errors
    /// One sentence for people.
    pub(super) fn keeper(&self, dir: &Path, pipe: &OwnedFd, log: &File) -> Result<u32, String> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(warm) = running.as_mut() {
            match warm.ask(dir, pipe, log) {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::warn!(%error, "the warm keeper is gone; another one is started")
                }
            }
        }
        *running = None;
        let fresh = self
            .begin()
            .map_err(|e| format!("cannot start a keeper: {e}"))?;
        let answer = running.insert(fresh).ask(dir, pipe, log);
        answer.unwrap_or_else(|error| Err(format!("cannot start a keeper: {error}")))
    }

    fn begin(&self) -> io::Result<Running> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.arg0("mlctl").args(["keeper", "--warm"]);
        command.arg("-".repeat(ROOM));
        // Ranks get their environment from the plan; of ours a keeper needs how much to log, and nothing that would start a thread in it.
        command
            .env_clear()
            .envs(std::env::var_os("MLCTL_LOG").map(|filter| ("MLCTL_LOG", filter)))
            .env(VARIABLE, serde_json::to_string(&self.terms)?);
        command.stdin(theirs).stdout(Stdio::null()).current_dir("/");
        // SAFETY: runs in the forked child; `setsid` is one system call that neither allocates nor locks. It keeps a signal to the
        // launcher's process group from ending the warm keeper before the launcher ends.
        unsafe {
            command.pre_exec(|| setsid().map(drop).map_err(io::Error::from));
        }
        let process = command.spawn()?;
        Ok(Running {
            socket: ours,
            process,
        })
    }
}

impl Running {
    /// The outer error: it does not answer. The inner one: it says why there is no keeper.
    fn ask(&self, dir: &Path, pipe: &OwnedFd, log: &File) -> io::Result<Result<u32, String>> {
        let words = [IoSlice::new(dir.as_os_str().as_bytes())];
        let descriptors = [pipe.as_raw_fd(), log.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let socket = self.socket.as_raw_fd();
        sendmsg::<()>(socket, &words, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut fds, patience) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        let mut answer = [0; 512];
        let count = recv(socket, &mut answer, MsgFlags::empty())?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        Ok(answer.parse().map_err(|_| answer))
    }
}
