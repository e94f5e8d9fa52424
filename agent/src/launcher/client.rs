//! The agent's end of the launcher's socket: one question per connection, each with a deadline.
//! Does NOT retry: whoever asks knows whether that makes sense.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::protocol::{Answer, Ask, Level, MESSAGE_BYTES_MAX};
use crate::keeper::socket_dir::ShortPath;
use crate::launch::wire::{Decoder, encode};

/// From dialling to the answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a launcher did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// No launcher listens.
    #[error("no launcher answers at {}: {source}; start `mlctl launcher --config …` on this node", path.display())]
    Unreachable {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not answer in time. What it was asked may still happen.
    #[error("the launcher at {} does not answer within {} s", path.display(), DEADLINE.as_secs())]
    Silent {
        /// Its socket.
        path: PathBuf,
    },
    /// It says why it did not.
    #[error("{0}")]
    Failed(String),
    /// It sent something that is no answer to the question.
    #[error("the launcher at {} sent nonsense: {why}", path.display())]
    Nonsense {
        /// Its socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Starts the keeper of `attempt_dir`, whose plan is written, and returns its process id. It takes connections by then.
///
/// # Errors
/// [`LauncherError::Failed`] when no keeper runs; after [`LauncherError::Silent`] one may.
pub async fn start_keeper(socket: &Path, attempt_dir: &Path) -> Result<u32, LauncherError> {
    let Some(attempt_dir) = attempt_dir.to_str() else {
        return Err(LauncherError::Failed(format!(
            "{} is not UTF-8: choose another data directory",
            attempt_dir.display()
        )));
    };
    match ask(
        socket,
        &Ask::StartKeeper {
            attempt_dir: attempt_dir.to_owned(),
        },
    )
    .await?
    {
        Answer::Started { pid } => Ok(pid),
        Answer::Failed { why } => Err(LauncherError::Failed(why)),
        other => Err(nonsense(socket, &other)),
    }
}

/// Ends what is left of the attempt in `attempt_dir`, whose keeper is gone, and returns how many processes were killed one by one.
///
/// # Errors
/// [`LauncherError::Failed`] when a keeper runs there, or something does not die.
pub async fn sweep(socket: &Path, attempt_dir: &Path) -> Result<u32, LauncherError> {
    let attempt_dir = attempt_dir.to_string_lossy().into_owned();
    match ask(socket, &Ask::Sweep { attempt_dir }).await? {
        Answer::Swept { killed } => Ok(killed),
        Answer::Failed { why } => Err(LauncherError::Failed(why)),
        other => Err(nonsense(socket, &other)),
    }
}

/// How well attempts are kept apart on this node, and what is missing.
///
/// # Errors
/// When no launcher answers, or one that does not know.
pub async fn isolation(socket: &Path) -> Result<(Level, Vec<String>), LauncherError> {
    match ask(socket, &Ask::Isolation).await? {
        Answer::Isolation { level, missing } => Ok((level, missing)),
        other => Err(nonsense(socket, &other)),
    }
}

fn nonsense(socket: &Path, answer: &Answer) -> LauncherError {
    LauncherError::Nonsense {
        path: socket.to_owned(),
        why: format!("{answer:?}"),
    }
}

/// Asks whether a launcher is there.
///
/// # Errors
/// When none answers.
pub async fn ping(socket: &Path) -> Result<(), LauncherError> {
    match ask(socket, &Ask::Ping).await? {
        Answer::Pong => Ok(()),
        other => Err(nonsense(socket, &other)),
    }
}

async fn ask(socket: &Path, question: &Ask) -> Result<Answer, LauncherError> {
    match timeout(DEADLINE, exchange(socket, question)).await {
        Ok(result) => result,
        Err(_) => Err(LauncherError::Silent {
            path: socket.to_owned(),
        }),
    }
}

async fn exchange(socket: &Path, question: &Ask) -> Result<Answer, LauncherError> {
    let unreachable = |source| LauncherError::Unreachable {
        path: socket.to_owned(),
        source,
    };
    let nonsense = |why: String| LauncherError::Nonsense {
        path: socket.to_owned(),
        why,
    };
    let dir = socket.parent().unwrap_or(Path::new("/"));
    let name = socket
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let short = ShortPath::open(dir, name).map_err(unreachable)?;
    let mut stream = UnixStream::connect(short.path())
        .await
        .map_err(unreachable)?;
    let bytes = encode(question, MESSAGE_BYTES_MAX).map_err(|e| nonsense(e.to_string()))?;
    stream.write_all(&bytes).await.map_err(unreachable)?;
    let mut decoder = Decoder::new(MESSAGE_BYTES_MAX);
    let mut buffer = [0; 4096];
    loop {
        if let Some(answer) = decoder.next().map_err(|e| nonsense(e.to_string()))? {
            return Ok(answer);
        }
        match stream.read(&mut buffer).await.map_err(unreachable)? {
            0 => return Err(nonsense("it closed without an answer".into())),
            count => decoder.push(&buffer[..count]),
        }
    }
}
