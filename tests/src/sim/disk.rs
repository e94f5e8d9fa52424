//! A coordinator's simulated disk: the log with its mark, and snapshots. What is here survives a crash; what is under way does not.
//! Does NOT decide when something is stored: the world does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mlctl_coordinator::consensus::log::engine::Mark;
use mlctl_coordinator::consensus::log::{recover, writes_are_synced};
use mlctl_coordinator::consensus::turn::{Membership, Persist, Recovered, SnapshotMeta};
use mlctl_coordinator::state::{State, codec};

use super::records::{self, Wrong};

/// Writes that a system keeps back when nobody asks for a sync.
const UNSYNCED: usize = 8;

/// Snapshots of more jobs than this are not always read from their bytes.
const SMALL_JOBS: usize = 100;

/// A snapshot file.
#[derive(Debug, Clone)]
pub(super) struct SnapshotFile {
    pub(super) meta: SnapshotMeta,
    /// Since when a bit of it was another, when it was taken.
    pub(super) flipped: Option<u64>,
    /// What was written. Its bytes are made when somebody reads them: most files are never read.
    state: Arc<State>,
}

impl SnapshotFile {
    /// The file of a state that was reached with the entry `index` of `term`.
    pub(super) fn new(
        state: State,
        flipped: Option<u64>,
        (index, term): (u64, u64),
        voters: &[u64],
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&index.to_le_bytes());
        hasher.update(&state.applied_index().to_le_bytes());
        hasher.update(&state.digest().to_bytes());
        let meta = SnapshotMeta {
            index,
            term,
            members: Membership::of(voters),
            digest: *hasher.finalize().as_bytes(),
        };
        let state = Arc::new(state);
        Self {
            meta,
            flipped,
            state,
        }
    }

    /// The state that is in the file. `through_bytes`: by writing and reading its bytes, which is what is tested and what costs.
    fn read(&self, through_bytes: bool) -> Result<State, String> {
        if !through_bytes {
            return Ok(State::clone(&self.state));
        }
        let bytes = codec::encode_snapshot(&self.state);
        codec::decode_snapshot(&bytes).map_err(|error| error.to_string())
    }

    /// So many jobs are in it.
    fn jobs(&self) -> usize {
        self.state.jobs().take(SMALL_JOBS + 1).count()
    }
}

/// What a coordinator finds when it starts.
#[derive(Default)]
pub(super) struct Disk {
    log: Recovered,
    snapshots: BTreeMap<u64, SnapshotFile>,
    /// Snapshots that were pulled from leaders. One counts only when the log says that it begins after it.
    received: BTreeMap<u64, SnapshotFile>,
    /// Written and not synced: a crash loses it.
    unsynced: Vec<Persist>,
    /// What is wrong with the bytes of the log.
    wrong: Wrong,
    /// A bit of this snapshot is another.
    rotten_snapshot: Option<u64>,
}

/// What a crash makes of a write that was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing of it is there.
    Lost,
    /// All of it is there, and nobody was told.
    Stored,
    /// Its beginning is there: so many thousandths.
    Torn(u64),
}

