//! A coordinator's simulated disk: the log with its mark, and snapshots. What is here survives a crash; what is under way does not.
//! Does NOT decide when something is stored: the world does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mlctl_coordinator::consensus::log::engine::Mark;
use mlctl_coordinator::consensus::log::{recover, writes_are_synced};
use mlctl_coordinator::consensus::turn::{Persist, Recovered, SnapshotMeta};
use mlctl_coordinator::state::{State, codec};

/// Writes that a system keeps back when nobody asks for a sync.
const UNSYNCED: usize = 8;

/// A snapshot file: what it is, and its bytes.
pub(super) type SnapshotFile = (SnapshotMeta, Arc<Vec<u8>>);

/// What a coordinator finds when it starts.
#[derive(Default)]
pub(super) struct Disk {
    log: Recovered,
    snapshots: BTreeMap<u64, SnapshotFile>,
    /// Written and not synced: a crash loses it.
    unsynced: Vec<Persist>,
}

impl Disk {
    /// A write that is called stored. Those that are not synced reach the disk once there are some newer.
    pub(super) fn write(&mut self, persist: Persist) {
        self.unsynced.push(persist);
        let lag = if writes_are_synced() { 0 } else { UNSYNCED };
        while self.unsynced.len() > lag {
            let oldest = self.unsynced.remove(0);
            self.store(oldest);
        }
    }

    fn store(&mut self, persist: Persist) {
        if let Some(meta) = &persist.install {
            self.log.entries.clear();
            self.log.floor = (meta.index, meta.term);
            self.snapshots.retain(|index, _| *index == meta.index);
        }
        self.log.hard_state = persist.hard_state;
        if let Some(first) = persist.entries.first().map(|entry| entry.index) {
            self.log.entries.retain(|entry| entry.index < first);
            self.log.entries.extend(persist.entries);
        }
    }

    /// What was not really stored is gone.
    pub(super) fn crash(&mut self) {
        self.unsynced.clear();
    }

    /// The log is not needed up to this (index, term).
    pub(super) fn cut(&mut self, floor: (u64, u64)) {
        self.log.floor = floor;
        self.log.entries.retain(|entry| entry.index > floor.0);
        let older = self.snapshots.keys().rev().nth(1).copied().unwrap_or(0);
        self.snapshots.retain(|index, _| *index >= older);
    }

    pub(super) fn store_snapshot(&mut self, file: SnapshotFile) {
        self.snapshots.insert(file.0.index, file);
    }

    pub(super) fn snapshot(&self, meta: &SnapshotMeta) -> Option<&SnapshotFile> {
        let file = self.snapshots.get(&meta.index);
        file.filter(|(stored, _)| stored.digest == meta.digest)
    }

    /// (term, vote, last index) as stored.
    pub(super) fn stored(&self) -> (u64, u64, u64) {
        let state = &self.log.hard_state;
        let last = self.log.floor.0 + self.log.entries.len() as u64;
        (state.term, state.vote, last)
    }

    /// What a start may begin from, judged as the product judges it, with the restored state and its (index, term).
    pub(super) fn recover(&self) -> Result<(Recovered, State, (u64, u64)), String> {
        let state = &self.log.hard_state;
        let mark = Mark {
            incarnation: 1,
            term: state.term,
            vote: state.vote,
            commit: state.commit,
            floor: self.log.floor,
        };
        let verified: Vec<SnapshotMeta> = self
            .snapshots
            .values()
            .rev()
            .map(|(meta, _)| meta.clone())
            .collect();
        let entries = self.log.entries.clone();
        let recovered = recover::judge(Path::new("/simulated"), &mark, entries, &verified)
            .map_err(|error| error.to_string())?;
        let Some(meta) = &recovered.snapshot else {
            return Ok((recovered, State::new(), (0, 0)));
        };
        let at = (meta.index, meta.term);
        let state = self.restore(meta)?;
        Ok((recovered, state, at))
    }

    /// The state that a snapshot holds.
    pub(super) fn restore(&self, meta: &SnapshotMeta) -> Result<State, String> {
        let index = meta.index;
        let (_, bytes) = self
            .snapshot(meta)
            .ok_or_else(|| format!("snapshot {index} is not there"))?;
        let state = codec::decode_snapshot(bytes).map_err(|error| error.to_string())?;
        if state.applied_index() == index {
            Ok(state)
        } else {
            let held = state.applied_index();
            Err(format!("snapshot {index} holds index {held}"))
        }
    }
}
