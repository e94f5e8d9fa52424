//! What is said over the supervisor's socket: one JSON value a line, one answer each. Also the client's half.
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// What a command asks of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Which processes are there.
    Status,
    /// Read the layout again and start everything that is down.
    Heal,
    /// Start what was killed.
    Start {
        /// A node or a coordinator.
        name: String,
    },
    /// Kill it as a power cut would; it stays down.
    Kill {
        /// A node or a coordinator.
        name: String,
    },
    /// End everything, the supervisor last.
    Stop,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done,
    /// Not done, and why.
    Refused(String),
    /// The processes.
    Processes(Vec<Process>),
}

/// A process of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// coordinator, agent, launcher or keeper.
    pub role: String,
    /// Of the coordinator or node; a keeper's is `NODE/JOB.ATTEMPT`.
    pub name: String,
    /// 0: not running.
    pub pid: i32,
    /// Where it is reached.
    pub address: String,
}

/// The supervisor's socket in `dir`.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("supervisor.sock")
}

/// Asks the supervisor of `dir`; `None` when there is none.
pub fn ask(dir: &Path, ask: &Ask) -> Result<Option<Answer>, Failure> {
    let Ok(mut stream) = UnixStream::connect(socket(dir)) else {
        return Ok(None);
    };
    let timeout = Some(Duration::from_secs(30));
    stream
        .set_read_timeout(timeout)
        .map_err(Failure::internal)?;
    stream
        .set_write_timeout(timeout)
        .map_err(Failure::internal)?;
    let mut line = serde_json::to_vec(ask).map_err(Failure::internal)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(Failure::internal)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(Failure::internal)?;
    serde_json::from_str(&answer)
        .map(Some)
        .map_err(Failure::internal)
}

/// Asks and expects it done.
pub fn order(dir: &Path, what: &Ask) -> Result<(), Failure> {
    match ask(dir, what)? {
        Some(Answer::Refused(why)) => Err(Failure::usage(why)),
        Some(_) => Ok(()),
        None => Err(not_running(dir)),
    }
}

/// Ends the cluster in `dir` and waits until its supervisor, the last of its processes, has ended too.
pub fn stop(dir: &Path) -> Result<(), Failure> {
    order(dir, &Ask::Stop)?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while locked(dir) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The file that a supervisor holds locked as long as its process lives.
pub fn lock_file(dir: &Path) -> PathBuf {
    dir.join("supervisor.lock")
}

fn locked(dir: &Path) -> bool {
    let file = std::fs::File::open(lock_file(dir));
    file.is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}

/// No supervisor answers in `dir`.
pub fn not_running(dir: &Path) -> Failure {
    Failure::not_found(format!(
        "no dev cluster runs in {}; start one: mlctl dev --detach",
        dir.display()
    ))
}
