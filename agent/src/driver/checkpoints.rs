//! Follows the checkpoints of an attempt and has those sealed that are complete.
//! Does NOT decide: what is complete is the rules' word, what is news the core's.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::parse_json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::notify::{Notify, Said};
use super::place::{Kind, Place, looked_at};
use super::prepare::START;
use super::restart::read_start;
use super::sealing::{Complete, Seals};
use super::{Context, Input};
use crate::checkpoints::follow::{Follow, FollowError, began_ns, look_once, look_once_at};
use crate::checkpoints::seal::{Life, QUIET_MS};
use crate::checkpoints::track::{News, Terms};
use crate::core::Start;
use crate::keeper::read_exits;
use crate::link::copies::{SealPart, part_gone};

/// Words that may wait for the task that follows.
const WORDS: usize = 64;

/// Another node completed a checkpoint, and this one has nothing of it so long after it heard of that: it will have nothing.
const NOTHING_AFTER: Duration = Duration::from_millis(QUIET_MS);

/// What the task that follows is told.
enum Word {
    /// All ranks have ended like that; where to say that their checkpoints have been told.
    Ended(Life, oneshot::Sender<()>),
    /// Another node completed a checkpoint.
    SealPart(SealPart),
}

/// The task that follows them; it ends when this is dropped. Without one they are looked at when the attempt ends.
#[derive(Default)]
pub(super) struct Checkpoints {
    words: Option<mpsc::Sender<Word>>,
}

impl Checkpoints {
    /// Follows those of this attempt. With `rescan` what is there already is reported.
    pub(super) async fn follow(context: &Arc<Context>, start: &Arc<Start>, rescan: bool) -> Self {
        let Some(place) = looked_at(context, start).await else {
            return Self::default();
        };
        let dir = &place.dir;
        let terms = terms(context, start, &place);
        let (follow, news) = match Follow::begin(dir, terms, rescan).await {
            Ok(begun) => begun,
            Err(error) => {
                warn!(job = %start.job, %error, "checkpoints cannot be watched; they are found when the attempt ends");
                return Self::default();
            }
        };
        let seals = Seals::new(context.clone(), start.clone());
        tell(&seals, start, news).await;
        let (words, heard) = mpsc::channel(WORDS);
        let following = Following {
            start: start.clone(),
            follow,
            seals,
            asked: Vec::new(),
            notify: bind(context, start, dir),
        };
        tokio::spawn(following.run(heard));
        Self { words: Some(words) }
    }

    /// All ranks have ended like that: reports what is complete now. What takes long to seal is reported later.
    pub(super) async fn end(&self, context: &Arc<Context>, start: &Arc<Start>, life: Life) {
        let life = Place::of(&context.dirs, start).life(start, life);
        if let Some(words) = &self.words {
            let (told, done) = oneshot::channel();
            if words.send(Word::Ended(life, told)).await.is_ok() && done.await.is_ok() {
                return;
            }
        }
        let Some(place) = looked_at(context, start).await else {
            return;
        };
        let terms = terms(context, start, &place);
        let looking = tokio::task::spawn_blocking(move || look_once(&place.dir, terms, life));
        // A panic was reported where it happened; the attempt ends all the same.
        let news = looking.await.unwrap_or_default();
        let seals = Seals::new(context.clone(), start.clone());
        tell(&seals, start, news).await;
        seals.settle().await;
    }

    /// Another node of the attempt completed a checkpoint: this node's part of it is sealed, or it is told that there is none.
    pub(super) async fn seal_part(&self, context: &Arc<Context>, order: SealPart) {
        match &self.words {
            // Who follows no more has said why, and the leader asks again.
            Some(words) => drop(words.send(Word::SealPart(order)).await),
            None => drop(tokio::spawn(seal_part(context.clone(), order))),
        }
    }
}

fn bind(context: &Context, start: &Start, dir: &Path) -> Option<Notify> {
    let folder = context.dirs.attempt(start.job, start.epoch);
    let bound = Notify::bind(&folder, dir);
    bound
        .inspect_err(|error| {
            warn!(job = %start.job, %error, "ranks cannot say by a message that a checkpoint is complete");
        })
        .ok()
}

