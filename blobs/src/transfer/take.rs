//! The receiving end of a push: judges an offer, says what is wanted, fetches it over the lanes that join, and acknowledges when it is
//! held. Says all the while that it is still at it. Does NOT dial: the sender does.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;

use super::Node;
use super::blocking;
use super::error::LinkError;
use super::fetch::{Fetching, fetch};
use super::link::{Inlet, Link, Outlet, STALL, TICK, say, unexpected};
use super::protocol::{Frame, Refusal};
use super::sessions::Session;
use crate::BlobId;

/// What a sender offers.
pub(super) struct Offer {
    pub(super) id: BlobId,
    pub(super) manifest_bytes: u32,
    pub(super) near: Vec<BlobId>,
}

/// Answers an offer to its end.
pub(super) async fn take(node: &Node, mut link: Link, offer: Offer) -> Result<(), LinkError> {
    let id = offer.id;
    let taken = match taken(node, &mut link, offer).await {
        Ok(()) => received(node, &mut link, id).await,
        refused => refused,
    };
    match taken {
        Ok(()) => link.end(&Frame::Held { id }).await,
        Err(LinkError::Refused { why, text }) => link.refuse(why, &text).await,
        Err(error) => Err(error),
    }
}

/// The caller notes what has come, and only then is it acknowledged.
async fn received(node: &Node, link: &mut Link, id: BlobId) -> Result<(), LinkError> {
    let (authority, from) = (node.inner.authority.clone(), link.node.clone());
    let noting = blocking(move || authority.received(&from, &id));
    let noted = busy(link.to.as_mut(), 0, noting).await??;
    noted.map_err(|text| LinkError::refused(Refusal::Failed, &text))
}

/// Counts a transfer until it is dropped.
struct Taking<'a>(&'a AtomicU32);

impl<'a> Taking<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn taken(node: &Node, link: &mut Link, mut offer: Offer) -> Result<(), LinkError> {
    let authority = &node.inner.authority;
    let id = offer.id;
    if !authority.may_send(&link.node, &id) {
        let text = format!("node {} may not send checkpoint {id} here", link.node);
        return Err(LinkError::refused(Refusal::NotAllowed, &text));
    }
    // A sender must not learn by what we want of it whether we hold what it may not read.
    offer
        .near
        .retain(|near| authority.may_read(&link.node, near));
    let mut session = node.inner.sessions.begin(id, &link.node).await?;
    if node.inner.store.is_held(&id) {
        return Ok(());
    }
    let _counted = Taking::new(&node.inner.taking);
    link.say(&Frame::Go).await?;
    let manifest = link.from.bytes(offer.manifest_bytes as usize).await?;
    if BlobId::of(&manifest) != id {
        let text = "the manifest that came is not the one that was offered";
        return Err(LinkError::refused(Refusal::BadManifest, text));
    }
    let store = node.inner.store.clone();
    let begin = blocking(move || store.receive(&manifest, &offer.near));
    let receive = busy(link.to.as_mut(), 0, begin).await???;
    let Some(receive) = receive else {
        return Ok(());
    };
    let bytes = receive.want_bytes();
    let fetching = Arc::new(Fetching::new(receive, node.inner.counters.clone()));
    let lanes = node.lanes_for(bytes);
    session.admit(lanes);
    let want = Frame::Want {
        token: session.token,
        chunks: fetching.left(),
        bytes,
        lanes,
    };
    link.say(&want).await?;
    lanes_fetch(&fetching, link, &mut session).await?;
    let came = fetching.came();
    let finish = move || Arc::into_inner(fetching).map(Fetching::finish);
    let held = busy(link.to.as_mut(), 0, blocking(finish)).await??;
    held.ok_or_else(|| std::io::Error::other("a lane has not ended"))??;
    tracing::info!(%id, node = link.node, way = ?link.way, ?came, "checkpoint received");
    Ok(())
}

/// Until all is written, or the sender is gone, or is wrong.
async fn lanes_fetch(
    fetching: &Arc<Fetching>,
    link: &mut Link,
    session: &mut Session<'_>,
) -> Result<(), LinkError> {
    let mut lanes = JoinSet::new();
    let mut tick = interval(TICK);
    let mut alone = Instant::now();
    let (from, to) = (&mut link.from, &mut link.to);
    let gone = silence(from);
    tokio::pin!(gone);
    let ended = loop {
        tokio::select! {
            () = fetching.over() => break Ok(()),
            Some(lane) = session.joins.recv() => {
                lanes.spawn(fetch(fetching.clone(), 0, lane));
            }
            Some(lane) = lanes.join_next() => match lane {
                Ok(Err(LinkError::Frame(error))) => {
                    break Err(LinkError::refused(Refusal::WrongChunk, error.0));
                }
                // A broken lane is the sender's affair: what it had not brought comes over another.
                Ok(_) => {}
                Err(error) => break Err(std::io::Error::other(error).into()),
            },
            _ = tick.tick() => {
                if !lanes.is_empty() {
                    alone = Instant::now();
                } else if alone.elapsed() > STALL {
                    // A link that was cut without a word looks like this.
                    break Err(LinkError::Stalled(STALL.as_secs()));
                }
                let chunks = fetching.left();
                if let Err(error) = say(to.as_mut(), &Frame::Still { chunks }).await {
                    break Err(error);
                }
            }
            ended = &mut gone => break ended,
            () = stopped(&mut session.stop) => {
                break Err(LinkError::refused(Refusal::Busy, "the same node has begun again"));
            }
        }
    };
    fetching.stop();
    while lanes.join_next().await.is_some() {}
    ended
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The session that would drop it is ours.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A sender that has offered says nothing more on its control link: what comes is its end.
async fn silence(from: &mut Inlet) -> Result<(), LinkError> {
    from.frame_at_last(std::time::Duration::MAX).await?;
    unexpected()
}

/// Says that we are still at it until `work` is done.
pub(super) async fn busy<T>(
    to: &mut dyn Outlet,
    chunks: u32,
    work: impl Future<Output = T>,
) -> Result<T, LinkError> {
    let mut tick = interval(TICK);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = tick.tick() => say(to, &Frame::Still { chunks }).await?,
        }
    }
}
