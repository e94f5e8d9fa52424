//! The copies of checkpoints on this node: its own parts and those of others, what each is, and their way to and from other nodes.
//! Does NOT decide who gets a copy, who may do what, and what may go: the leader does, and the core passes on what it says.
//!
//! - `permits` (pure): what other nodes may do here. `door`: asks the leader, and takes in what has come.
//! - `ledger`: which parts are held. `sealing`: a directory of this node becomes a part. `restore`: parts become a directory.
//! - `push`: to another node. `upload`: to an object store. `fetch`: from either. `orders`: forget, announce, list.
//! - `yielding`: are ranks here held up by that? The pacer is told.
//!
//! Everything that reads, hashes or sends much runs on threads that give way to training. A part is in the ledger only when the store holds
//! it; what the store does not hold any more is told within seconds.

mod door;
mod fetch;
mod ledger;
mod orders;
mod permits;
mod push;
pub(crate) mod restore;
pub(crate) mod sealing;
#[cfg(test)]
mod tests;
mod upload;
mod yielding;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointError, CheckpointStore, Options as StoreOptions};
use mlctl_blobs::transfer::{
    Node, Options, Pacer, Rate, Server, Tls, TransferError, quiet_runtime,
};
use mlctl_proto::agent::{CopySpace, agent_message::What};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_runtime::tls::NodeTls;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tracing::{info, warn};

use crate::core::{Event, PartKey};
use crate::driver::Input;
use ledger::{Entry, Ledger, blob};
use permits::Permits;
use yielding::{AttemptHere, Attempts};

/// Threads for connections; more for disks and hashes come as they are needed.
const THREADS: usize = 2;
/// Threads that hash at once.
const HASHING: usize = 2;
/// Copies that leave at once.
const PUSHES: usize = 4;
/// What copies may take of the network at most, bytes a second; they give way to training below that.
const RATE_MOST: u64 = 2 << 30;
/// Between two looks at what is held.
const LOOK: Duration = Duration::from_secs(2);
/// What no entry names goes after this: it may be of an agent that died before it wrote the entry, and comes again.
const ORPHANS: Duration = Duration::from_secs(600);
/// What was begun to be received, and did not become whole in so long, is given up.
const HALVES: Duration = Duration::from_secs(3_600);

/// Why a node can keep no copies.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The store.
    #[error(transparent)]
    Store(#[from] CheckpointError),
    /// The ledger or the directory beside it.
    #[error("cannot use {}: {source}", path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Threads.
    #[error("cannot start threads for copies of checkpoints: {0}")]
    Threads(#[source] io::Error),
}

/// What a vault is made of.
pub(crate) struct Setup {
    /// This node.
    pub(crate) own: String,
    /// The store's directory.
    pub(crate) copies: PathBuf,
    /// The ledger's.
    pub(crate) ledger: PathBuf,
    /// For what is being sealed, on the same file system; emptied at each start.
    pub(crate) staging: PathBuf,
    /// What all contents may have together, bytes.
    pub(crate) limit_bytes: u64,
    /// Directories below which checkpoints may be uploaded; `None`: any.
    pub(crate) upload_dirs: Option<Vec<PathBuf>>,
    /// Where to listen: the first that can be had.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Who this node is.
    pub(crate) tls: Tls,
}

/// All copies of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    own: String,
    staging: PathBuf,
    shared: Arc<Shared>,
    node: Node,
    server: Option<Server>,
    space: watch::Sender<CopySpace>,
    /// One directory is sealed at a time.
    sealing: Semaphore,
    pushing: Semaphore,
    /// Few parts are uploaded at a time.
    uploading: Semaphore,
    /// Parts that are being uploaded, or wait for that, with where to.
    uploads: Mutex<BTreeSet<(PartKey, String)>>,
    upload_dirs: Option<Vec<PathBuf>>,
    /// What all copies of this node together may take of the network.
    pacer: Pacer,
    /// Of jobs that say how fast their copies may go.
    pacers: Mutex<BTreeMap<(JobId, u64), Pacer>>,
    sending: AtomicU32,
    /// Something begins to be sent.
    begun: Arc<Notify>,
    /// Those whose ranks may be here.
    attempts: Attempts,
    /// Held when the agent started, and named by no entry then.
    orphans: Mutex<BTreeSet<BlobId>>,
    /// Begun to be received, or found damaged, and since when that was seen.
    halves: Mutex<BTreeMap<BlobId, Instant>>,
    quiet: Quiet,
}

