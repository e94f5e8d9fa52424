//! Parts come to this node that it does not hold: from all nodes that do, and from the object store where none of them gives it.
//! What is fetched stays, so that this node is a holder too, but of a checkpoint with few parts only. Does NOT lay anything out.

use std::io;
use std::time::{Duration, Instant};

use mlctl_blobs::checkpoint::CheckpointError;
use mlctl_blobs::transfer::{Peer, Pull, TransferError};
use mlctl_blobs::upload::UploadError;
use mlctl_proto::persist::CheckpointSealed;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::Vault;
use super::ledger::{Entry, blob};
use super::push::{PAUSE_FIRST, PAUSE_MOST, resolve, way_word};
use super::restore::{Part, RestoreError, Wanted, disk};
use crate::checkpoints::rules::step_of;
use crate::core::{Holder, PartFound, PartKey, RestorePart};
use crate::failpoint;

/// Parts that are fetched at once.
const AT_ONCE: usize = 4;
/// Of a checkpoint with more parts than this a node keeps its own alone: were every node of a large gang to keep and announce all of them, the job's
/// record would grow with the square of its nodes.
const KEPT_ALL: usize = 4;
/// Nodes that have a part, and give nothing of it for so long, may be gone: the object store is asked as well.
const STORE_AFTER: Duration = Duration::from_secs(5);
/// How bytes travelled that an object store gave.
const STORE: &str = "store";

/// A part that is held now.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Bytes that came.
    pub(super) came: u64,
    /// From whom, and how.
    pub(super) from: Vec<(String, &'static str)>,
    /// Verified a moment ago.
    pub(super) fresh: bool,
}

/// Why one try brought nothing, if another may.
type Passing = String;

impl Vault {
    /// Sees to it that every part is held here; in order of `parts`.
    pub(super) async fn fetch_all(
        &self,
        wanted: &Wanted,
        parts: &[Part],
    ) -> Result<Vec<Fetched>, RestoreError> {
        let mut fetched: Vec<Option<Fetched>> = parts.iter().map(|_| None).collect();
        let mut fetching = JoinSet::new();
        let mut next = parts.iter().enumerate();
        loop {
            while fetching.len() < AT_ONCE
                && let Some((number, (key, part))) = next.next()
            {
                let (vault, key, part) = (self.clone(), key.clone(), part.clone());
                let whole = u32::try_from(wanted.restore.parts.len()).unwrap_or(u32::MAX);
                let keeps = parts.len() <= KEPT_ALL || key.index == wanted.own;
                let whole = keeps.then_some(whole);
                // They end with this call, if it is given up.
                let fetch = async move { (number, vault.fetch(key, part, whole).await) };
                fetching.spawn_on(fetch, &self.inner.quiet.handle());
            }
            match fetching.join_next().await {
                None => break,
                Some(Ok((number, one))) => fetched[number] = Some(one?),
                Some(Err(error)) => {
                    return Err(disk("fetch to", &wanted.into)(io::Error::other(error)));
                }
            }
        }
        Ok(fetched.into_iter().flatten().collect())
    }