/// The same for an attempt that has no task here any more.
pub(super) async fn seal_part(context: Arc<Context>, order: SealPart) {
    let start = Arc::new(read_start(&context.dirs, order.job, order.epoch));
    if start.members.is_empty() {
        warn!(job = %order.job, epoch = %order.epoch, order.name, "a part of a checkpoint is asked for, and nothing of its attempt is on this node");
        return tell_gone(&context, &order).await;
    }
    let folder = context.dirs.attempt(order.job, order.epoch);
    // Who cannot look does not say that there is nothing: then others' parts would be taken for all of it.
    let Some(place) = looked_at(&context, &start).await else {
        return tell_gone(&context, &order).await;
    };
    let terms = terms(&context, &start, &place);
    let (kind, dirs) = (place.kind, context.dirs.clone());
    let seals = Seals::new(context.clone(), start.clone());
    let (name, of) = (order.name.clone(), start.clone());
    let look = move || {
        let life = place.life(&of, life_of(&folder));
        let news = look_once_at(&place.dir, &name, terms, life);
        (news, removed_of(&folder).contains(&name))
    };
    match tokio::task::spawn_blocking(look).await {
        Ok((Some(news), _)) => tell(&seals, &start, news).await,
        Ok((None, true)) => {
            say_removed(&start, &order.name);
            tell_gone(&context, &order).await;
        }
        // It went while we looked.
        Ok((None, false)) if Place::of(&dirs, &start).kind != kind => {
            tell_gone(&context, &order).await;
        }
        // Its ranks are gone: nothing of it will come.
        Ok((None, false)) => seals.tell_empty(order.name, order.step).await,
        // A panic was reported where it happened; the leader asks again.
        Err(_) => {}
    }
}

/// Tells the leader that what it asked for will not come: no job waits for it then.
async fn tell_gone(context: &Context, order: &SealPart) {
    let gone = part_gone(order);
    // Without a driver the agent is ending.
    let _ = context.inputs.send(Input::Copies(gone)).await;
}

/// An agent before this one died while something of an attempt was being sealed that has no task any more: goes on with it.
pub(super) async fn go_on_sealing(context: Arc<Context>, (job, epoch): (JobId, Epoch)) {
    let start = Arc::new(read_start(&context.dirs, job, epoch));
    if start.members.is_empty() {
        return;
    }
    let Some(place) = looked_at(&context, &start).await else {
        return;
    };
    let folder = context.dirs.attempt(job, epoch);
    let terms = terms(&context, &start, &place);
    let of = start.clone();
    let look = move || {
        let life = place.life(&of, life_of(&folder));
        look_once(&place.dir, terms, life)
    };
    // A panic was reported where it happened.
    let news = tokio::task::spawn_blocking(look).await.unwrap_or_default();
    let seals = Seals::new(context, start.clone());
    tell(&seals, &start, news).await;
}

/// In an attempt's folder: names of checkpoints that its ranks removed, as JSON.
const REMOVED: &str = "removed.json";

