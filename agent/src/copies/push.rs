//! A copy of a part to another node, as the leader ordered it; the outcome goes back to the leader.
//! Does NOT choose anything. Success is told by the other node as well, which knows best.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mlctl_blobs::BlobId;
use mlctl_blobs::transfer::protocol::Refusal;
use mlctl_blobs::transfer::{Pacer, Peer, Push, Rate, TransferError, Way};
use mlctl_proto::agent::{Pushed, agent_message::What};
use mlctl_proto::ids::JobId;
use tracing::{info, warn};

use super::ledger::blob;
use super::{Vault, lock};
use crate::core::{Holder, PartKey};
use crate::link::copies::{Replicate, part_to_wire};

/// The first pause of somebody who was refused: the other node asks its leader meanwhile.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// And the longest.
pub(super) const PAUSE_MOST: Duration = Duration::from_secs(1);
/// A node that still refuses, or is still not reached, after this is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Checkpoints that the other node may hold and that are named to it, as they may share chunks.
const NEAR: usize = 2;
/// Jobs with a rate of their own that are remembered.
const PACERS_MAX: usize = 256;

/// Counts what is under way until it is dropped.
pub(super) struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The word for how bytes travelled.
pub(super) fn way_word(way: Way) -> &'static str {
    match way {
        Way::Quic => "quic",
        Way::Tcp => "tcp",
    }
}

/// Where a node is, by name or by number.
pub(super) async fn resolve(holder: &Holder) -> Result<Peer, String> {
    let found = tokio::net::lookup_host(&holder.address).await;
    let first = found.map(|mut addresses| addresses.next());
    match first {
        Ok(Some(address)) => Ok(Peer {
            node: holder.node.clone(),
            address,
        }),
        Ok(None) => Err(format!("{} is no address", holder.address)),
        Err(error) => Err(format!("cannot find {}: {error}", holder.address)),
    }
}

impl Vault {
    /// Copies a part to another node, and says what became of it.
    pub(crate) fn replicate(&self, order: Replicate) {
        let vault = self.clone();
        self.inner.quiet.handle().spawn(async move {
            let pushed = vault.push(&order).await;
            let (error, way) = match pushed {
                Ok(way) => (String::new(), way_word(way).to_owned()),
                Err(error) => {
                    warn!(key = ?order.key, to = order.to.node, error, "a checkpoint was not copied");
                    (error, String::new())
                }
            };
            let told = What::Pushed(Pushed {
                key: Some(part_to_wire(&order.key)),
                to: order.to.node,
                error,
                way,
            });
            vault.shared().say(told).await;
        });
    }

    /// Counts something that is sent until the answer is dropped; who looks after training hears of it.
    pub(super) fn counted(&self) -> Counted<'_> {
        let counted = Counted::new(&self.inner.sending);
        self.inner.begun.notify_one();
        counted
    }

    /// Whether a copy leaves at once and unpaced: the leader says so, or an attempt of its job is being ended here. What is saved then is what
    /// the job goes on from, and its ranks are ended as soon as another node has it.
    pub(super) fn is_urgent(&self, order: &Replicate) -> bool {
        order.urgent || self.inner.attempts.is_ending(order.key.job)
    }

    async fn push(&self, order: &Replicate) -> Result<Way, String> {
        let _turn = match self.is_urgent(order) {
            true => None,
            false => Some(self.inner.pushing.acquire().await),
        };
        let _counted = self.counted();
        let id = blob(&order.key.manifest);
        let held = self.shared().ledger.get(&order.key).is_some();
        if !held || !self.shared().store.is_held(&id) {
            self.lose(order.key.clone()).await;
            return Err("it is not held here".into());
        }
        let mut push = Push {
            id,
            near: self.near(&order.key),
            urgent: order.urgent,
            pacer: order.rate.map(|rate| self.pacer_of(order.key.job, rate)),
        };
        let (begun, mut pause) = (Instant::now(), PAUSE_FIRST);
        loop {
            // It may have become so while it waited.
            push.urgent = self.is_urgent(order);
            let failed = match resolve(&order.to).await {
                Ok(peer) => match self.inner.node.push(&peer, &push).await {
                    Ok(pushed) => {
                        let pacer = push.pacer.as_ref().unwrap_or(&self.inner.pacer);
                        let rate = pacer.rate();
                        info!(%id, to = order.to.node, way = ?pushed.way, bytes = pushed.sent_bytes, wall_ms = pushed.wall.as_millis(), urgent = push.urgent, ?rate, "a checkpoint was copied");
                        return Ok(pushed.way);
                    }
                    Err(error) if is_passing(&error) => error.to_string(),
                    Err(error) => {
                        self.look_again(id, &error).await;
                        return Err(error.to_string());
                    }
                },
                Err(error) => error,
            };
            if begun.elapsed() >= PATIENCE {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    /// Who refuses a chunk as the wrong one may be right: what is damaged here is found now, and told.
    async fn look_again(&self, id: BlobId, error: &TransferError) {
        let wrong = matches!(
            error,
            TransferError::Refused {
                why: Refusal::WrongChunk,
                ..
            }
        );
        let store = self.shared().store.clone();
        if wrong && let Err(error) = self.quietly(move || store.verify(&id).map(drop)).await {
            warn!(%id, %error, "a copy was not read again");
        }
    }

    /// What a job says of its own copies counts for all of them together.
    pub(super) fn pacer_of(&self, job: JobId, rate: u64) -> Pacer {
        let mut pacers = lock(&self.inner.pacers);
        if pacers.len() >= PACERS_MAX {
            // Who still sends keeps its own.
            pacers.clear();
        }
        let made = || match rate {
            u64::MAX => Pacer::new(Rate::Unlimited),
            rate => Pacer::new(Rate::Fixed(rate)),
        };
        pacers.entry((job, rate)).or_insert_with(made).clone()
    }

    /// Other parts of the same node rank and job, the newest first: the other node may hold them too.
    pub(super) fn near(&self, key: &PartKey) -> Vec<BlobId> {
        let entries = self.shared().ledger.entries().into_iter().rev();
        let others = entries.map(|entry| entry.key).filter(|other| {
            let related = other.job == key.job && other.index == key.index;
            related && other.manifest != key.manifest
        });
        others.take(NEAR).map(|one| blob(&one.manifest)).collect()
    }
}

/// Does it help to come again in a moment?
fn is_passing(error: &TransferError) -> bool {
    match error {
        TransferError::Unreachable { .. } | TransferError::Cut { .. } => true,
        TransferError::Refused { why, .. } => matches!(why, Refusal::NotAllowed | Refusal::Busy),
        _ => false,
    }
}