/// What the vault and its door know together.
struct Shared {
    store: CheckpointStore,
    ledger: Ledger,
    permits: Mutex<Permits>,
    /// In the ledger, and the core has not been told yet.
    unsaid: Mutex<BTreeSet<PartKey>>,
    /// One at a time writes down that bytes are held, or lets go of bytes that nothing names.
    keeping: Mutex<()>,
    inputs: mpsc::Sender<Input>,
    since: Instant,
}

/// A runtime that may go away anywhere.
struct Quiet(Option<Runtime>);

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A node's identity as transfers want it.
///
/// # Errors
/// When QUIC cannot use it.
pub(crate) fn tls(nodes: &NodeTls) -> Result<Tls, TransferError> {
    let known = nodes.clone();
    let identify = Arc::new(move |certificate: &[u8]| known.node_of(certificate));
    Tls::new(&nodes.client, &nodes.server, &nodes.server_name, identify)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change of what they guard is one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells the leader, if there is one. Without a driver the agent is ending.
    async fn say(&self, what: What) {
        let _ = self.inputs.send(Input::Copies(what)).await;
    }

    /// Tells the core.
    async fn tell(&self, event: Event) {
        let _ = self.inputs.send(Input::Core(event)).await;
    }
}

impl Vault {
    /// Opens store and ledger, listens, and begins to look after what is held. What goes to the core or the leader goes to `inputs`.
    ///
    /// # Errors
    /// When the disk fails, or another process has the store. That nobody can be served is no error: then [`Vault::port`] is 0.
    pub(crate) async fn open(
        setup: Setup,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, VaultError> {
        let quiet = Quiet(Some(quiet_runtime(THREADS).map_err(VaultError::Threads)?));
        let handle = quiet.handle();
        let (copies, ledger_dir, staging) = (setup.copies, setup.ledger, setup.staging.clone());
        let limit_bytes = setup.limit_bytes;
        let opening = handle.spawn_blocking(move || {
            clear(&staging)?;
            let options = StoreOptions {
                limit_bytes,
                threads: HASHING,
            };
            let store = CheckpointStore::open(&copies, options)?;
            // What jobs of one user saved is not for the eyes of another.
            close_to_others(&copies)?;
            let ledger = Ledger::open(&ledger_dir).map_err(|source| VaultError::Disk {
                path: ledger_dir,
                source,
            })?;
            Ok::<_, VaultError>((store, ledger))
        });
        let opened = opening.await.map_err(io::Error::other);
        let (store, ledger) = opened.map_err(VaultError::Threads)??;
        let held = store.held().into_iter().map(|held| held.id);
        let orphans = held.filter(|id| ledger.naming(id.as_bytes()).is_empty());
        let orphans = Mutex::new(orphans.collect());
        let shared = Arc::new(Shared {
            store: store.clone(),
            ledger,
            permits: Mutex::default(),
            unsaid: Mutex::default(),
            keeping: Mutex::default(),
            inputs,
            since: Instant::now(),
        });
        let door = Arc::new(door::Door(shared.clone()));
        let pacer = Pacer::new(Rate::Auto(RATE_MOST));
        let node = Node::new(store, setup.tls, door, pacer.clone(), Options::default());
        let server = serve(&handle, &node, setup.addresses).await;
        let inner = Arc::new(Inner {
            own: setup.own,
            staging: setup.staging,
            shared,
            node,
            server,
            space: watch::Sender::new(CopySpace::default()),
            sealing: Semaphore::new(1),
            pushing: Semaphore::new(PUSHES),
            uploading: Semaphore::new(upload::AT_ONCE),
            uploads: Mutex::default(),
            upload_dirs: setup.upload_dirs,
            pacer,
            pacers: Mutex::default(),
            sending: AtomicU32::new(0),
            begun: Arc::default(),
            attempts: Attempts::default(),
            orphans,
            halves: Mutex::default(),
            quiet,
        });
        inner.measure();
        handle.spawn(look_after(Arc::downgrade(&inner)));
        let begun = inner.begun.clone();
        handle.spawn(yielding::report(Arc::downgrade(&inner), begun));
        Ok(Self { inner })
    }

    /// Where other nodes reach it; 0: nowhere.
    pub(crate) fn port(&self) -> u16 {
        let server = self.inner.server.as_ref();
        server.map_or(0, |server| server.address().port())
    }

    /// The room for copies, as it changes.
    pub(crate) fn space(&self) -> watch::Receiver<CopySpace> {
        self.inner.space.subscribe()
    }

    /// An attempt has a keeper here, which is this process: its ranks are not held up by copies, until the answer is dropped.
    pub(crate) fn attempt_here(&self, key: (JobId, Epoch), keeper: u32) -> AttemptHere {
        self.inner.attempts.enter(key, keeper)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Runs what reads or writes much where that is allowed. A panic there is an error here.
    async fn quietly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let done = self.inner.quiet.handle().spawn_blocking(work).await;
        done.map_err(io::Error::other)
    }

    /// Writes down that a part is here and tells the core, if that is news.
    async fn hold(&self, entry: Entry) -> io::Result<()> {
        let (key, sealed) = (entry.key.clone(), entry.sealed.clone());
        let shared = self.shared().clone();
        let putting = move || {
            let _keeping = lock(&shared.keeping);
            let news = shared.ledger.get(&entry.key).is_none();
            if news {
                lock(&shared.unsaid).insert(entry.key.clone());
            }
            shared.ledger.put(entry).map(|_| news)
        };
        let news = self.quietly(putting).await??;
        if news {
            let (job, epoch) = (key.job, key.epoch);
            let held = Event::CopyHeld { job, epoch, sealed };
            self.shared().tell(held).await;
            self.said(&key);
        }
        Ok(())
    }

    /// The core was told of this part: from now on it is listed.
    pub(crate) fn said(&self, key: &PartKey) {
        lock(&self.shared().unsaid).remove(key);
    }
}

impl Quiet {
    fn handle(&self) -> Handle {
        let runtime = self
            .0
            .as_ref()
            .expect("it is taken only when it is dropped");
        runtime.handle().clone()
    }
}

fn close_to_others(copies: &std::path::Path) -> Result<(), VaultError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(copies, mode).map_err(|source| VaultError::Disk {
        path: copies.to_owned(),
        source,
    })
}

