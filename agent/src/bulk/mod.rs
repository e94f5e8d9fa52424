//! Output of the ranks on its way to the leader: pushed as it grows, from where the leader has stored it, over one stream.
//! Does NOT poll, does NOT keep output itself (the keepers' files do), and forgets a log only when all of it is kept elsewhere.

mod cleaning;
mod dumps;
mod log;
mod stream;

use std::path::PathBuf;

use mlctl_proto::ids::{Epoch, JobId};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::dirs::{Dirs, attempts_on_disk};
use crate::link::Leader;
pub(crate) use cleaning::clean;
pub(crate) use dumps::collect as collect_dumps;
use log::Logs;

/// News that may wait.
const QUEUE: usize = 4_096;
/// In an attempt's log folder: everything of it is kept elsewhere.
pub(crate) const STORED: &str = ".stored";

/// What happened to logs on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogNews {
    /// Bytes were added.
    Grew {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// The rank.
        rank: u32,
    },
    /// The rank has ended and so has its log.
    Ended {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// The rank.
        rank: u32,
        /// Bytes that the disk refused.
        dropped: u64,
    },
    /// Nobody writes the logs of this attempt any more.
    AllEnded {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
    },
}

/// Where news of logs go.
#[derive(Debug, Clone)]
pub struct Bulk {
    news: mpsc::Sender<LogNews>,
}

impl Bulk {
    /// A handle, and what [`run`] takes.
    pub fn new() -> (Self, mpsc::Receiver<LogNews>) {
        let (news, receiver) = mpsc::channel(QUEUE);
        (Self { news }, receiver)
    }

    /// Tells what happened. Waits while the queue is full, which only the disk of this node can cause.
    pub async fn tell(&self, news: LogNews) {
        // The receiver is gone only when the agent ends.
        let _ = self.news.send(news).await;
    }
}

/// Pushes logs for ever. `open` says which attempts still write.
pub(crate) async fn run(
    dirs: Dirs,
    open: Vec<(JobId, Epoch)>,
    mut news: mpsc::Receiver<LogNews>,
    mut leader: watch::Receiver<Option<Leader>>,
) {
    let mut logs = Logs::default();
    for key in attempts_on_disk(&dirs) {
        let folder = dirs.logs(key.0, key.1);
        if !folder.join(STORED).exists() {
            logs.find(key, &folder, !open.contains(&key));
        }
    }
    loop {
        let now = leader.borrow_and_update().clone();
        let Some(now) = now else {
            tokio::select! {
                changed = leader.changed() => if changed.is_err() { return },
                event = news.recv() => match event {
                    Some(event) => take(&dirs, &mut logs, event),
                    None => return,
                },
            }
            continue;
        };
        match stream::push(&dirs, &mut logs, &mut news, &mut leader, now).await {
            stream::Ended::Agent => return,
            stream::Ended::Leader => {}
            stream::Ended::Broken(why) => {
                warn!(why, "the stream for logs is gone; it is opened again");
                // The leader may be gone too: its own connection says so at once, otherwise this is a pause between tries.
                let pause = std::time::Duration::from_millis(200);
                let _ = tokio::time::timeout(pause, leader.changed()).await;
            }
        }
    }
}

/// Takes in one piece of news.
fn take(dirs: &Dirs, logs: &mut Logs, news: LogNews) {
    match news {
        LogNews::Grew { job, epoch, rank } => {
            logs.grew((job, epoch, rank), dirs.log(job, epoch, rank))
        }
        LogNews::Ended {
            job,
            epoch,
            rank,
            dropped,
        } => {
            logs.ended((job, epoch, rank), dirs.log(job, epoch, rank), dropped);
        }
        LogNews::AllEnded { job, epoch } => logs.find((job, epoch), &dirs.logs(job, epoch), true),
    }
}

/// Marks the logs of an attempt as stored, so that the next start passes them over.
fn mark_stored(folder: PathBuf) {
    if let Err(error) = std::fs::write(folder.join(STORED), b"") {
        warn!(folder = %folder.display(), %error, "cannot note that these logs are stored; the next start asks for them again");
    }
}
