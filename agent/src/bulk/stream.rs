//! One stream of log pieces to one leader, and its answers. Each log has at most one piece on its way, so nothing piles up.
//! Does NOT choose the leader and does NOT read files.

use std::time::Duration;

use mlctl_proto::agent::bulk_client::BulkClient;
use mlctl_proto::agent::{LogPiece, LogStored};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::MESSAGE_BYTES_MAX;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::log::{Logs, Piece};
use super::{LogNews, mark_stored, take};
use crate::dirs::Dirs;
use crate::failpoint;
use crate::link::Leader;

/// Pieces that may wait for the connection.
const WINDOW: usize = 32;
/// A leader that does not answer a piece for this long is asked again on a new stream.
const ANSWER: Duration = Duration::from_secs(10);

/// Why pushing ended.
pub(super) enum Ended {
    /// The agent ends.
    Agent,
    /// Another leader, or none.
    Leader,
    /// The stream broke.
    Broken(String),
}

pub(super) async fn push(
    dirs: &Dirs,
    logs: &mut Logs,
    news: &mut mpsc::Receiver<LogNews>,
    leader: &mut watch::Receiver<Option<Leader>>,
    now: Leader,
) -> Ended {
    let (pieces, to_wire) = mpsc::channel::<LogPiece>(WINDOW);
    let mut client = BulkClient::new(now.channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    logs.forget_leader();
    let mut opening = Box::pin(async move { client.push_logs(ReceiverStream::new(to_wire)).await });
    let mut answers: Option<tonic::Streaming<LogStored>> = None;
    let mut quiet_until = Instant::now() + ANSWER;
    loop {
        while let Ok(slot) = pieces.try_reserve() {
            let Some(piece) = logs.next() else { break };
            if !piece.probe {
                failpoint::hit("log.sending");
            }
            slot.send(to_message(piece));
        }
        tokio::select! {
            event = news.recv() => match event {
                Some(event) => take(dirs, logs, event),
                None => return Ended::Agent,
            },
            changed = leader.changed() => return if changed.is_err() { Ended::Agent } else { Ended::Leader },
            opened = &mut opening, if answers.is_none() => match opened {
                Ok(response) => answers = Some(response.into_inner()),
                Err(status) => return Ended::Broken(status.message().to_owned()),
            },
            answer = next(&mut answers) => {
                quiet_until = Instant::now() + ANSWER;
                match answer {
                    Ok(Some(answer)) => stored(dirs, logs, answer),
                    Ok(None) => return Ended::Broken("the leader closed it".into()),
                    Err(status) => return Ended::Broken(status.message().to_owned()),
                }
            }
            () = sleep_until(quiet_until) => {
                if logs.waits() {
                    return Ended::Broken("the leader does not answer".into());
                }
                quiet_until = Instant::now() + ANSWER;
            }
        }
    }
}

/// The next answer; pending until the stream is open.
async fn next(
    answers: &mut Option<tonic::Streaming<LogStored>>,
) -> Result<Option<LogStored>, Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

fn stored(dirs: &Dirs, logs: &mut Logs, answer: LogStored) {
    let (Ok(job), Ok(epoch)) = (JobId::try_from(answer.job), Epoch::try_from(answer.epoch)) else {
        tracing::warn!("the leader answered for a log without saying which; it is ignored");
        return;
    };
    let key = (job, epoch, answer.rank);
    let kept = logs.stored(key, answer.offset, answer.end, answer.kept);
    if kept && !logs.has_attempt(job, epoch) {
        failpoint::hit("log.stored");
        mark_stored(dirs.logs(job, epoch));
    }
}

fn to_message(piece: Piece) -> LogPiece {
    let (job, epoch, rank) = piece.key;
    LogPiece {
        job: Some(job.into()),
        epoch: Some(epoch.into()),
        rank,
        offset: piece.offset,
        frames: piece.frames.into(),
        end: piece.end,
        dropped: piece.dropped,
        probe: piece.probe,
        skip: piece.skip,
    }
}
