//! Checkpoints on their way between nodes, over mutual TLS: QUIC, or TCP where UDP does not get through. Only what the other node lacks
//! moves; it is verified when it arrives and on the disk before it is acknowledged; what a kill interrupts goes on with the same call.
//! Does NOT choose nodes and knows no job: which checkpoint goes where, and who may, the caller says.
//!
//! - `protocol`, `work`, `pace`: pure; what is said, which lane fetches what, how fast.
//! - `quic`, `tcp` with `tls`, `link`, `dial`: streams of bytes to a node whose name is proven. `quic` alone knows quinn.
//! - `give` and `fetch`: the two ends of a lane. `push` and `take`: a sender offers. `pull` and `serve`: a receiver asks several holders.
//! - `verify`: a holder is asked to read its disk again. `pacer`, `quiet`: what yields to training.
mod dial;
mod error;
mod fetch;
mod give;
mod link;
mod pace;
mod pacer;
pub mod protocol;
mod pull;
mod push;
mod quic;
mod quiet;
mod serve;
mod sessions;
mod take;
mod tcp;
mod tls;
mod totals;
mod verify;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use dial::Peer;
pub use error::TransferError;
pub use fetch::Came;
pub use link::Way;
pub use pace::{Rate, SILENCE_MS};
pub use pacer::Pacer;
pub use pull::{Pull, Pulled, Source};
pub use push::{Push, Pushed};
pub use quiet::quiet_runtime;
pub use serve::Server;
pub use tls::{Identify, Tls};
pub use totals::Totals;

use tokio::sync::Semaphore;

use crate::BlobId;
use crate::checkpoint::CheckpointStore;
use sessions::Sessions;

/// A connection is worth so many bytes: what is on its way when a node is killed stays below a twentieth of it.
const LANE_BYTES: u64 = 384 << 20;

/// Who may do what here. Asked with names that certificates have proven, before anything is read; must not block.
pub trait Authority: Send + Sync + 'static {
    /// May `node` put this checkpoint here?
    fn may_send(&self, node: &str, id: &BlobId) -> bool;
    /// May `node` read this checkpoint?
    fn may_read(&self, node: &str, id: &BlobId) -> bool;
    /// What `node` sent is held here, or was before it came: told before that is acknowledged, on a thread that may block. An error goes back
    /// to `node`, which sends it again.
    ///
    /// # Errors
    /// What it says, for people, when it cannot make use of it.
    fn received(&self, node: &str, id: &BlobId) -> Result<(), String> {
        let _ = (node, id);
        Ok(())
    }
}

/// How transfers of a node behave.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Connections for a large transfer; a small one has fewer. At most 32.
    pub lanes: u8,
    /// The largest packet that is tried, bytes: 1452 for Ethernet, 8900 where all of the network carries jumbo frames.
    pub mtu_max: u16,
}

impl Default for Options {
    fn default() -> Self {
        let mtu_max = quic::MTU_USUAL;
        Self { lanes: 4, mtu_max }
    }
}

/// A node's end of all transfers. Cheap to clone. Everything must be called inside a tokio runtime, best one of [`quiet_runtime`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    store: CheckpointStore,
    tls: Tls,
    authority: Arc<dyn Authority>,
    pacer: Pacer,
    options: Options,
    sessions: Sessions,
    counters: Arc<totals::Counters>,
    taking: AtomicU32,
    /// Whoever reads a checkpoint again because somebody asked.
    inspecting: Arc<Semaphore>,
}

impl Node {
    /// A node with this store and identity. Dials and serves only when it is told to.
    pub fn new(
        store: CheckpointStore,
        tls: Tls,
        authority: Arc<dyn Authority>,
        pacer: Pacer,
        options: Options,
    ) -> Self {
        let inner = Inner {
            store,
            tls,
            authority,
            pacer,
            options,
            sessions: Sessions::default(),
            counters: Arc::default(),
            taking: AtomicU32::new(0),
            inspecting: Arc::new(Semaphore::new(1)),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// What it has sent and received since it was made.
    pub fn totals(&self) -> Totals {
        self.inner.counters.totals()
    }

    /// Checkpoints that others are sending here now.
    pub fn taking(&self) -> u32 {
        self.inner.taking.load(Ordering::Relaxed)
    }

    fn sent(&self) -> give::Sent {
        give::Sent {
            counters: self.inner.counters.clone(),
            ..give::Sent::default()
        }
    }

    /// Connections for so many bytes.
    fn lanes_for(&self, bytes: u64) -> u8 {
        let max = self.inner.options.lanes.clamp(1, protocol::LANES_MAX);
        u8::try_from(bytes / LANE_BYTES).map_or(max, |worth| worth.clamp(1, max))
    }
}

/// Runs what blocks on a thread where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, std::io::Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other)
}