/// What a start begins from.
pub(super) struct Found {
    pub(super) recovered: Recovered,
    pub(super) state: State,
    /// (index, term) of the state.
    pub(super) at: (u64, u64),
    /// A torn record was cut off.
    pub(super) torn: bool,
    /// Since when a bit of the state is another.
    pub(super) flipped: Option<u64>,
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
        let first = persist.entries.first().map(|entry| entry.index);
        let gone = |(index, _): &(u64, u64)| {
            persist.install.is_some() || first.is_some_and(|first| first <= *index)
        };
        self.wrong.flipped = self.wrong.flipped.filter(|flipped| !gone(flipped));
        if let Some(meta) = &persist.install {
            self.log.entries.clear();
            self.log.floor = (meta.index, meta.term);
            self.snapshots.clear();
            self.rotten_snapshot = None;
            if let Some(file) = self.received.remove(&meta.index) {
                self.store_snapshot(file);
            }
        }
        self.log.hard_state = persist.hard_state;
        if let Some(first) = first {
            self.log.entries.retain(|entry| entry.index < first);
            self.log.entries.extend(persist.entries);
        }
    }

    /// What was not really stored is gone. `fate`: what becomes of the write that was under way.
    pub(super) fn crash(&mut self, under_way: Option<Persist>, fate: Fate) {
        self.unsynced.clear();
        match (under_way, fate) {
            (Some(persist), Fate::Stored) => self.store(persist),
            (Some(_), Fate::Torn(thousandths)) if !self.log.entries.is_empty() => {
                self.wrong.torn = Some(thousandths);
            }
            _ => {}
        }
        self.received.clear();
    }

    /// A bit rots in a synced record of the log. Not in the last: there it cannot be told from a torn write.
    pub(super) fn rot_log(&mut self, place: u64, bit: u64) {
        let earlier = self.log.entries.len().saturating_sub(1) as u64;
        if earlier > 0 {
            self.wrong.flipped = Some((self.log.floor.0 + 1 + place % earlier, bit));
        }
    }

    /// A bit rots in the newest snapshot.
    pub(super) fn rot_snapshot(&mut self) {
        self.rotten_snapshot = self.snapshots.keys().next_back().copied();
    }

    /// Whether something that was stored is not what it was.
    pub(super) fn is_damaged(&self) -> bool {
        self.wrong.flipped.is_some() || self.rotten_snapshot.is_some()
    }

    /// People put the bytes back.
    pub(super) fn repair(&mut self) {
        (self.wrong.flipped, self.rotten_snapshot) = (None, None);
    }

    /// The log is not needed up to this (index, term).
    pub(super) fn cut(&mut self, floor: (u64, u64)) {
        self.log.floor = floor;
        self.wrong.flipped = self.wrong.flipped.filter(|(index, _)| *index > floor.0);
        self.log.entries.retain(|entry| entry.index > floor.0);
        let older = self.snapshots.keys().rev().nth(1).copied().unwrap_or(0);
        self.snapshots.retain(|index, _| *index >= older);
        self.rotten_snapshot = self.rotten_snapshot.filter(|rotten| *rotten >= older);
    }

    pub(super) fn receive(&mut self, file: SnapshotFile) {
        self.received.insert(file.meta.index, file);
    }

    pub(super) fn store_snapshot(&mut self, file: SnapshotFile) {
        self.snapshots.insert(file.meta.index, file);
    }

    pub(super) fn snapshot(&self, meta: &SnapshotMeta) -> Option<&SnapshotFile> {
        let file = self.snapshots.get(&meta.index);
        let file = file.filter(|_| self.rotten_snapshot != Some(meta.index));
        file.filter(|stored| stored.meta.digest == meta.digest)
    }

    /// Whether a snapshot was taken of a state of which a bit was another.
    pub(super) fn holds_a_flip(&self) -> bool {
        let mut files = self.snapshots.values().chain(self.received.values());
        files.any(|file| file.flipped.is_some())
    }

    /// The newest snapshot that holds what it should.
    pub(super) fn newest_sound(&self) -> Option<&SnapshotFile> {
        let sound = |file: &&SnapshotFile| {
            file.flipped.is_none() && self.rotten_snapshot != Some(file.meta.index)
        };
        self.snapshots.values().rev().find(sound)
    }

    /// A snapshot takes the place of everything but the term and the vote. It covers all that was stored.
    pub(super) fn replace(&mut self, file: SnapshotFile) {
        self.log.entries.clear();
        self.log.floor = (file.meta.index, file.meta.term);
        self.log.hard_state.commit = file.meta.index;
        self.wrong = Wrong::default();
        self.rotten_snapshot = None;
        self.snapshots = BTreeMap::from([(file.meta.index, file)]);
    }

    /// (term, vote, last index) as stored.
    pub(super) fn stored(&self) -> (u64, u64, u64) {
        let state = &self.log.hard_state;
        let last = self.log.floor.0 + self.log.entries.len() as u64;
        (state.term, state.vote, last)
    }

    /// What a start may begin from, judged as the product judges it, with the restored state and its (index, term).
    /// A large snapshot is read from its bytes if `thoroughly`, a small one always.
    pub(super) fn recover(&mut self, thoroughly: bool) -> Result<Found, String> {
        let torn = self.scan()?;
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
            .filter(|file| self.rotten_snapshot != Some(file.meta.index))
            .map(|file| file.meta.clone())
            .collect();
        let entries = self.log.entries.clone();
        let recovered = recover::judge(Path::new("/simulated"), &mark, entries, &verified)
            .map_err(|error| error.to_string())?;
        let (state, at) = match &recovered.snapshot {
            Some(meta) => (self.restore(meta, thoroughly)?, (meta.index, meta.term)),
            None => (State::new(), (0, 0)),
        };
        let from = recovered.snapshot.as_ref();
        let flipped = from.and_then(|meta| self.snapshot(meta)?.flipped);
        Ok(Found {
            flipped,
            recovered,
            state,
            at,
            torn,
        })
    }

    /// The scanner looks at the bytes. Whether a torn record was cut off.
    fn scan(&mut self) -> Result<bool, String> {
        if self.wrong == Wrong::default() {
            return Ok(false);
        }
        let entries = self.log.entries.iter();
        let entries: Vec<records::Entry> = entries
            .map(|entry| (entry.index, entry.data.to_vec()))
            .collect();
        let cut = records::judge(&entries, self.wrong)?;
        self.wrong.torn = None;
        Ok(cut > 0)
    }

    /// The state that a snapshot holds.
    pub(super) fn restore(&self, meta: &SnapshotMeta, thoroughly: bool) -> Result<State, String> {
        let index = meta.index;
        let file = self
            .snapshot(meta)
            .ok_or_else(|| format!("snapshot {index} is not there"))?;
        let state = file.read(thoroughly || file.jobs() <= SMALL_JOBS)?;
        if state.applied_index() == index {
            Ok(state)
        } else {
            let held = state.applied_index();
            Err(format!("snapshot {index} holds index {held}"))
        }
    }
}
