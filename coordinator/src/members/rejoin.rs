//! The way back for a coordinator whose disk cannot vote any more: a new id, and the question to the others to be let in.
//!
//! It does not copy data and does not vote: the leader sends what the cluster holds, and promotes the new id in the place
//! of the old one when it has caught up. The new id is on disk before anybody hears of it, so a crash on the way goes on
//! where it was.
use std::path::Path;
use std::time::Duration;

use mlctl_proto::peer::peer_client::PeerClient;
use mlctl_proto::peer::{JoinReply, JoinRequest};
use mlctl_runtime::shutdown::Shutdown;
use mlctl_runtime::tls::Dialer;
use tokio::time::Instant;

use super::roster;
use crate::config::{Config, Member};
use crate::consensus::{self, Begin, MemberFileError, Membership};

/// One question to one coordinator.
const TRY: Duration = Duration::from_secs(12);
const CONNECT: Duration = Duration::from_secs(1);
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(500);
/// After this the process ends and says who answered what; whoever started it may start it again.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a coordinator is not let in.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// Its own disk.
    #[error(transparent)]
    Disk(#[from] MemberFileError),
    /// The old index could not be removed.
    #[error("cannot remove {path}: {source}")]
    Index {
        /// Where it lies.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Nobody let it in.
    #[error(
        "no coordinator let this one in within {} s; the last answers: {answers}; a leader with a majority of the voters must run: start the others, then start this one again",
        PATIENCE.as_secs()
    )]
    NotAdmitted {
        /// Name and answer of each.
        answers: String,
    },
    /// It was told to end while it asked.
    #[error("told to end while it asked to be let in")]
    Ended,
}

/// Moves what cannot vote any more aside and draws a new id.
///
/// # Errors
/// What the disk refused.
pub fn begin_anew(config: &Config, raft: &Path, index: &Path) -> Result<u64, RejoinError> {
    if let Some(aside) = consensus::set_aside(raft)? {
        tracing::warn!(aside = %aside.display(), "this directory will not vote again; it is kept for people and may be removed");
    }
    // It is built from the log, and this one is of a log that is gone.
    match std::fs::remove_dir_all(index) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            let path = index.display().to_string();
            return Err(RejoinError::Index { path, source });
        }
        _ => {}
    }
    // Half of the range, so that the id fits every number format that people write it in.
    let id = (rand::random::<u64>() >> 1).max(1);
    let own = config.own().map_or("", |own| own.address.as_str());
    consensus::begin_join(raft, id, &roster::info(&config.name, own))?;
    tracing::warn!(id, "joining again under a new member id");
    Ok(id)
}

/// Asks the other coordinators, again and again, until the leader has let this one in as a learner.
///
/// # Errors
/// See [`RejoinError`].
pub async fn ask(
    config: &Config,
    id: u64,
    dialer: &Dialer,
    shutdown: &Shutdown,
) -> Result<Begin, RejoinError> {
    let deadline = Instant::now() + PATIENCE;
    let others = || config.members.iter().filter(|one| one.name != config.name);
    let request = JoinRequest {
        name: config.name.clone(),
        id,
        address: config
            .own()
            .map(|own| own.address.clone())
            .unwrap_or_default(),
    };
    let mut said = String::new();
    loop {
        let mut answers = Vec::new();
        for other in others() {
            let answer = tokio::select! {
                answer = ask_one(other, &request, dialer) => answer,
                () = shutdown.wait() => return Err(RejoinError::Ended),
            };
            match answer {
                Ok(begin) => return Ok(begin),
                Err(why) => answers.push(format!("{}: {why}", other.name)),
            }
        }
        let answers = answers.join("; ");
        if answers != said {
            tracing::info!(%answers, "not let in yet; asking again");
            said.clone_from(&answers);
        }
        if Instant::now() >= deadline {
            return Err(RejoinError::NotAdmitted { answers });
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.wait() => return Err(RejoinError::Ended),
        }
    }
}

async fn ask_one(other: &Member, request: &JoinRequest, dialer: &Dialer) -> Result<Begin, String> {
    let asked = async {
        let channel = dialer.channel(&other.address, CONNECT).await;
        let channel = channel.map_err(|error| error.to_string())?;
        let answer = PeerClient::new(channel).join(request.clone()).await;
        let reply = answer.map_err(|status| status.message().to_owned())?;
        begin(&reply.into_inner())
    };
    let answered = tokio::time::timeout(TRY, asked).await;
    answered.unwrap_or_else(|_| Err("no answer in time".into()))
}

fn begin(reply: &JoinReply) -> Result<Begin, String> {
    let read = |bytes: &[u8]| {
        Membership::from_bytes(bytes).map_err(|why| format!("its answer cannot be read: {why}"))
    };
    Ok(Begin::Join {
        founders: read(&reply.founders)?,
        members: read(&reply.members)?,
        incarnation: reply.incarnation,
    })
}
