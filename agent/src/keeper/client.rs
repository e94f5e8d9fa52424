//! The agent's end of a keeper's socket.
//!
//! Does NOT start keepers (see `launcher::client`) and keeps no state: after a lost connection, `connect` again and read the status.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::protocol::{FromKeeper, MESSAGE_BYTES_MAX, Status, ToKeeper, common, oldest, speaks};
use super::version;
use crate::failpoint;
use crate::launch::wire::{Decoder, WireError, encode};

/// From dialling to the keeper's status.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// What was sent just before the connection was dropped gets this long to leave.
const HANG_UP_DEADLINE: Duration = Duration::from_secs(1);
/// Messages in flight either way. A keeper coalesces what it cannot send.
const QUEUE: usize = 256;

/// Why an agent does not reach a keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No process listens: the keeper has ended or was never started. What it wrote down, [`super::read_exits`] tells.
    #[error("no keeper answers at {}: {source}", path.display())]
    Gone {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not answer in time. It may still be there.
    #[error("the keeper at {} does not answer within {} s", path.display(), CONNECT_DEADLINE.as_secs())]
    Silent {
        /// Its socket.
        path: PathBuf,
    },
    /// It takes connections and closed this one: too many at once, or it is just ending. Ask again.
    #[error("the keeper at {} closed the connection: {source}", path.display())]
    Closed {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It speaks a protocol that this release does not.
    #[error("the keeper at {} speaks protocol {protocol}, this agent {}", path.display(), version::own())]
    Protocol {
        /// Its socket.
        path: PathBuf,
        /// What it speaks.
        protocol: u32,
    },
    /// It sent something that is no message.
    #[error("the keeper at {} sent nonsense: {why}", path.display())]
    Nonsense {
        /// Its socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl KeeperError {
    /// Is it certain that no keeper runs there?
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// A connection to a keeper. The newest agent wins: an older connection is closed by the keeper.
#[derive(Debug)]
pub struct Connection {
    /// Everything that happened before.
    pub status: Status,
    /// The version that both speak.
    pub protocol: u32,
    /// To the keeper. Dropping it closes the connection and stops nothing; what was sent before still arrives.
    pub sender: mpsc::Sender<ToKeeper>,
    /// From the keeper. Closed: the keeper is gone, unless `AllEnded` came before.
    pub receiver: mpsc::Receiver<FromKeeper>,
}

/// Connects to the keeper of `attempt_dir` and reads its status.
///
/// # Errors
/// [`KeeperError::Gone`] when no keeper runs there; the others leave it open.
pub async fn connect(attempt_dir: &Path) -> Result<Connection, KeeperError> {
    let path = attempt_dir.join(super::SOCKET);
    let dialled = async {
        let own = version::own();
        match dial(attempt_dir, &path, own).await {
            // A keeper of the release before knows only its own version.
            Err(KeeperError::Nonsense { .. }) if oldest(own) < own => {
                dial(attempt_dir, &path, oldest(own)).await
            }
            dialled => dialled,
        }
    };
    match timeout(CONNECT_DEADLINE, dialled).await {
        Ok(result) => result,
        Err(_) => Err(KeeperError::Silent { path }),
    }
}

async fn dial(attempt_dir: &Path, path: &Path, protocol: u32) -> Result<Connection, KeeperError> {
    let gone = |source| KeeperError::Gone {
        path: path.to_owned(),
        source,
    };
    let closed = |source| KeeperError::Closed {
        path: path.to_owned(),
        source,
    };
    let nonsense = |why: String| KeeperError::Nonsense {
        path: path.to_owned(),
        why,
    };
    let short = super::socket_dir::ShortPath::open(attempt_dir, super::SOCKET).map_err(gone)?;
    let stream = UnixStream::connect(short.path()).await.map_err(gone)?;
    let (mut reader, mut writer) = stream.into_split();
    let hello = encode(&ToKeeper::Hello { protocol }, MESSAGE_BYTES_MAX)
        .map_err(|e| nonsense(e.to_string()))?;
    writer.write_all(&hello).await.map_err(closed)?;
    let mut decoder = Decoder::new(MESSAGE_BYTES_MAX);
    let first = match read(&mut reader, &mut decoder).await {
        Ok(Some(message)) => message,
        Ok(None) => return Err(closed(io::ErrorKind::UnexpectedEof.into())),
        Err(Broken::Io(error)) => return Err(closed(error)),
        Err(Broken::Wire(error)) => return Err(nonsense(error.to_string())),
    };
    let (protocol, status) = match first {
        FromKeeper::Hello { protocol, status } if speaks(version::own(), protocol) => {
            (common(version::own(), protocol), status)
        }
        FromKeeper::Hello { protocol, .. } => {
            return Err(KeeperError::Protocol {
                path: path.to_owned(),
                protocol,
            });
        }
        FromKeeper::Refused { why } => return Err(nonsense(why)),
        other => return Err(nonsense(format!("{other:?} before its hello"))),
    };
    let (sender, outgoing) = mpsc::channel(QUEUE);
    let (incoming, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(pump(
        reader,
        decoder,
        writer,
        outgoing,
        incoming,
        path.to_owned(),
    ));
    Ok(Connection {
        status,
        protocol,
        sender,
        receiver,
    })
}

enum Broken {
    Io(io::Error),
    Wire(WireError),
}

/// The next message; `None`: the keeper closed the connection. Safe to cancel: bytes that were read stay in the decoder.
async fn read(
    reader: &mut OwnedReadHalf,
    decoder: &mut Decoder,
) -> Result<Option<FromKeeper>, Broken> {
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(message) = decoder.next().map_err(Broken::Wire)? {
            return Ok(Some(message));
        }
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(None),
            Ok(count) => decoder.push(&buffer[..count]),
            Err(error) => return Err(Broken::Io(error)),
        }
    }
}

/// Carries messages until either side closes.
async fn pump(
    mut reader: OwnedReadHalf,
    mut decoder: Decoder,
    writer: OwnedWriteHalf,
    outgoing: mpsc::Receiver<ToKeeper>,
    incoming: mpsc::Sender<FromKeeper>,
    path: PathBuf,
) {
    let mut writing = tokio::spawn(write_all(writer, outgoing));
    loop {
        let message = tokio::select! {
            message = read(&mut reader, &mut decoder) => message,
            () = incoming.closed() => {
                // What the agent said before it hung up still goes out.
                let _ = timeout(HANG_UP_DEADLINE, &mut writing).await;
                break;
            }
        };
        match message {
            Ok(Some(message)) => {
                if incoming.send(message).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(Broken::Io(error)) => {
                tracing::debug!(path = %path.display(), %error, "connection to a keeper ended");
                break;
            }
            Err(Broken::Wire(error)) => {
                tracing::warn!(path = %path.display(), %error, "a keeper sent nonsense; connection closed");
                break;
            }
        }
    }
    writing.abort();
}

/// Ends when the agent drops its sender or the keeper closes; the reading half notices the latter.
async fn write_all(mut writer: OwnedWriteHalf, mut outgoing: mpsc::Receiver<ToKeeper>) {
    while let Some(message) = outgoing.recv().await {
        match encode(&message, MESSAGE_BYTES_MAX) {
            Ok(bytes) => {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
                match message {
                    ToKeeper::Go { .. } => failpoint::hit("go.given"),
                    ToKeeper::Stop { .. } => failpoint::hit("stop.given"),
                    _ => {}
                }
            }
            Err(error) => tracing::error!(%error, "a message to a keeper cannot be sent"),
        }
    }
}
