//! The way to the other coordinators: Raft messages over one stream each, and channels for everything else.
//!
//! Raft messages may be lost: queues are bounded and drop, and raft sends again. Nothing here knows what is in them.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use mlctl_proto::limits::RAFT_MESSAGE_BYTES_MAX;
use mlctl_proto::peer::peer_client::PeerClient;
use mlctl_proto::peer::{FetchSegmentRequest, PullSnapshotRequest, RaftMessage, SnapshotChunk};
use mlctl_runtime::backoff::Backoff;
use mlctl_runtime::shutdown::Shutdown;
use mlctl_runtime::tls::{DialError, Dialer};
use tokio::sync::{Notify, mpsc};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::config::Member;
use crate::consensus::{Handle, MemberId, Transport};
use crate::state::records::Reply;

/// Raft messages that may wait for one member.
const QUEUE: usize = 1_024;
/// A leader whose last Raft message is older than this may be gone: its heartbeats come every 50 ms.
const FRESH_MS: u64 = 250;
const CONNECT: Duration = Duration::from_secs(1);
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
/// Calls on one connection, below the limit of the other side.
const CALLS: usize = 100;
/// Connections to one member.
const CHANNELS_MAX: usize = 32;
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(120);
const SEGMENT_DEADLINE: Duration = Duration::from_secs(30);
/// The longest snapshot that is taken from a member, bytes.
const SNAPSHOT_BYTES_MAX: usize = 4 << 30;

/// The other members.
pub struct Peers {
    own: MemberId,
    others: BTreeMap<MemberId, Peer>,
    dialer: Dialer,
    runtime: tokio::runtime::Handle,
    raft: OnceLock<Handle<Reply>>,
    began: Instant,
    hears: Notify,
}

struct Peer {
    member: Member,
    queue: mpsc::Sender<Bytes>,
    waiting: Mutex<Option<mpsc::Receiver<Bytes>>>,
    channels: Mutex<Vec<(Channel, Arc<AtomicUsize>)>>,
    /// When its last Raft message came, milliseconds since `began`; 0: never, or its stream broke since.
    heard: AtomicU64,
}