fn clear(staging: &std::path::Path) -> Result<(), VaultError> {
    let failed = |source| VaultError::Disk {
        path: staging.to_owned(),
        source,
    };
    match std::fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(staging).map_err(failed)
}

/// Listens at the first address that can be had.
async fn serve(handle: &Handle, node: &Node, addresses: Vec<SocketAddr>) -> Option<Server> {
    for address in addresses {
        let node = node.clone();
        let serving = handle.spawn(async move { node.serve(address, true).await });
        match serving.await {
            Ok(Ok(server)) => {
                info!(address = %server.address(), "checkpoints of other nodes are taken and given here");
                return Some(server);
            }
            Ok(Err(error)) => warn!(%address, %error, "checkpoints cannot be served here"),
            Err(error) => warn!(%address, %error, "checkpoints cannot be served here"),
        }
    }
    warn!("no port for checkpoints: other nodes cannot copy any to or from this one");
    None
}

/// Looks now and then whether what the ledger says is still there, until the vault is gone.
async fn look_after(vault: Weak<Inner>) {
    loop {
        let Some(inner) = vault.upgrade() else {
            return;
        };
        let vault = Vault { inner };
        vault.find_lost().await;
        vault.remove_orphans().await;
        vault.give_up_halves().await;
        vault.inner.measure();
        drop(vault);
        tokio::time::sleep(LOOK).await;
    }
}

