//! Fetches a checkpoint from all its holders at once. A holder that fails, lies or is late loses its part to the others.
//! Does NOT order holders and lays nothing out: that is `restore`, when it is held.
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::dial::{Peer, dial};
use super::error::{LinkError, TransferError};
use super::fetch::{Came, Fetching, fetch};
use super::link::{Link, Way, unexpected};
use super::protocol::{BadFrame, Frame};
use super::{Node, blocking};
use crate::BlobId;

/// What to fetch, and how.
#[derive(Debug, Clone)]
pub struct Pull {
    /// BLAKE3 of its manifest.
    pub id: BlobId,
    /// Checkpoints of this node that probably share chunks with it.
    pub near: Vec<BlobId>,
    /// Uncapped at the holders: somebody waits for it.
    pub urgent: bool,
}

/// What became of a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub node: String,
    /// How the bytes travelled; `None` if it was never reached.
    pub way: Option<Way>,
    /// Bytes of chunks that came from it and were written.
    pub bytes: u64,
    /// Why it was dropped, if it was.
    pub dropped: Option<String>,
}

/// A checkpoint that this node holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Bytes of the chunks that were lacking.
    pub wanted_bytes: u64,
    /// What came.
    pub came: Came,
    /// All holders, in the order in which they were named.
    pub sources: Vec<Source>,
    /// From the call to when it was held.
    pub wall: Duration,
}

type Opened = (usize, Result<Link, TransferError>);
type Ended = (usize, Result<(), LinkError>);

type Asked = (usize, Result<(Link, Vec<u8>), LinkError>);

/// A holder that has not given the manifest after so long is not the only one that is asked.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(2);

/// The holders of one pull.
struct Holders<'a> {
    node: &'a Node,
    pull: &'a Pull,
    peers: &'a [Peer],
    sources: Vec<Source>,
    opening: JoinSet<Opened>,
}

impl Node {
    /// Fetches a checkpoint from `holders` and returns when it is held here. What is here already does not move.
    ///
    /// # Errors
    /// [`TransferError::NoHolder`] when all of them failed; what came stays, and the same call goes on.
    pub async fn pull(&self, holders: &[Peer], pull: &Pull) -> Result<Pulled, TransferError> {
        let begun = Instant::now();
        let mut holders = Holders::open(self, pull, holders);
        let mut pulled = Pulled {
            wanted_bytes: 0,
            came: Came::default(),
            sources: Vec::new(),
            wall: Duration::ZERO,
        };
        if !self.inner.store.is_held(&pull.id) {
            let (first, link, manifest) = holders.manifest().await?;
            let (store, near) = (self.inner.store.clone(), pull.near.clone());
            let begin = blocking(move || store.receive(&manifest, &near)).await;
            let receive = begin.map_err(|e| TransferError::Local(e.to_string()))??;
            if let Some(receive) = receive {
                pulled.wanted_bytes = receive.want_bytes();
                let fetching = Arc::new(Fetching::new(receive, self.inner.counters.clone()));
                let fetched = holders
                    .fetch(&fetching, first, link, pulled.wanted_bytes)
                    .await;
                pulled.came = fetching.came();
                fetched?;
                let finish = move || Arc::into_inner(fetching).map(Fetching::finish);
                let held = blocking(finish).await;
                let held = held.map_err(|e| TransferError::Local(e.to_string()))?;
                held.ok_or_else(|| TransferError::Local("a lane has not ended".to_owned()))??;
            }
        }
        pulled.sources = holders.sources;
        pulled.wall = begun.elapsed();
        Ok(pulled)
    }
}

impl<'a> Holders<'a> {
    fn open(node: &'a Node, pull: &'a Pull, peers: &'a [Peer]) -> Self {
        let source = |peer: &Peer| Source {
            node: peer.node.clone(),
            way: None,
            bytes: 0,
            dropped: None,
        };
        let mut holders = Self {
            node,
            pull,
            peers,
            sources: peers.iter().map(source).collect(),
            opening: JoinSet::new(),
        };
        if !node.inner.store.is_held(&pull.id) {
            (0..peers.len()).for_each(|holder| holders.lane(holder, None));
        }
        holders
    }

    /// Begins to open one more lane to a holder.
    fn lane(&mut self, holder: usize, way: Option<Way>) {
        let (node, peer) = (self.node.clone(), self.peers[holder].clone());
        let (id, urgent) = (self.pull.id, self.pull.urgent);
        self.opening.spawn(async move {
            let inner = &node.inner;
            let open = async {
                let mut link = dial(&inner.tls, &peer, way, inner.options.mtu_max).await?;
                let opened = async {
                    link.begin(&Frame::Open { id, urgent }).await?;
                    match link.from.frame().await? {
                        Frame::Opened => Ok(()),
                        _ => unexpected(),
                    }
                };
                opened.await.map_err(|error| error.of(&peer.node))?;
                Ok(link)
            };
            (holder, open.await)
        });
    }

