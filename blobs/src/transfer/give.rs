//! The end of a lane that has the chunks: answers what it is asked for, in order. The disk is read on a thread of its own, one chunk ahead.
//! Memory: three chunks a lane, and those of which the connection's window holds a part. Does NOT ask who may read: that is settled before.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::error::LinkError;
use super::link::{Inlet, Link, Outlet, PIECE_BYTES, say, unexpected};
use super::pacer::Pacer;
use super::protocol::Frame;
use super::totals::Counters;
use crate::BlobId;
use crate::checkpoint::{CheckpointError, CheckpointStore, Reader};

/// Asked for and not read yet. Who asks for more waits.
const ASKED_MAX: usize = 32;
/// Buffers that are kept for the next chunk. Fresh memory has to be cleared twice, by the kernel and by us.
const SPARES_MAX: usize = 3;
/// One that asks for nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where what is sent is counted: for this transfer, and for the node.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) bytes: AtomicU64,
    pub(super) counters: Arc<Counters>,
}

impl Sent {
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.counters.sent(bytes);
    }
}

enum Ask {
    Manifest,
    Chunk(u32),
}

enum Answer {
    Manifest(Bytes),
    Chunk(u32, Bytes),
    Lack(u32),
}

/// Buffers of a lane whose bytes have been sent.
#[derive(Clone, Default)]
struct Spares(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spares {
    fn with<T>(&self, look: impl FnOnce(&mut Vec<Vec<u8>>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A chunk whose buffer comes back when the connection has no more use for it.
struct Lent(Vec<u8>, Spares);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        self.1.with(|spares| {
            if spares.len() < SPARES_MAX {
                spares.push(bytes);
            }
        });
    }
}

/// Serves one lane until the other end is done.
pub(super) async fn give(
    link: Link,
    store: CheckpointStore,
    id: BlobId,
    pacer: Option<Pacer>,
    sent: &Sent,
) -> Result<(), LinkError> {
    let (ask, asked) = mpsc::channel(ASKED_MAX);
    let (answer, answers) = mpsc::channel(1);
    let reader = spawn_blocking(move || read(&store, &id, asked, &answer));
    let Link { from, to, .. } = link;
    let moved = tokio::try_join!(listen(from, ask), send(to, answers, pacer, sent));
    // Either way its channels are closed, so it has ended or is about to.
    reader.await.map_err(std::io::Error::other)?;
    moved.map(drop)
}

async fn listen(mut from: Inlet, ask: mpsc::Sender<Ask>) -> Result<(), LinkError> {
    loop {
        let next = match from.frame_at_last(PATIENCE).await? {
            Frame::Fetch { index } => Ask::Chunk(index),
            Frame::Get => Ask::Manifest,
            Frame::Done => return Ok(()),
            _ => return unexpected(),
        };
        if ask.send(next).await.is_err() {
            // The reader has failed and says why.
            return Ok(());
        }
    }
}

/// On a thread that may block.
fn read(
    store: &CheckpointStore,
    id: &BlobId,
    mut asked: mpsc::Receiver<Ask>,
    answer: &mpsc::Sender<Answer>,
) {
    let (mut reader, spares) = (None, Spares::default());
    while let Some(ask) = asked.blocking_recv() {
        let (found, index) = match ask {
            Ask::Manifest => (
                store.manifest_bytes(id).map(|b| Answer::Manifest(b.into())),
                0,
            ),
            Ask::Chunk(index) => (read_chunk(store, id, &mut reader, index, &spares), index),
        };
        let next = found.unwrap_or_else(|error| {
            tracing::warn!(%id, index, %error, "cannot serve a checkpoint");
            Answer::Lack(index)
        });
        if answer.blocking_send(next).is_err() {
            break;
        }
    }
}

fn read_chunk(
    store: &CheckpointStore,
    id: &BlobId,
    reader: &mut Option<Reader>,
    index: u32,
    spares: &Spares,
) -> Result<Answer, CheckpointError> {
    let open = match reader.take() {
        Some(open) => open,
        None => store.reader(id)?,
    };
    let mut bytes = spares.with(Vec::pop).unwrap_or_default();
    reader.insert(open).read(index, &mut bytes)?;
    let lent = Lent(bytes, spares.clone());
    Ok(Answer::Chunk(index, Bytes::from_owner(lent)))
}

async fn send(
    mut to: Box<dyn Outlet>,
    mut answers: mpsc::Receiver<Answer>,
    pacer: Option<Pacer>,
    sent: &Sent,
) -> Result<(), LinkError> {
    while let Some(answer) = answers.recv().await {
        match answer {
            Answer::Lack(index) => say(to.as_mut(), &Frame::Lack { index }).await?,
            Answer::Manifest(all) => {
                let bytes = all.len() as u32;
                say(to.as_mut(), &Frame::Manifest { bytes }).await?;
                put_all(to.as_mut(), all, pacer.as_ref(), None).await?;
            }
            Answer::Chunk(index, all) => {
                let bytes = all.len() as u32;
                say(to.as_mut(), &Frame::Chunk { index, bytes }).await?;
                put_all(to.as_mut(), all, pacer.as_ref(), Some(sent)).await?;
            }
        }
    }
    Ok(())
}

/// Sends bytes piece by piece, as fast as they may go.
pub(super) async fn put_all(
    to: &mut dyn Outlet,
    mut bytes: Bytes,
    pacer: Option<&Pacer>,
    sent: Option<&Sent>,
) -> Result<(), LinkError> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        let length = piece.len();
        if let Some(pacer) = pacer {
            pacer.take(length).await;
        }
        to.put(piece).await?;
        if let Some(sent) = sent {
            sent.add(length);
        }
    }
    Ok(())
}
