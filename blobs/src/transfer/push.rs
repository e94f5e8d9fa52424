//! The sending end of a push: offers a held checkpoint to a node, and serves the lanes that the node wants until it acknowledges.
//! Called again after whatever went wrong, it goes on. Does NOT choose the node.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dial::{Peer, dial};
use super::error::{LinkError, TransferError};
use super::give::{Sent, give, put_all};
use super::link::{Inlet, Link, Way, unexpected};
use super::pacer::Pacer;
use super::protocol::{Frame, NEAR_MAX};
use super::{Node, blocking};
use crate::BlobId;

/// When all lanes have broken, the other end may still say why.
const VERDICT: Duration = Duration::from_secs(5);

/// What to send, and how.
#[derive(Debug, Clone)]
pub struct Push {
    /// BLAKE3 of its manifest.
    pub id: BlobId,
    /// Checkpoints that the other node may hold and that probably share chunks with it; the first 64 count.
    pub near: Vec<BlobId>,
    /// Uncapped: somebody waits for it.
    pub urgent: bool,
    /// What paces it instead of what paces the node.
    pub pacer: Option<Pacer>,
}

/// A checkpoint that the other node holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// How the bytes travelled.
    pub way: Way,
    /// Chunks that it lacked.
    pub wanted_chunks: u32,
    /// Bytes of these.
    pub wanted_bytes: u64,
    /// Bytes of chunks that were handed to connections by this call.
    pub sent_bytes: u64,
    /// Connections beside the one for control.
    pub lanes: u8,
    /// From the call to the acknowledgement.
    pub wall: Duration,
}

impl Node {
    /// Sends a held checkpoint to `to` and returns when it is durable there. What is there already does not move.
    ///
    /// # Errors
    /// [`TransferError`]; what arrived before stays there, and the same call goes on.
    pub async fn push(&self, to: &Peer, push: &Push) -> Result<Pushed, TransferError> {
        let begun = Instant::now();
        let (store, id) = (self.inner.store.clone(), push.id);
        let manifest = blocking(move || store.manifest_bytes(&id)).await;
        let manifest = manifest.map_err(|e| TransferError::Local(e.to_string()))??;
        let mut link = dial(&self.inner.tls, to, None, self.inner.options.mtu_max).await?;
        let mut pushed = Pushed {
            way: link.way,
            wanted_chunks: 0,
            wanted_bytes: 0,
            sent_bytes: 0,
            lanes: 0,
            wall: Duration::ZERO,
        };
        let want = offer(&mut link, push, manifest).await;
        if let Some(mut want) = want.map_err(|error| error.of(&to.node))? {
            want.lanes = want.lanes.min(self.lanes_for(want.bytes));
            pushed.lanes = want.lanes;
            (pushed.wanted_chunks, pushed.wanted_bytes) = (want.chunks, want.bytes);
            let sent = Arc::new(self.sent());
            let lanes = self.lanes(to, push, link.way, &want, &sent);
            verdict(&mut link.from, &id, &to.node, lanes).await?;
            pushed.sent_bytes = sent.bytes.load(Ordering::Relaxed);
        }
        pushed.wall = begun.elapsed();
        Ok(pushed)
    }

    fn lanes(&self, to: &Peer, push: &Push, way: Way, want: &Want, sent: &Arc<Sent>) -> Lanes {
        let mut lanes = JoinSet::new();
        for _ in 0..want.lanes {
            let (node, to, sent) = (self.clone(), to.clone(), sent.clone());
            let (id, token) = (push.id, want.token);
            let pacer = push.pacer.as_ref().unwrap_or(&self.inner.pacer);
            let pacer = (!push.urgent).then(|| pacer.clone());
            lanes.spawn(async move {
                let inner = &node.inner;
                let mut link = dial(&inner.tls, &to, Some(way), inner.options.mtu_max).await?;
                let begun = link.begin(&Frame::Join { token }).await;
                begun.map_err(|error| error.of(&to.node))?;
                let given = give(link, inner.store.clone(), id, pacer, &sent).await;
                given.map_err(|error| error.of(&to.node))
            });
        }
        lanes
    }
}

type Lanes = JoinSet<Result<(), TransferError>>;

/// What the other node lacks.
struct Want {
    token: u64,
    chunks: u32,
    bytes: u64,
    lanes: u8,
}

/// Offers it. `None` if the other node holds it, or needed no chunk of ours.
async fn offer(link: &mut Link, push: &Push, manifest: Vec<u8>) -> Result<Option<Want>, LinkError> {
    let near = push.near.iter().take(NEAR_MAX).copied().collect();
    let offer = Frame::Offer {
        id: push.id,
        manifest_bytes: manifest.len() as u32,
        near,
    };
    link.begin(&offer).await?;
    let mut manifest = Some(manifest);
    loop {
        match link.from.frame().await? {
            Frame::Still { .. } => {}
            Frame::Held { id } if id == push.id => return Ok(None),
            Frame::Go if manifest.is_some() => {
                let bytes = manifest.take().unwrap_or_default();
                put_all(link.to.as_mut(), bytes.into(), None, None).await?;
            }
            Frame::Want {
                token,
                chunks,
                bytes,
                lanes,
            } if manifest.is_none() => {
                return Ok(Some(Want {
                    token,
                    chunks,
                    bytes,
                    lanes,
                }));
            }
            _ => return unexpected(),
        }
    }
}

/// Waits for the acknowledgement while the lanes work.
async fn verdict(
    from: &mut Inlet,
    id: &BlobId,
    node: &str,
    mut lanes: Lanes,
) -> Result<(), TransferError> {
    let verdict = async {
        loop {
            match from.frame().await? {
                Frame::Still { .. } => {}
                Frame::Held { id: held } if held == *id => return Ok(()),
                _ => return unexpected(),
            }
        }
    };
    tokio::pin!(verdict);
    let mut broken = None;
    loop {
        tokio::select! {
            said = &mut verdict => return said.map_err(|error: LinkError| error.of(node)),
            Some(lane) = lanes.join_next() => {
                if let Ok(Err(error)) = lane {
                    tracing::info!(%error, "a lane ended early");
                    broken = Some(error);
                }
                let Some(error) = broken.take_if(|_| lanes.is_empty()) else {
                    continue;
                };
                // No lane is left: the other end may still say why.
                let said = timeout(VERDICT, &mut verdict).await;
                return said.map_or(Err(error), |said| said.map_err(|error| error.of(node)));
            }
        }
    }
}
