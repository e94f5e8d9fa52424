//! One connection of an agent, as the keeper sees it: never blocks, and is dropped when the other side misbehaves or does not read.
//! Carries messages; does NOT know what they mean.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

use super::protocol::{FromKeeper, MESSAGE_BYTES_MAX, ToKeeper};
use crate::launch::wire::{Decoder, encode};

/// What waits for an agent that does not read. More than every message but `LogGrew` of a full node, and of that only one is in it.
const OUTBOX_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;

/// Reads before others get their turn.
const READS_PER_TURN: usize = 16;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    outbox: Vec<u8>,
    /// It cannot be used any more.
    pub(super) broken: bool,
}

/// The next connection that waits, if its peer is us or root.
pub(super) fn accept(listener: &UnixListener) -> Option<Connection> {
    let (stream, _) = match listener.accept() {
        Ok(accepted) => accepted,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            return None;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            return None;
        }
    };
    let peer = match getsockopt(&stream, PeerCredentials) {
        Ok(credentials) => credentials.uid(),
        Err(error) => {
            tracing::warn!(%error, "cannot tell who connects; refused");
            return None;
        }
    };
    if peer != 0 && peer != geteuid().as_raw() {
        tracing::warn!(uid = peer, "a stranger connects; refused");
        return None;
    }
    if let Err(error) = stream.set_nonblocking(true) {
        tracing::warn!(%error, "cannot use a connection");
        return None;
    }
    Some(Connection {
        stream,
        decoder: Decoder::new(MESSAGE_BYTES_MAX),
        outbox: Vec::new(),
        broken: false,
    })
}

impl Connection {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Is there something that the socket did not take yet?
    pub(super) fn is_full(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Puts a message on its way.
    pub(super) fn send(&mut self, message: &FromKeeper) {
        if self.broken {
            return;
        }
        match encode(message, MESSAGE_BYTES_MAX) {
            Ok(bytes) => self.outbox.extend_from_slice(&bytes),
            Err(error) => {
                tracing::error!(%error, "a message to the agent cannot be sent");
                self.broken = true;
            }
        }
        self.flush();
        if self.outbox.len() > OUTBOX_BYTES_MAX {
            tracing::warn!("the agent does not read; connection closed");
            self.broken = true;
        }
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) {
        while !self.broken && !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(0) => self.broken = true,
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.broken = true,
            }
        }
    }

    /// Reads what there is. An end or nonsense breaks the connection; what came before it still counts.
    pub(super) fn receive(&mut self) -> Vec<ToKeeper> {
        let mut buffer = [0; 16 * 1024];
        let mut messages = Vec::new();
        for _ in 0..READS_PER_TURN {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.broken = true;
                    return messages;
                }
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return messages,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.broken = true;
                    return messages;
                }
            }
            loop {
                match self.decoder.next() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "a connection sent nonsense; closed");
                        self.broken = true;
                        return messages;
                    }
                }
            }
        }
        messages
    }
}
