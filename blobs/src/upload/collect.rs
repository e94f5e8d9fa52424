//! Removes what no part needs from a remote store: manifests that no part names, then chunks that no manifest names. Nothing that is young goes,
//! and while a part or a manifest cannot be read nothing does. Does NOT decide which parts stay.
//!
//! An upload relies on chunks that it finds, however old. So each says what it does before it looks at the other: an upload writes its manifest,
//! then looks for marks; a collection writes its mark, then looks for manifests. At least one of the two sees the other: the upload waits, or
//! what it names stays. Only the store's own clock counts.
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::error::UploadError;
use super::layout;
use super::remote::Remote;
use super::{blocking, each::each};
use crate::BlobId;
use crate::checkpoint::{HOLE, Manifest};

/// A mark that is older was left by somebody who is gone.
const MARK_COUNTS: Duration = Duration::from_secs(3_600);
/// A collection removes nothing after so long: well before its mark counts for nothing.
const LASTS_AT_MOST: Duration = Duration::from_secs(1_800);
/// Removed with one request where the store can.
const BATCH: usize = 500;

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Manifests that no part named.
    pub manifests: u64,
    /// Chunks that no manifest named.
    pub chunks: u64,
    /// Bytes of both, as stored.
    pub bytes: u64,
    /// It took too long and was broken off: the next one goes on.
    pub more: bool,
}

/// A collection that goes on.
struct Sweep<'a> {
    remote: &'a Remote,
    begun: Instant,
    /// The store's time when it began.
    now: SystemTime,
    swept: Swept,
}

/// The first eight bytes of the chunks that are needed. One that shares them with such a chunk stays as well.
struct Needed(Vec<u64>);

impl Remote {
    /// Removes what no part needs and what is older than [`Options::guard`](super::Options::guard). Uploads that begin meanwhile are told to
    /// come again; those that go on are not disturbed. Memory: 8 bytes a chunk that is needed. One that is dropped or killed leaves a mark that
    /// holds uploads up for an hour.
    ///
    /// # Errors
    /// When a part or a manifest cannot be read, and nothing was removed then; when the remote store fails.
    pub async fn collect_remote(&self) -> Result<Swept, UploadError> {
        let mark = mark_name();
        let begun = Instant::now();
        self.put(&mark, b"{}".to_vec().into()).await?;
        let swept = self.sweep(&mark, begun).await;
        let unmarked = self.unmark(&mark).await;
        let swept = swept?;
        unmarked?;
        Ok(swept)
    }

    async fn sweep(&self, mark: &str, begun: Instant) -> Result<Swept, UploadError> {
        let meta = self.head(mark).await?;
        let now = meta.ok_or_else(|| self.missing(mark))?.changed;
        if !self.options.settle.is_zero() {
            tokio::time::sleep(self.options.settle).await;
        }
        let mut sweep = Sweep {
            remote: self,
            begun,
            now,
            swept: Swept::default(),
        };
        let needed = sweep.manifests().await?;
        sweep.chunks(&needed).await?;
        Ok(sweep.swept)
    }

    /// Its own mark, and those that count for nothing any more.
    async fn unmark(&self, mark: &str) -> Result<(), UploadError> {
        let Some(now) = self.head(mark).await? else {
            return Ok(());
        };
        let mut gone = vec![mark.to_owned()];
        self.list(layout::COLLECTING, |meta| {
            if !counts(meta.changed, now.changed) {
                gone.push(meta.object);
            }
        })
        .await?;
        self.delete(&gone).await
    }
}