    fn drop_holder(&mut self, holder: usize, why: &dyn std::fmt::Display) {
        let source = &mut self.sources[holder];
        tracing::warn!(node = source.node, %why, "a holder of a checkpoint is dropped");
        source.dropped.get_or_insert_with(|| why.to_string());
    }

    /// The next lane that opens.
    async fn opened(&mut self) -> Option<(usize, Link)> {
        loop {
            // A panic of a task is a fault of ours; the lane counts as lost.
            match self.opening.join_next().await? {
                Ok((holder, Ok(link))) => {
                    self.sources[holder].way = Some(link.way);
                    return Some((holder, link));
                }
                Ok((holder, Err(error))) => self.drop_holder(holder, &error),
                Err(error) => tracing::error!(%error, "a task failed"),
            }
        }
    }

    /// The manifest from the first holder that gives the right one. A holder that is slow to do so is not waited for.
    async fn manifest(&mut self) -> Result<(usize, Link, Vec<u8>), TransferError> {
        let mut asking: JoinSet<Asked> = JoinSet::new();
        let mut asked = Vec::new();
        let id = self.pull.id;
        loop {
            let patience = if asking.is_empty() {
                Duration::ZERO
            } else {
                MANIFEST_PATIENCE
            };
            tokio::select! {
                biased;
                Some(got) = asking.join_next() => match got {
                    Ok((holder, Ok((link, manifest)))) => {
                        for other in asked.into_iter().filter(|other| *other != holder) {
                            self.lane(other, self.sources[other].way);
                        }
                        return Ok((holder, link, manifest));
                    }
                    Ok((holder, Err(error))) => {
                        asked.retain(|other| *other != holder);
                        self.drop_holder(holder, &error);
                    }
                    Err(error) => tracing::error!(%error, "a task failed"),
                },
                Some((holder, link)) = self.opened_after(patience) => {
                    asked.push(holder);
                    asking.spawn(async move { (holder, manifest(link, id).await) });
                }
                else => return Err(self.none_left(0)),
            }
        }
    }

    async fn opened_after(&mut self, patience: Duration) -> Option<(usize, Link)> {
        tokio::time::sleep(patience).await;
        self.opened().await
    }

    /// Until all is written, or no holder is left.
    async fn fetch(
        &mut self,
        fetching: &Arc<Fetching>,
        first: usize,
        link: Link,
        bytes: u64,
    ) -> Result<(), TransferError> {
        let mut lanes: JoinSet<Ended> = JoinSet::new();
        let more = usize::from(self.node.lanes_for(bytes)).div_ceil(self.peers.len()) - 1;
        let mut widened = vec![false; self.peers.len()];
        let mut next = Some((first, link));
        let ended = loop {
            if let Some((holder, link)) = next.take() {
                if !std::mem::replace(&mut widened[holder], true) {
                    let way = Some(link.way);
                    (0..more).for_each(|_| self.lane(holder, way));
                }
                let fetching = fetching.clone();
                lanes.spawn(async move { (holder, fetch(fetching, holder, link).await) });
            }
            if lanes.is_empty() && self.opening.is_empty() && fetching.left() > 0 {
                break Err(self.none_left(fetching.left()));
            }
            tokio::select! {
                biased;
                () = fetching.over() => break Ok(()),
                Some(ended) = lanes.join_next() => match ended {
                    Ok((_, Ok(()))) => {}
                    Ok((holder, Err(error))) => self.drop_holder(holder, &error),
                    Err(error) => tracing::error!(%error, "a task failed"),
                },
                opened = self.opened(), if !self.opening.is_empty() => next = opened,
            }
        };
        fetching.stop();
        self.opening.abort_all();
        while let Some(ended) = lanes.join_next().await {
            if let Ok((holder, Err(error))) = ended {
                self.drop_holder(holder, &error);
            }
        }
        for (holder, bytes) in fetching.from() {
            self.sources[holder].bytes = bytes;
        }
        ended
    }

    fn none_left(&self, left: u32) -> TransferError {
        let each = |source: &Source| {
            let why = source.dropped.as_deref().unwrap_or("has no more lanes");
            format!("{}: {why}", source.node)
        };
        let each: Vec<_> = self.sources.iter().map(each).collect();
        TransferError::NoHolder {
            id: self.pull.id,
            left,
            why: each.join("; "),
        }
    }
}

/// Asks for the manifest and compares it with its name.
async fn manifest(mut link: Link, id: BlobId) -> Result<(Link, Vec<u8>), LinkError> {
    link.say(&Frame::Get).await?;
    let Frame::Manifest { bytes } = link.from.frame().await? else {
        return unexpected();
    };
    let manifest = link.from.bytes(bytes as usize).await?;
    if BlobId::of(&manifest) == id {
        Ok((link, manifest))
    } else {
        Err(BadFrame("its manifest is not the one that was asked for").into())
    }
}