/// A channel to a member; counts as a call on its connection until it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// Ready to be given to a generated client.
    pub channel: Channel,
    calls: Arc<AtomicUsize>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peers {
    /// The others among `members`. Must be called inside the runtime that will carry the messages.
    pub fn new(own: MemberId, members: &[Member], dialer: Dialer) -> Self {
        let others = members.iter().filter(|member| member.id != own);
        let others = others.map(|member| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            let peer = Peer {
                member: member.clone(),
                queue,
                waiting: Mutex::new(Some(waiting)),
                channels: Mutex::default(),
                heard: AtomicU64::new(0),
            };
            (member.id, peer)
        });
        Self {
            own,
            others: others.collect(),
            dialer,
            runtime: tokio::runtime::Handle::current(),
            raft: OnceLock::new(),
            began: Instant::now(),
            hears: Notify::new(),
        }
    }

    /// Begins to carry messages. Ends with `shutdown`.
    pub fn start(self: &Arc<Self>, raft: Handle<Reply>, shutdown: &Shutdown) {
        let _ = self.raft.set(raft);
        for (id, peer) in &self.others {
            let waiting = lock(&peer.waiting).take();
            if let Some(waiting) = waiting {
                tokio::spawn(Arc::clone(self).carry(*id, waiting, shutdown.clone()));
            }
        }
    }

    /// The other members' ids.
    pub fn ids(&self) -> impl Iterator<Item = MemberId> {
        self.others.keys().copied()
    }

    /// A Raft message of `id` came.
    pub fn heard(&self, id: MemberId) {
        if let Some(peer) = self.others.get(&id) {
            peer.heard.store(self.now_ms(), Ordering::Relaxed);
            self.hears.notify_waiters();
        }
    }

    /// Returns with the next Raft message of anybody.
    pub async fn hears(&self) {
        self.hears.notified().await;
    }

    /// The stream of Raft messages of `id` ended: it may be gone.
    pub fn unheard(&self, id: MemberId) {
        if let Some(peer) = self.others.get(&id) {
            peer.heard.store(0, Ordering::Relaxed);
        }
    }

    /// Whether `id`, if it leads, is likely to be there: a leader says so several times in [`FRESH_MS`].
    pub fn fresh(&self, id: MemberId) -> bool {
        let heard = self
            .others
            .get(&id)
            .map_or(0, |peer| peer.heard.load(Ordering::Relaxed));
        heard > 0 && self.now_ms() - heard.min(self.now_ms()) <= FRESH_MS
    }

    fn now_ms(&self) -> u64 {
        // Never 0, which says that nothing was heard.
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// Members, this one included, that make a majority.
    pub fn majority(&self) -> usize {
        self.others.len().div_ceil(2) + 1
    }

    /// A connection to `id` with room for one more call. Dials at the first call.
    ///
    /// # Errors
    /// When there is no such member, or too much is under way to it.
    pub fn channel(&self, id: MemberId) -> Result<Lease, DialError> {
        let refused = |why: &str| DialError::Unreachable {
            address: format!("member {id}"),
            why: why.to_owned(),
        };
        let peer = self
            .others
            .get(&id)
            .ok_or_else(|| refused("it is not a member"))?;
        let mut channels = lock(&peer.channels);
        let free = channels
            .iter()
            .find(|(_, calls)| calls.load(Ordering::Relaxed) < CALLS);
        let (channel, calls) = match free {
            Some(found) => found.clone(),
            None if channels.len() >= CHANNELS_MAX => {
                return Err(refused("too many calls are under way to it"));
            }
            None => {
                let fresh = self.dialer.channel_lazy(&peer.member.address, CONNECT)?;
                channels.push((fresh.clone(), Arc::default()));
                channels
                    .last()
                    .map_or((fresh, Arc::default()), Clone::clone)
            }
        };
        calls.fetch_add(1, Ordering::Relaxed);
        Ok(Lease { channel, calls })
    }

    async fn carry(
        self: Arc<Self>,
        id: MemberId,
        waiting: mpsc::Receiver<Bytes>,
        shutdown: Shutdown,
    ) {
        let Some(peer) = self.others.get(&id) else {
            return;
        };
        let waiting = Arc::new(Mutex::new(waiting));
        let mut failures = 0;
        while !shutdown.is_triggered() {
            let outcome = tokio::select! {
                outcome = self.stream(peer, Arc::clone(&waiting), &mut failures) => outcome,
                () = shutdown.wait() => return,
            };
            if let Some(raft) = self.raft.get() {
                raft.unreachable(id);
            }
            // Said once; the dials that follow it are not news.
            if failures == 0 {
                tracing::info!(peer = %peer.member.name, address = %peer.member.address, reason = %outcome, "no stream to this coordinator; dialling again");
            }
            let delay = RETRY.delay(failures, id ^ u64::from(failures));
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = shutdown.wait() => return,
            }
            // What waited is old by now; raft sends again what is still true.
            while lock(&waiting).try_recv().is_ok() {}
        }
    }

    /// One stream until it breaks; why it did.
    async fn stream(
        &self,
        peer: &Peer,
        waiting: Arc<Mutex<mpsc::Receiver<Bytes>>>,
        failures: &mut u32,
    ) -> String {
        let channel = match self.dialer.channel(&peer.member.address, CONNECT).await {
            Ok(channel) => channel,
            Err(error) => return error.to_string(),
        };
        *failures = 0;
        tracing::info!(peer = %peer.member.name, "streaming to this coordinator");
        let from = self.own;
        let messages = stream::poll_fn(move |context| lock(&waiting).poll_recv(context));
        let messages = messages.map(move |message| RaftMessage {
            from,
            message: message.into(),
        });
        match PeerClient::new(channel).raft(messages).await {
            Ok(_) => "it ended the stream".to_owned(),
            Err(status) => status.message().to_owned(),
        }
    }

    async fn pull(&self, from: MemberId, index: u64, digest: [u8; 32]) -> Result<Vec<u8>, String> {
        let lease = self.channel(from).map_err(|error| error.to_string())?;
        let request = PullSnapshotRequest {
            index,
            digest: digest.to_vec(),
        };
        let mut client = PeerClient::new(lease.channel.clone());
        let answer = client.pull_snapshot(request).await;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        gather(answer.into_inner(), SNAPSHOT_BYTES_MAX).await
    }

    /// The segment of history with this hash and length, as `from` has it. Not verified.
    ///
    /// # Errors
    /// A text for the log.
    pub async fn pull_segment(
        &self,
        from: MemberId,
        hash: [u8; 32],
        bytes: u64,
    ) -> Result<Vec<u8>, String> {
        let pull = async {
            let lease = self.channel(from).map_err(|error| error.to_string())?;
            let request = FetchSegmentRequest {
                hash: hash.to_vec(),
            };
            let mut client = PeerClient::new(lease.channel.clone());
            let answer = client.fetch_segment(request).await;
            let answer = answer.map_err(|status| status.message().to_owned())?;
            gather(answer.into_inner(), usize::try_from(bytes).unwrap_or(0)).await
        };
        let outcome = tokio::time::timeout(SEGMENT_DEADLINE, pull).await;
        outcome.unwrap_or_else(|_| Err("it did not arrive in time".into()))
    }
}

/// All that a stream sends, `most` bytes at most.
async fn gather(mut chunks: Streaming<SnapshotChunk>, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|status| status.message().to_owned())?;
        if bytes.len() + chunk.data.len() > most {
            return Err("it is longer than it may be".into());
        }
        bytes.extend_from_slice(&chunk.data);
    }
    Ok(bytes)
}

impl Transport for Peers {
    fn send(&self, to: MemberId, message: Bytes) {
        // A message that raft refuses to take back in one piece is of no use on the wire either.
        if message.len() > RAFT_MESSAGE_BYTES_MAX {
            tracing::error!(
                to,
                bytes = message.len(),
                "a raft message is over the limit and was not sent"
            );
            return;
        }
        if let Some(peer) = self.others.get(&to) {
            // Full: dropped, as the trait says.
            let _ = peer.queue.try_send(message);
        }
    }

    fn pull_snapshot(
        &self,
        from: MemberId,
        index: u64,
        digest: [u8; 32],
    ) -> Result<Vec<u8>, String> {
        let pull = tokio::time::timeout(SNAPSHOT_DEADLINE, self.pull(from, index, digest));
        let outcome = self.runtime.block_on(pull);
        outcome.unwrap_or_else(|_| {
            Err(format!(
                "it did not arrive within {} s",
                SNAPSHOT_DEADLINE.as_secs()
            ))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing under these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
