//! raft's view of the log: the entries since the last cut, in memory.
//!
//! It does not write anything: the driver stores the same entries on disk. Nothing here can fail but a question
//! for an entry that was cut away, which makes raft send a snapshot instead.

use super::{Recovered, SnapshotMeta, wire};
use mlctl_proto::mutants::{Mutant, planted};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::util::limit_size;
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// Entries after `floor`, with what raft must find again after a restart.
pub(super) struct TailStorage {
    hard_state: HardState,
    /// The members at the start; raft keeps the later ones itself.
    conf: ConfState,
    floor: (u64, u64),
    entries: VecDeque<Entry>,
    newest: Option<SnapshotMeta>,
    older: Option<SnapshotMeta>,
    /// A member needs a snapshot, and the newest does not know it.
    wanted: Cell<bool>,
}

impl TailStorage {
    pub(super) fn new(recovered: Recovered, conf: ConfState) -> Self {
        Self {
            hard_state: recovered.hard_state,
            conf,
            floor: recovered.floor,
            entries: recovered.entries.into(),
            newest: recovered.snapshot,
            older: recovered.older,
            wanted: Cell::new(false),
        }
    }

    /// Whether a newer snapshot was needed since the last call.
    pub(super) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    /// The index before the first entry that is kept.
    pub(super) fn floor(&self) -> u64 {
        self.floor.0
    }

    pub(super) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Appends, overwriting whatever is stored at or above the first new entry.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        debug_assert!(first.index > self.floor.0 && first.index <= self.last() + 1);
        let keep = first.index.saturating_sub(self.floor.0 + 1);
        self.entries.truncate(keep as usize);
        self.entries.extend(entries.iter().cloned());
    }

    /// A leader's snapshot replaces everything.
    pub(super) fn install(&mut self, meta: SnapshotMeta) {
        self.entries.clear();
        self.floor = (meta.index, meta.term);
        self.hard_state.commit = self.hard_state.commit.max(meta.index);
        self.newest = Some(meta);
        self.older = None;
    }

    /// A local snapshot is verified: forgets what the older of the two newest covers. Returns the new floor if it
    /// moved. Old news (a snapshot below the newest, or above the log) changes nothing.
    pub(super) fn snapshot_taken(&mut self, meta: SnapshotMeta) -> Option<(u64, u64)> {
        let newest = self.newest.as_ref().map_or(0, |newest| newest.index);
        if meta.index <= newest || meta.index > self.last() {
            return None;
        }
        self.older = self.newest.replace(meta);
        let older = self.older.as_ref()?;
        if older.index <= self.floor.0 {
            return None;
        }
        let mut floor = (older.index, older.term);
        let known = self.hard_state.commit;
        if planted(Mutant::LogCutPastSnapshot)
            && let Some(last) = self.get(known)
        {
            floor = (known, last.term);
        }
        let covered = floor.0 - self.floor.0;
        self.floor = floor;
        self.entries.drain(..covered as usize);
        Some(self.floor)
    }

    fn last(&self) -> u64 {
        self.floor.0 + self.entries.len() as u64
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        let position = index.checked_sub(self.floor.0 + 1)?;
        self.entries.get(position as usize)
    }
}

impl Storage for TailStorage {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.floor.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let start = (low - self.floor.0 - 1) as usize;
        let end = (high - self.floor.0 - 1) as usize;
        let max_size = max_size.into();
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        for entry in self.entries.range(start..end) {
            bytes = bytes.saturating_add(entry.data.len() as u64);
            entries.push(entry.clone());
            // Stops early so that a far-behind follower does not cost a copy of the whole tail.
            if max_size.is_some_and(|max| bytes > max) {
                break;
            }
        }
        limit_size(&mut entries, max_size);
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.floor.0 {
            return Ok(self.floor.1);
        }
        if index < self.floor.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.get(index)
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.floor.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// raft drops a snapshot whose members do not include the receiver, so such a one is not sent.
    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        match &self.newest {
            Some(meta) if meta.index >= request_index && meta.members.contains(to) => {
                Ok(wire::to_raft_snapshot(meta))
            }
            _ => {
                self.wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::turn::Membership;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        range
            .map(|index| {
                let mut entry = Entry::default();
                (entry.index, entry.term) = (index, term);
                entry
            })
            .collect()
    }

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            index,
            term: 1,
            members: Membership::of(&[1]),
            digest: [0; 32],
        }
    }

    fn check(storage: &TailStorage, first: u64, last: u64) {
        assert_eq!(storage.first_index(), Ok(first));
        assert_eq!(storage.last_index(), Ok(last));
        for index in first..=last {
            assert_eq!(storage.get(index).map(|e| e.index), Some(index));
        }
    }

    #[test]
    fn appends_overwrite_and_cuts_keep_the_older_snapshot() {
        let mut storage = TailStorage::new(Recovered::default(), ConfState::default());
        storage.append(&entries(1..=10, 1));
        check(&storage, 1, 10);
        storage.append(&entries(8..=9, 2));
        check(&storage, 1, 9);
        assert_eq!(storage.term(8), Ok(2));
        assert_eq!(storage.snapshot_taken(meta(4)), None);
        check(&storage, 1, 9);
        assert_eq!(storage.snapshot_taken(meta(7)), Some((4, 1)));
        check(&storage, 5, 9);
        assert_eq!(storage.term(4), Ok(1));
        assert_eq!(storage.term(3), Err(Error::Store(StorageError::Compacted)));
        for stale in [3, 7, 99] {
            assert_eq!(storage.snapshot_taken(meta(stale)), None);
        }
        storage.install(meta(20));
        check(&storage, 21, 20);
        storage.append(&entries(21..=22, 3));
        check(&storage, 21, 22);
    }
}
