//! The answering end: one UDP socket with a key of its own. It says nothing but that somebody is there, and that only to who has the key.
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::ProbePort;
use super::packet::{PACKET_BYTES, answer_to};

/// After an error.
const PAUSE: Duration = Duration::from_millis(10);
/// Questions answered before others get their turn.
const PER_TURN: usize = 32;

/// A socket that answers.
#[derive(Debug)]
pub struct Answering {
    socket: UdpSocket,
    own: ProbePort,
}

impl Answering {
    /// A new socket with a new key, on every address of the node: which one others reach it by is theirs to know.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn bind() -> io::Result<Self> {
        let any = [
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        ];
        // Where there is no IPv6 the second one is taken.
        let socket = UdpSocket::bind(&any[..])?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        let key = rand::random();
        Ok(Self {
            socket,
            own: ProbePort { port, key },
        })
    }

    /// Where it answers.
    pub fn port(&self) -> ProbePort {
        self.own
    }

    /// Answers what has come. What is no question of somebody with the key is dropped.
    pub fn serve(&self) {
        let mut buffer = [0; PACKET_BYTES + 1];
        for _ in 0..PER_TURN {
            match self.socket.recv_from(&mut buffer) {
                Ok((count, from)) => {
                    if let Some(answer) = answer_to(&self.own.key, &buffer[..count]) {
                        // Lost answers are asked for again.
                        let _ = self.socket.send_to(&answer, from);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An earlier answer could not be delivered: nobody waits for it any more.
                Err(_) => {}
            }
        }
    }

    /// Answers for as long as the agent lives.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub async fn serve_for_ever(self) -> io::Result<()> {
        let socket = tokio::net::UdpSocket::from_std(self.socket)?;
        let mut buffer = [0; PACKET_BYTES + 1];
        loop {
            let Ok((count, from)) = socket.recv_from(&mut buffer).await else {
                // Of an earlier answer that could not be delivered, or worse: then this shall not keep a core busy.
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            if let Some(answer) = answer_to(&self.own.key, &buffer[..count]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    }
}

impl AsFd for Answering {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
