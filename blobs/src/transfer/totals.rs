//! What a node has sent and received since it began, for its metrics. Does NOT know single transfers.
use std::sync::atomic::{AtomicU64, Ordering};

/// Sums over all transfers of a node, those that failed included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of chunks that were handed to connections.
    pub sent_bytes: u64,
    /// Bytes of chunks that arrived, wrong and needless ones included.
    pub received_bytes: u64,
    /// Chunks that arrived although they were there already.
    pub chunks_twice: u64,
    /// Chunks that arrived and were something else.
    pub chunks_wrong: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    chunks_twice: AtomicU64,
    chunks_wrong: AtomicU64,
}

impl Counters {
    pub(super) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn twice(&self) {
        self.chunks_twice.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn wrong(&self) {
        self.chunks_wrong.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            sent_bytes: read(&self.sent_bytes),
            received_bytes: read(&self.received_bytes),
            chunks_twice: read(&self.chunks_twice),
            chunks_wrong: read(&self.chunks_wrong),
        }
    }
}