fn removed_of(folder: &Path) -> BTreeSet<String> {
    let text = std::fs::read(folder.join(REMOVED)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn say_removed(start: &Start, name: &str) {
    let (job, epoch) = (start.job, start.epoch);
    // Each time that the leader asks.
    debug!(%job, %epoch, name, "this node's part of a checkpoint was removed before it was sealed: the checkpoint does not count");
}

/// How the ranks of an attempt ended, as its keeper wrote it down.
fn life_of(folder: &Path) -> Life {
    let written = read_exits(folder).unwrap_or_default();
    let failed = |exit: &crate::keeper::protocol::Exit| exit.code != 0 || exit.signal != 0;
    if written.all_ended && !written.exits.iter().any(failed) {
        Life::EndedWell
    } else {
        Life::EndedBadly
    }
}

/// The checkpoints of one attempt, while it has a task.
struct Following {
    start: Arc<Start>,
    follow: Follow,
    seals: Seals,
    /// What other nodes completed and this one has nothing of, and when that is told.
    asked: Vec<(Instant, SealPart)>,
    /// Where ranks say that one is complete; without it they have the file.
    notify: Option<Notify>,
}

impl Following {
    async fn run(mut self, mut words: mpsc::Receiver<Word>) {
        while let Some(followed) = self.next(&mut words).await {
            if let Err(error) = followed {
                warn!(job = %self.start.job, %error, "checkpoints are not watched any more; they are found when the attempt ends");
                return;
            }
        }
    }

    /// What happens next; `None`: nobody is interested any more.
    async fn next(&mut self, words: &mut mpsc::Receiver<Word>) -> Option<Result<(), FollowError>> {
        let due = self.asked.iter().map(|(due, _)| *due).min();
        let followed = tokio::select! {
            word = words.recv() => match word? {
                Word::Ended(life, told) => self.ended(life, told).await,
                Word::SealPart(order) => self.asked_for(order, Instant::now() + NOTHING_AFTER).await,
            },
            () = until(due) => self.nothing_came().await,
            said = said(self.notify.as_ref()) => self.said(said).await,
            seen = self.follow.wait() => match look(&mut self.follow, seen).await {
                Ok(news) => {
                    tell(&self.seals, &self.start, news).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        Some(followed)
    }

    async fn ended(&mut self, life: Life, told: oneshot::Sender<()>) -> Result<(), FollowError> {
        let news = self.follow.end(life).await?;
        self.write_removed();
        tell(&self.seals, &self.start, news).await;
        self.seals.settle().await;
        // Who asked may have gone on.
        let _ = told.send(());
        Ok(())
    }

    async fn asked_for(&mut self, order: SealPart, due: Instant) -> Result<(), FollowError> {
        let has = self.follow.completed_elsewhere(&order.name).await?;
        let known = self.asked.iter().any(|(_, other)| *other == order);
        if !has && !known {
            self.asked.push((due, order));
        }
        Ok(())
    }

    /// A rank of this node said something; `None`: nothing comes any more.
    async fn said(&mut self, said: Option<Said>) -> Result<(), FollowError> {
        let job = self.start.job;
        match said {
            Some(Ok((name, word))) => {
                if !self.follow.committed(&name, word).await? {
                    warn!(%job, name, "a rank says that a checkpoint is complete, and there is no such directory");
                }
                let news = self.follow.look(Vec::new()).await?;
                tell(&self.seals, &self.start, news).await;
            }
            Some(Err(why)) => warn!(%job, why, "a message about a checkpoint cannot be used"),
            None => self.notify = None,
        }
        Ok(())
    }

    /// What other nodes completed a while ago: either there is something of it by now, or there will be nothing.
    async fn nothing_came(&mut self) -> Result<(), FollowError> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.asked)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.asked = later;
        let due: Vec<(Instant, SealPart)> = due;
        for (_, order) in due {
            if self.follow.completed_elsewhere(&order.name).await? {
                continue;
            }
            if self.follow.was_removed(&order.name) {
                say_removed(&self.start, &order.name);
                tell_gone(self.seals.context(), &order).await;
            } else {
                self.seals.tell_empty(order.name, order.step).await;
            }
        }
        Ok(())
    }

    /// For when another node asks after the end.
    fn write_removed(&self) {
        let removed = self.follow.removed();
        if removed.is_empty() || self.start.members.len() < 2 {
            return;
        }
        let (job, epoch) = (self.start.job, self.start.epoch);
        let file = self.seals.folder().join(REMOVED);
        let text = serde_json::to_vec(&removed).unwrap_or_default();
        if let Err(error) = std::fs::write(&file, text) {
            warn!(%job, %epoch, %error, "which checkpoints were removed is not known after the attempt");
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn said(notify: Option<&Notify>) -> Option<Said> {
    match notify {
        Some(notify) => notify.next().await,
        None => std::future::pending().await,
    }
}

async fn look(
    follow: &mut Follow,
    seen: Result<Vec<crate::checkpoints::watch::Seen>, FollowError>,
) -> Result<Vec<News>, FollowError> {
    follow.look(seen?).await
}

fn terms(context: &Context, start: &Start, place: &Place) -> Terms {
    // A spec that cannot be read has one rank as far as anybody knows; preparing says what is wrong with it.
    let ranks = parse_json(&start.spec).map_or(1, |spec| spec.ranks_per_node());
    let members = u32::try_from(start.members.len());
    let nodes = members.unwrap_or(u32::MAX).max(1);
    let began = context.dirs.attempt(start.job, start.epoch).join(START);
    let began_ns = began_ns(&began);
    if place.kind == Kind::Shared {
        // What all ranks of the job write lies there, as if it had one node.
        return Terms {
            ranks: 0..ranks.saturating_mul(nodes),
            nodes: 1,
            began_ns,
            shared: nodes,
        };
    }
    let first = start.node_rank.saturating_mul(ranks);
    Terms {
        ranks: first..first.saturating_add(ranks),
        nodes,
        began_ns,
        shared: 0,
    }
}

async fn tell(seals: &Seals, start: &Start, news: Vec<News>) {
    let (job, epoch) = (start.job, start.epoch);
    for news in news {
        match news {
            News::Sealed {
                name,
                step,
                by,
                by_rescan,
                metrics,
                save_ms,
            } => {
                info!(%job, %epoch, name, step, ?by, save_ms, "a checkpoint is complete");
                let complete = Complete {
                    name,
                    step,
                    by_rescan,
                    metrics,
                    save_ms,
                };
                seals.begin(complete).await;
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