impl Sweep<'_> {
    /// Removes manifests that nobody needs, and returns the chunks of the others.
    async fn manifests(&mut self) -> Result<Needed, UploadError> {
        // Parts first: a part that is seen has its manifest there already.
        let listed = self.remote.list_parts(None).await?;
        if let Some(bad) = listed.unreadable.first() {
            let (object, why) = bad.split_once(": ").unwrap_or((bad, ""));
            return Err(self.remote.damaged(object, why));
        }
        let named: BTreeSet<BlobId> = listed.parts.iter().filter_map(|p| p.manifest).collect();
        let (mut there, mut gone, mut bytes) = (BTreeSet::new(), Vec::new(), 0);
        let list = self.remote.list(layout::MANIFESTS, |meta| {
            let Some(id) = layout::manifest_of(&meta.object) else {
                return;
            };
            if named.contains(&id) || self.is_young(meta.changed) {
                there.insert(id);
            } else {
                bytes += meta.bytes;
                gone.push(meta.object);
            }
        });
        list.await?;
        if let Some(lost) = named.difference(&there).next() {
            return Err(self.remote.missing(&layout::manifest(lost)));
        }
        let needed = Needed::by(self.remote, &there).await?;
        self.swept.manifests = self.delete(&gone).await?;
        if self.swept.manifests == gone.len() as u64 {
            self.swept.bytes += bytes;
        }
        Ok(needed)
    }

    async fn chunks(&mut self, needed: &Needed) -> Result<(), UploadError> {
        let mut gone = Vec::new();
        let list = self.remote.list(layout::CHUNKS, |meta| {
            let id = layout::chunk_of(&meta.object);
            if id.is_some_and(|id| !needed.contains(&id)) && !self.is_young(meta.changed) {
                gone.push((meta.object, meta.bytes));
            }
        });
        list.await?;
        for batch in gone.chunks(BATCH) {
            let objects: Vec<String> = batch.iter().map(|(object, _)| object.clone()).collect();
            let removed = self.delete(&objects).await?;
            self.swept.chunks += removed;
            if removed > 0 {
                self.swept.bytes += batch.iter().map(|(_, bytes)| bytes).sum::<u64>();
            }
        }
        Ok(())
    }

    /// Removes, unless it has taken too long already. Returns how many.
    async fn delete(&mut self, objects: &[String]) -> Result<u64, UploadError> {
        if objects.is_empty() {
            return Ok(0);
        }
        if self.begun.elapsed() >= LASTS_AT_MOST {
            self.swept.more = true;
            return Ok(0);
        }
        self.remote.delete(objects).await?;
        Ok(objects.len() as u64)
    }

    fn is_young(&self, changed: SystemTime) -> bool {
        let age = self.now.duration_since(changed);
        age.map_or(true, |age| age < self.remote.options.guard)
    }
}

impl Needed {
    async fn by(remote: &Remote, manifests: &BTreeSet<BlobId>) -> Result<Self, UploadError> {
        let needed = std::sync::Mutex::new(Vec::new());
        // One after the other: a manifest may be large.
        let into = &needed;
        each(manifests, 1, |id| async move {
            let bytes = remote.manifest(id).await?;
            let decoded = blocking(move || Ok(Manifest::decode(&bytes))).await?;
            let manifest = decoded.map_err(|e| remote.damaged(&layout::manifest(id), e))?;
            let mut needed = into.lock().expect("nothing panics while it is locked");
            let chunks = manifest
                .contents()
                .iter()
                .flat_map(|content| &content.chunks);
            needed.extend(chunks.filter(|chunk| **chunk != HOLE).map(short));
            needed.sort_unstable();
            needed.dedup();
            Ok(())
        })
        .await?;
        let needed = needed.into_inner();
        Ok(Self(needed.expect("nothing panics while it is locked")))
    }

    fn contains(&self, chunk: &BlobId) -> bool {
        self.0.binary_search(&short(chunk)).is_ok()
    }
}

fn short(id: &BlobId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

fn counts(mark: SystemTime, now: SystemTime) -> bool {
    now.duration_since(mark)
        .map_or(true, |age| age < MARK_COUNTS)
}

/// Differs from that of any other collection, by time and process; if ever it does not, the two share a mark.
fn mark_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.unwrap_or(Duration::ZERO).as_nanos();
    format!("{}/{nanos}-{}", layout::COLLECTING, std::process::id())
}

/// Refuses while somebody collects. `written` is an object that was written just now: its time is the store's.
pub(super) async fn refuse_while_marked(remote: &Remote, written: &str) -> Result<(), UploadError> {
    let mut marks = Vec::new();
    remote
        .list(layout::COLLECTING, |meta| marks.push(meta))
        .await?;
    if marks.is_empty() {
        return Ok(());
    }
    let meta = remote.head(written).await?;
    let now = meta.ok_or_else(|| remote.missing(written))?.changed;
    match marks.into_iter().find(|mark| counts(mark.changed, now)) {
        None => Ok(()),
        Some(mark) => Err(UploadError::Collecting {
            object: mark.object,
            remote: remote.name(),
        }),
    }
}