    /// Fetches one part, from whoever has it, until it is here. It is kept as a copy, one of `keep` parts, or only laid out.
    async fn fetch(
        &self,
        key: PartKey,
        part: RestorePart,
        keep: Option<u32>,
    ) -> Result<Fetched, RestoreError> {
        let id = blob(&key.manifest);
        let holders = part.holders.iter();
        let others = holders.filter(|holder| holder.node != self.inner.own);
        let others: Vec<Holder> = others.cloned().collect();
        let begun = Instant::now();
        let (mut pause, mut told) = (PAUSE_FIRST, false);
        let mut fetched = Fetched::default();
        while !self.shared().store.is_held(&id) {
            let late = begun.elapsed() >= STORE_AFTER;
            let why = match self.try_all(&key, &part, &others, late).await? {
                Ok(got) => {
                    failpoint::hit("restore.pulled");
                    fetched = got;
                    break;
                }
                Err(why) => why,
            };
            if pause == PAUSE_MOST && !std::mem::replace(&mut told, true) {
                warn!(job = %key.job, key.name, key.index, why, "a checkpoint cannot be fetched yet; trying again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
        let Some(whole) = keep else {
            return Ok(fetched);
        };
        let found = PartFound {
            index: key.index,
            manifest: Some(key.manifest),
            bytes: part.bytes,
        };
        let sealed = CheckpointSealed {
            name: key.name.clone(),
            step: step_of(&key.name),
            part: Some(found.to_record()),
            parts: whole,
            ..CheckpointSealed::default()
        };
        if self.shared().ledger.get(&key).is_none() {
            let held = self.hold(Entry::new(key, sealed)).await;
            held.map_err(disk("write down a part in", &self.inner.staging))?;
        }
        Ok(fetched)
    }

    /// Tries those that have a part once: nodes first, which are near.
    async fn try_all(
        &self,
        key: &PartKey,
        part: &RestorePart,
        others: &[Holder],
        late: bool,
    ) -> Result<Result<Fetched, Passing>, RestoreError> {
        let none = others.is_empty();
        let mut why = String::new();
        if !none {
            match self.ask_nodes(others, key).await? {
                Ok(got) => return Ok(Ok(got)),
                Err(passing) => why = passing,
            }
        }
        match part.url.as_deref().filter(|_| none || late) {
            Some(url) => self.ask_store(url, key, none).await,
            None if none => Err(RestoreError::NoHolder {
                index: key.index,
                name: key.name.clone(),
            }),
            None => Ok(Err(why)),
        }
    }

    async fn ask_nodes(
        &self,
        others: &[Holder],
        key: &PartKey,
    ) -> Result<Result<Fetched, Passing>, RestoreError> {
        let pull = Pull {
            id: blob(&key.manifest),
            near: self.near(key),
            urgent: true,
        };
        match self.pull(others, &pull).await {
            Ok(got) => Ok(Ok(got)),
            Err(TransferError::Store(source)) if !is_lost(&source) => Err(RestoreError::Store {
                name: key.name.clone(),
                source,
            }),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// From the object store, verified. What it lacks or has damaged it will not give later either; if it is the `last` to ask, that is the end.
    async fn ask_store(
        &self,
        url: &str,
        key: &PartKey,
        last: bool,
    ) -> Result<Result<Fetched, Passing>, RestoreError> {
        match self.download(url, blob(&key.manifest)).await {
            Ok(came) => {
                info!(job = %key.job, epoch = %key.epoch, key.name, key.index, url, came, "a part of a checkpoint came from the object store: no node gave it");
                Ok(Ok(Fetched {
                    came,
                    from: vec![(url.to_owned(), STORE)],
                    fresh: true,
                }))
            }
            Err(UploadError::Store(source)) if !is_lost(&source) => Err(RestoreError::Store {
                name: key.name.clone(),
                source,
            }),
            Err(source) if last && !is_passing(&source) => Err(RestoreError::Remote {
                index: key.index,
                name: key.name.clone(),
                source: Box::new(source),
            }),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    async fn pull(&self, holders: &[Holder], pull: &Pull) -> Result<Fetched, TransferError> {
        let mut peers: Vec<Peer> = Vec::new();
        let mut why = String::new();
        for holder in holders {
            match resolve(holder).await {
                Ok(peer) => peers.push(peer),
                Err(error) => why = error,
            }
        }
        if peers.is_empty() {
            return Err(TransferError::Local(why));
        }
        let pulled = self.inner.node.pull(&peers, pull).await?;
        let gave = pulled.sources.iter().filter(|source| source.bytes > 0);
        let from = gave.filter_map(|source| Some((source.node.clone(), way_word(source.way?))));
        Ok(Fetched {
            came: pulled.sources.iter().map(|source| source.bytes).sum(),
            from: from.collect(),
            fresh: true,
        })
    }
}

/// Can it be had anew?
pub(super) fn is_lost(error: &CheckpointError) -> bool {
    matches!(
        error,
        CheckpointError::Damaged { .. }
            | CheckpointError::NotHeld { .. }
            | CheckpointError::Incomplete { .. }
            | CheckpointError::WrongChunk { .. }
            | CheckpointError::Busy { .. }
    )
}

/// Does it help to ask a store again in a moment?
fn is_passing(error: &UploadError) -> bool {
    matches!(
        error,
        UploadError::Request { .. }
            | UploadError::Collecting { .. }
            | UploadError::Changed { .. }
            | UploadError::Store(_)
            | UploadError::Local(_)
    )
}
