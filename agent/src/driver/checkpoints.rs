//! Follows the checkpoints of an attempt and tells the core which are complete.
//! Does NOT decide: what is complete is the rules' word, what is news the core's.

use std::sync::Arc;

use mlctl_proto::spec::parse_json;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::Context;
use super::prepare::START;
use crate::checkpoints::follow::{Follow, FollowError, began_ns, look_once};
use crate::checkpoints::seal::Life;
use crate::checkpoints::track::{News, Terms};
use crate::core::{CheckpointFound, Event, Start};

/// The word that all ranks have ended, and where to say that their checkpoints have been told.
type Ending = (Life, oneshot::Sender<()>);

/// The task that follows them; it ends when this is dropped. Without one they are looked at when the attempt ends.
#[derive(Default)]
pub(super) struct Checkpoints {
    endings: Option<mpsc::Sender<Ending>>,
}

impl Checkpoints {
    /// Follows those of this attempt. With `rescan` what is there already is reported before this returns.
    pub(super) async fn follow(context: &Arc<Context>, start: &Arc<Start>, rescan: bool) -> Self {
        let dir = context.dirs.checkpoints(start.job);
        let (follow, news) = match Follow::begin(&dir, terms(context, start), rescan).await {
            Ok(begun) => begun,
            Err(error) => {
                warn!(job = %start.job, %error, "checkpoints cannot be watched; they are found when the attempt ends");
                return Self::default();
            }
        };
        tell(context, start, news).await;
        let (endings, ended) = mpsc::channel(1);
        tokio::spawn(run(context.clone(), start.clone(), follow, ended));
        Self {
            endings: Some(endings),
        }
    }

    /// All ranks have ended like that: reports what is complete now.
    pub(super) async fn end(&self, context: &Arc<Context>, start: &Arc<Start>, life: Life) {
        if let Some(endings) = &self.endings {
            let (told, done) = oneshot::channel();
            if endings.send((life, told)).await.is_ok() && done.await.is_ok() {
                return;
            }
        }
        let (dir, terms) = (context.dirs.checkpoints(start.job), terms(context, start));
        let looking = tokio::task::spawn_blocking(move || look_once(&dir, terms, life));
        // A panic was reported where it happened; the attempt ends all the same.
        let news = looking.await.unwrap_or_default();
        tell(context, start, news).await;
    }
}

async fn run(
    context: Arc<Context>,
    start: Arc<Start>,
    mut follow: Follow,
    mut endings: mpsc::Receiver<Ending>,
) {
    loop {
        let (news, told) = tokio::select! {
            ending = endings.recv() => match ending {
                Some((life, told)) => (follow.end(life).await, Some(told)),
                None => return,
            },
            seen = follow.wait() => (look(&mut follow, seen).await, None),
        };
        match news {
            Ok(news) => tell(&context, &start, news).await,
            Err(error) => {
                warn!(job = %start.job, %error, "checkpoints are not watched any more; they are found when the attempt ends");
                return;
            }
        }
        if let Some(told) = told {
            // Who asked may have gone on.
            let _ = told.send(());
        }
    }
}

async fn look(
    follow: &mut Follow,
    seen: Result<Vec<crate::checkpoints::watch::Seen>, FollowError>,
) -> Result<Vec<News>, FollowError> {
    follow.look(seen?).await
}

fn terms(context: &Context, start: &Start) -> Terms {
    // A spec that cannot be read has one rank as far as anybody knows; preparing says what is wrong with it.
    let ranks = parse_json(&start.spec).map_or(1, |spec| spec.ranks_per_node());
    let first = start.node_rank.saturating_mul(ranks);
    let began = context.dirs.attempt(start.job, start.epoch).join(START);
    Terms {
        ranks: first..first.saturating_add(ranks),
        nodes: u32::try_from(start.members.len())
            .unwrap_or(u32::MAX)
            .max(1),
        began_ns: began_ns(&began),
    }
}

async fn tell(context: &Context, start: &Start, news: Vec<News>) {
    let (job, epoch) = (start.job, start.epoch);
    for news in news {
        match news {
            News::Sealed {
                name,
                step,
                by,
                by_rescan,
            } => {
                info!(%job, %epoch, name, step, ?by, "a checkpoint is complete");
                let found = CheckpointFound {
                    job,
                    epoch,
                    name,
                    step,
                    by_rescan,
                };
                context.tell(Event::Checkpoint(found)).await;
            }
            News::Rewritten { name, file } => {
                warn!(%job, %epoch, name, file, "a complete checkpoint was written to: it is judged anew");
            }
            News::Unfinished { name, why } => {
                info!(%job, %epoch, name, %why, "this is not a complete checkpoint");
            }
        }
    }
}
