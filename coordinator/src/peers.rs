//! The way to the other coordinators: Raft messages over one stream each, and channels for everything else.
//!
//! Whom there is to reach follows the membership, and a member that speaks first is answered even if it is not known yet:
//! a member that was away may meet a leader that it has never heard of.
//! Raft messages may be lost: queues are bounded and drop, and raft sends again. Nothing here knows what is in them.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
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
use crate::consensus::{Handle, MemberId, Membership, Transport};
use crate::state::records::Reply;

/// Raft messages that may wait for one member.
const QUEUE: usize = 1_024;
/// A leader whose last Raft message is older than this may be gone: its heartbeats come every 100 ms.
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
    others: RwLock<BTreeMap<MemberId, Arc<Peer>>>,
    /// Who votes beside this one.
    voters: RwLock<BTreeSet<MemberId>>,
    dialer: Dialer,
    runtime: tokio::runtime::Handle,
    /// Set when messages begin to be carried.
    carrying: OnceLock<(Handle<Reply>, Shutdown)>,
    began: Instant,
    hears: Notify,
}

struct Peer {
    member: Member,
    queue: mpsc::Sender<Bytes>,
    waiting: Arc<Mutex<mpsc::Receiver<Bytes>>>,
    /// It was removed: nothing is carried to it any more.
    over: Shutdown,
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
    /// The others among `members`, as far as they are known at the start. Must be called inside the runtime that will
    /// carry the messages.
    pub fn new(own: MemberId, members: &[Member], dialer: Dialer) -> Self {
        let others = members.iter().filter(|member| member.id != own);
        let voters = others.clone().map(|member| member.id).collect();
        let others = others.map(|member| (member.id, Arc::new(Peer::new(member.clone()))));
        Self {
            own,
            others: RwLock::new(others.collect()),
            voters: RwLock::new(voters),
            dialer,
            runtime: tokio::runtime::Handle::current(),
            carrying: OnceLock::new(),
            began: Instant::now(),
            hears: Notify::new(),
        }
    }

    /// Begins to carry messages. Ends with `shutdown`.
    pub fn start(self: &Arc<Self>, raft: Handle<Reply>, shutdown: &Shutdown) {
        let _ = self.carrying.set((raft, shutdown.clone()));
        for peer in read(&self.others).values() {
            self.carry_to(peer);
        }
    }

    /// The membership changed: reaches who is new or moved, and gives up who was removed.
    pub fn know(self: &Arc<Self>, members: &Membership, named: &[Member]) {
        let others = |id: &MemberId| *id != self.own;
        *write(&self.voters) = members
            .ids()
            .into_iter()
            .filter(others)
            .filter(|id| members.votes(*id))
            .collect();
        for member in named.iter().filter(|member| others(&member.id)) {
            self.reach(member);
        }
        write(&self.others).retain(|id, peer| {
            let gone = members.was_removed(*id);
            if gone {
                peer.over.trigger();
            }
            !gone
        });
    }

    /// A coordinator speaks for a member. If that is not known here, answers reach it where a member of that name is.
    pub fn learn(self: &Arc<Self>, id: MemberId, name: &str) {
        if id == self.own || read(&self.others).contains_key(&id) {
            return;
        }
        let same = read(&self.others)
            .values()
            .find(|peer| peer.member.name == name)
            .cloned();
        if let Some(peer) = same {
            self.reach(&Member {
                id,
                ..peer.member.clone()
            });
        }
    }

    fn reach(self: &Arc<Self>, member: &Member) {
        let mut others = write(&self.others);
        if others
            .get(&member.id)
            .is_some_and(|peer| peer.member == *member)
        {
            return;
        }
        let peer = Arc::new(Peer::new(member.clone()));
        if let Some(old) = others.insert(member.id, Arc::clone(&peer)) {
            old.over.trigger();
        }
        drop(others);
        if self.carrying.get().is_some() {
            self.carry_to(&peer);
        }
    }

    fn carry_to(self: &Arc<Self>, peer: &Arc<Peer>) {
        self.runtime.spawn(Arc::clone(self).carry(Arc::clone(peer)));
    }

    fn peer(&self, id: MemberId) -> Option<Arc<Peer>> {
        read(&self.others).get(&id).cloned()
    }

    /// The ids of the others who vote.
    pub fn ids(&self) -> Vec<MemberId> {
        read(&self.voters).iter().copied().collect()
    }

    /// A Raft message of `id` came.
    pub fn heard(&self, id: MemberId) {
        if let Some(peer) = self.peer(id) {
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
        if let Some(peer) = self.peer(id) {
            peer.heard.store(0, Ordering::Relaxed);
        }
    }

    /// Whether `id`, if it leads, is likely to be there: a leader says so several times in [`FRESH_MS`].
    pub fn fresh(&self, id: MemberId) -> bool {
        let heard = self
            .peer(id)
            .map_or(0, |peer| peer.heard.load(Ordering::Relaxed));
        heard > 0 && self.now_ms() - heard.min(self.now_ms()) <= FRESH_MS
    }

    fn now_ms(&self) -> u64 {
        // Never 0, which says that nothing was heard.
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// Voters, this one counted as one, that make a majority.
    pub fn majority(&self) -> usize {
        read(&self.voters).len().div_ceil(2) + 1
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
        let peer = self.peer(id).ok_or_else(|| refused("it is not a member"))?;
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

    /// Streams to a member until it is removed or the process ends.
    async fn carry(self: Arc<Self>, peer: Arc<Peer>) {
        let Some((raft, shutdown)) = self.carrying.get() else {
            return;
        };
        let (id, mut failures) = (peer.member.id, 0);
        let ended = async || {
            tokio::select! {
                () = shutdown.wait() => {}
                () = peer.over.wait() => {}
            }
        };
        while !shutdown.is_triggered() && !peer.over.is_triggered() {
            let waiting = Arc::clone(&peer.waiting);
            let outcome = tokio::select! {
                outcome = self.stream(&peer, waiting, &mut failures) => outcome,
                () = ended() => return,
            };
            raft.unreachable(id);
            // Said once; the dials that follow it are not news.
            if failures == 0 {
                tracing::info!(peer = %peer.member.name, address = %peer.member.address, reason = %outcome, "no stream to this coordinator; dialling again");
            }
            let delay = RETRY.delay(failures, id ^ u64::from(failures));
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = ended() => return,
            }
            // What waited is old by now; raft sends again what is still true.
            while lock(&peer.waiting).try_recv().is_ok() {}
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
        if let Some(peer) = self.peer(to) {
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

impl Peer {
    fn new(member: Member) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        Self {
            member,
            queue,
            waiting: Arc::new(Mutex::new(waiting)),
            over: Shutdown::new(),
            channels: Mutex::default(),
            heard: AtomicU64::new(0),
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing under these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
