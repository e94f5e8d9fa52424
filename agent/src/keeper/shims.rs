//! The launch agents of this node that wait for an answer: one socket each. Carries words; does NOT know what they mean (see `remote`).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, chown, geteuid};

use super::bound;
use super::protocol::{Answer, Ask};
use super::shim::{MESSAGE_BYTES_MAX, SOCKET};
use crate::launch::wire::{Decoder, encode};

/// Launch agents that may wait at once: one for each other node, with room.
const SHIMS_MAX: usize = 4_096;

/// A launch agent.
#[derive(Debug)]
struct Shim {
    stream: UnixStream,
    decoder: Decoder,
    /// It has asked.
    asked: bool,
}

/// All of this node.
#[derive(Debug)]
pub(super) struct Shims {
    listener: UnixListener,
    waiting: BTreeMap<u64, Shim>,
    next: u64,
    /// Who may ask: the job's user.
    user: Uid,
}

/// What became of looking at a launch agent.
pub(super) enum Heard {
    /// Not all of its question is there.
    Nothing,
    /// Its question.
    Asks(Ask),
    /// It is gone, or talks nonsense.
    Gone,
}

impl Shims {
    /// Opens the socket in `attempt_dir` for processes of `user`.
    ///
    /// # Errors
    /// When that cannot be.
    pub(super) fn open(attempt_dir: &Path, user: Uid) -> io::Result<Self> {
        let listener = bound(attempt_dir, SOCKET)?;
        if user != geteuid() {
            chown(&attempt_dir.join(SOCKET), Some(user), None)?;
        }
        Ok(Self {
            listener,
            waiting: BTreeMap::new(),
            next: 0,
            user,
        })
    }

    /// What to wait for: the listener, and each launch agent by its number.
    pub(super) fn fds(&self) -> (BorrowedFd<'_>, impl Iterator<Item = (u64, BorrowedFd<'_>)>) {
        let waiting = self.waiting.iter();
        let fds = waiting.map(|(number, shim)| (*number, shim.stream.as_fd()));
        (self.listener.as_fd(), fds)
    }

    /// Takes the next one in.
    pub(super) fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        let peer = getsockopt(&stream, PeerCredentials).map(|peer| Uid::from_raw(peer.uid()));
        let welcome = peer.is_ok_and(|peer| peer == self.user || peer.is_root());
        if !welcome || self.waiting.len() >= SHIMS_MAX || stream.set_nonblocking(true).is_err() {
            tracing::warn!("a launch agent is refused: it is not the job's, or there are too many");
            return;
        }
        self.next += 1;
        let shim = Shim {
            stream,
            decoder: Decoder::new(MESSAGE_BYTES_MAX),
            asked: false,
        };
        self.waiting.insert(self.next, shim);
    }

    /// Reads what a launch agent says. It says one thing; after that its end is all that is heard of it.
    pub(super) fn read(&mut self, number: u64) -> Heard {
        let Some(shim) = self.waiting.get_mut(&number) else {
            return Heard::Nothing;
        };
        let mut buffer = [0; 16 * 1024];
        match shim.stream.read(&mut buffer) {
            Ok(count) if count > 0 && !shim.asked => {
                shim.decoder.push(&buffer[..count]);
                match shim.decoder.next() {
                    Ok(Some(ask)) => {
                        shim.asked = true;
                        return Heard::Asks(ask);
                    }
                    Ok(None) => return Heard::Nothing,
                    Err(error) => tracing::warn!(%error, "a launch agent sent nonsense"),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Heard::Nothing,
            Ok(_) | Err(_) => {}
        }
        self.waiting.remove(&number);
        Heard::Gone
    }

    /// Answers a launch agent and lets it go. The answer fits into an empty socket.
    pub(super) fn answer(&mut self, number: u64, answer: &Answer) {
        let Some(mut shim) = self.waiting.remove(&number) else {
            return;
        };
        let sent = encode(answer, MESSAGE_BYTES_MAX)
            .map_err(io::Error::other)
            .and_then(|bytes| shim.stream.write_all(&bytes));
        if let Err(error) = sent {
            tracing::warn!(%error, "a launch agent did not take its answer");
        }
    }
}