impl Inner {
    fn measure(&self) {
        let store = &self.shared.store;
        let free = store.free_bytes().unwrap_or_else(|error| {
            warn!(%error, "the room for copies of checkpoints is not known");
            0
        });
        let space = CopySpace {
            free,
            used: store.usage().used_bytes,
            sending: self.sending.load(Ordering::Relaxed),
            receiving: self.node.taking(),
        };
        self.space.send_replace(space);
    }
}

impl Vault {
    /// What the ledger names and the store does not hold, because it was found damaged or the disk lost it, is told to be lost.
    async fn find_lost(&self) {
        let shared = self.shared();
        let entries = shared.ledger.entries().into_iter().map(|entry| entry.key);
        let gone = entries.filter(|key| !shared.store.is_held(&blob(&key.manifest)));
        for key in gone.collect::<Vec<_>>() {
            warn!(job = %key.job, epoch = %key.epoch, key.name, key.index, "a copy of a checkpoint is gone from this node, or damaged");
            self.lose(key).await;
        }
    }

    /// Takes a part out of the ledger and tells the core that it is not here.
    async fn lose(&self, key: PartKey) {
        let (shared, lost) = (self.shared().clone(), key.clone());
        let removing = self.quietly(move || shared.ledger.remove(&lost).map(drop));
        match removing.await {
            Ok(Ok(())) => self.shared().tell(Event::CopyLost(key)).await,
            Ok(Err(error)) | Err(error) => {
                warn!(%error, "an entry of the ledger of copies cannot be removed; trying again")
            }
        }
    }

    /// What an agent before this one had sealed or fetched, and never wrote down.
    async fn remove_orphans(&self) {
        if self.shared().since.elapsed() < ORPHANS {
            return;
        }
        let orphans = std::mem::take(&mut *lock(&self.inner.orphans));
        for id in orphans {
            let shared = self.shared().clone();
            let removing = self.quietly(move || {
                let _keeping = lock(&shared.keeping);
                match shared.ledger.naming(id.as_bytes())[..] {
                    [] => shared.store.remove(&id),
                    [..] => Ok(()),
                }
            });
            match removing.await {
                Ok(Ok(()) | Err(CheckpointError::NotHeld { .. })) => {}
                Ok(Err(error)) => warn!(%id, %error, "a copy that nobody knows cannot be removed"),
                Err(error) => warn!(%id, %error, "a copy that nobody knows cannot be removed"),
            }
        }
    }

    /// What nobody goes on sending, or what was damaged and came from elsewhere, or not at all.
    async fn give_up_halves(&self) {
        let store = &self.shared().store;
        let old: Vec<BlobId> = {
            let incoming = store.incoming();
            let mut halves = lock(&self.inner.halves);
            halves.retain(|id, _| incoming.contains(id));
            for id in incoming {
                halves.entry(id).or_insert_with(Instant::now);
            }
            let old = halves.iter().filter(|(_, since)| since.elapsed() > HALVES);
            old.map(|(id, _)| *id).collect()
        };
        for id in old {
            let store = store.clone();
            match self.quietly(move || store.abandon(&id)).await {
                // One that comes just now stays, however long it takes.
                Ok(
                    Ok(()) | Err(CheckpointError::Busy { .. } | CheckpointError::NotHeld { .. }),
                ) => {}
                Ok(Err(error)) => warn!(%id, %error, "half a copy cannot be removed"),
                Err(error) => warn!(%id, %error, "half a copy cannot be removed"),
            }
        }
    }
}
