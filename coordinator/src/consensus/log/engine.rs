//! raft-engine as the store of the log: one synced write per turn, cuts, and reading everything back.
//!
//! It does not judge what it reads (`recover` does) and never retries: after a failed write or sync nobody knows
//! what the disk holds, so the process has to end.

use super::files::{Failure, Files};
use super::witness::Witness;
use super::{LogError, scanner, sync_directory, writes_are_synced};
use raft::eraftpb::{Entry, HardState};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const GROUP: u64 = 1;
const MARK_KEY: &[u8] = b"mark";
const MARK_VERSION: u8 = 2;
const FILE_MIB: u64 = 16;
const PURGE_MIB: u64 = 64;

/// What is stored beside the entries, whole, with every write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Raised only when a cluster is recovered by hand; first part of every epoch.
    pub incarnation: u64,
    /// Raft's term.
    pub term: u64,
    /// Whom this member voted for in `term`, 0 for nobody.
    pub vote: u64,
    /// A lower bound of the commit index; the log reaches it.
    pub commit: u64,
    /// (index, term) just before the first entry that the log must hold.
    pub floor: (u64, u64),
}

impl Mark {
    /// The mark of a member that has seen nothing.
    pub fn fresh() -> Self {
        Self {
            incarnation: 1,
            term: 0,
            vote: 0,
            commit: 0,
            floor: (0, 0),
        }
    }

    /// As raft wants it.
    pub fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
            ..HardState::default()
        }
    }

    /// With the number of the write that stores it.
    fn encode(&self, writes: u64) -> Vec<u8> {
        let mut bytes = vec![MARK_VERSION];
        let numbers = [
            self.incarnation,
            self.term,
            self.vote,
            self.commit,
            self.floor.0,
            self.floor.1,
            writes,
        ];
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(Self, u64)> {
        let (&version, rest) = bytes.split_first()?;
        if version != MARK_VERSION || rest.len() != 56 {
            return None;
        }
        let mut numbers = [0u64; 7];
        for (number, chunk) in numbers.iter_mut().zip(rest.chunks_exact(8)) {
            *number = u64::from_le_bytes(<[u8; 8]>::try_from(chunk).ok()?);
        }
        let [incarnation, term, vote, commit, floor, floor_term, writes] = numbers;
        // What comes after them is computed without looking. A vote is a random number.
        if [incarnation, term, commit, floor, floor_term, writes]
            .iter()
            .any(|number| *number > u64::MAX >> 1)
        {
            return None;
        }
        let mark = Self {
            incarnation,
            term,
            vote,
            commit,
            floor: (floor, floor_term),
        };
        Some((mark, writes))
    }
}

struct RaftEntry;

impl MessageExt for RaftEntry {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// The open log.
pub struct LogStore {
    dir: PathBuf,
    engine: Engine<Files>,
    failure: Failure,
    mark: Mark,
    fresh: bool,
    /// Writes so far.
    writes: u64,
    witness: Witness,
}

impl LogStore {
    /// Scans and opens the log, making an empty one if there is none.
    ///
    /// # Errors
    /// [`LogError::Damaged`] from the scanner or for a mark of an unknown format; what the disk refused otherwise.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        Self::open_on(Files::default(), dir)
    }

    /// As [`LogStore::open`], on these files.
    pub(super) fn open_on(files: Files, dir: &Path) -> Result<Self, LogError> {
        std::fs::create_dir_all(dir).map_err(LogError::io("create", dir))?;
        let scan = scanner::scan(dir)?;
        if scan.torn_bytes > 0 {
            tracing::info!(
                bytes = scan.torn_bytes,
                "the last write before the crash was torn; it was never acknowledged and is cut off"
            );
        }
        for (path, sound) in &scan.torn {
            cut_off(path, *sound)?;
        }
        let failure = files.failure();
        let open = || Engine::open_with_file_system(settings(dir), Arc::new(files));
        let engine = reading(dir, open)?.map_err(failed("open", dir))?;
        failure.check()?;
        // raft-engine syncs the directory for every file but the first.
        sync_directory(dir)?;
        let stored = engine.get(GROUP, MARK_KEY);
        let fresh = stored.is_none();
        let (mark, writes) = match stored {
            None => (Mark::fresh(), 0),
            Some(bytes) => Mark::decode(&bytes).ok_or_else(|| {
                LogError::damaged(dir, "its mark is of a format that this release cannot read")
            })?,
        };
        let (witness, seen) = Witness::open(dir)?;
        if let Some(seen) = seen.filter(|seen| *seen > writes) {
            return Err(LogError::damaged(
                dir,
                format!("it ends with write {writes}, but write {seen} was synced here"),
            ));
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            engine,
            failure,
            mark,
            fresh,
            writes,
            witness,
        })
    }

    /// Whether nothing was ever written here.
    pub fn is_fresh(&self) -> bool {
        self.fresh && self.engine.last_index(GROUP).is_none()
    }

    /// What the last write stored.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads every entry above the floor; raft-engine checks and decodes each.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when one cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, LogError> {
        let first = self.engine.first_index(GROUP);
        let (Some(first), Some(last)) = (first, self.engine.last_index(GROUP)) else {
            return Ok(Vec::new());
        };
        let first = first.max(self.mark.floor.0 + 1);
        let mut entries = Vec::new();
        // raft-engine may still know entries that a cut already gave up.
        if first > last {
            return Ok(entries);
        }
        let fetch = || {
            self.engine
                .fetch_entries_to::<RaftEntry>(GROUP, first, last + 1, None, &mut entries)
        };
        reading(&self.dir, fetch)?.map_err(|error| {
            LogError::damaged(
                &self.dir,
                format!("an entry between {first} and {last} cannot be read: {error}"),
            )
        })?;
        Ok(entries)
    }

    /// Appends entries with term, vote and commit index, in one synced write.
    ///
    /// # Errors
    /// The disk's; the process must end.
    pub fn write(&mut self, hard_state: &HardState, entries: &[Entry]) -> Result<(), LogError> {
        self.take(hard_state);
        let mut batch = LogBatch::default();
        batch
            .add_entries::<RaftEntry>(GROUP, entries)
            .map_err(failed("write", &self.dir))?;
        self.commit(batch)
    }

    /// Replaces all entries by the fact that a snapshot of (index, term) is on disk.
    ///
    /// # Errors
    /// The disk's; the process must end.
    pub fn install(&mut self, hard_state: &HardState, floor: (u64, u64)) -> Result<(), LogError> {
        self.take(hard_state);
        self.mark.floor = floor;
        let mut batch = LogBatch::default();
        batch.add_command(GROUP, Command::Clean);
        self.commit(batch)
    }

    /// Forgets entries up to and including `floor` and deletes files that hold nothing else.
    ///
    /// # Errors
    /// The disk's; the process must end.
    pub fn cut(&mut self, floor: (u64, u64)) -> Result<(), LogError> {
        self.mark.floor = floor;
        let mut batch = LogBatch::default();
        let index = floor.0 + 1;
        batch.add_command(GROUP, Command::Compact { index });
        self.commit(batch)?;
        self.engine
            .purge_expired_files()
            .map_err(failed("purge", &self.dir))?;
        self.failure.check()
    }

    /// Writes the first mark of a new member of a cluster of this incarnation.
    ///
    /// # Errors
    /// The disk's.
    pub fn initialize(&mut self, incarnation: u64) -> Result<(), LogError> {
        self.mark.incarnation = incarnation;
        self.commit(LogBatch::default())?;
        self.fresh = false;
        Ok(())
    }

    fn take(&mut self, hard_state: &HardState) {
        self.mark.term = hard_state.term;
        self.mark.vote = hard_state.vote;
        self.mark.commit = hard_state.commit;
    }

    fn commit(&mut self, mut batch: LogBatch) -> Result<(), LogError> {
        self.writes += 1;
        let written = batch
            .put(GROUP, MARK_KEY.to_vec(), self.mark.encode(self.writes))
            .and_then(|()| self.engine.write(&mut batch, writes_are_synced()));
        // First of all: what raft-engine says after a failed sync is a consequence.
        self.failure.check()?;
        written.map_err(failed("write", &self.dir))?;
        self.witness.saw(self.writes)
    }
}

/// Takes a torn write off the end of a file, before raft-engine believes the length that it begins with. A file without a sound header
/// goes as a whole: raft-engine would give it a header of an older format, and what it then wrote there the next scan would not know.
fn cut_off(path: &Path, sound: u64) -> Result<(), LogError> {
    if sound == 0 {
        std::fs::remove_file(path).map_err(LogError::io("remove", path))?;
        return path.parent().map_or(Ok(()), sync_directory);
    }
    let file = std::fs::File::options().write(true).open(path);
    file.and_then(|file| file.set_len(sound).and_then(|()| file.sync_all()))
        .map_err(LogError::io("cut", path))
}

/// raft-engine panics at records that are whole but do not fit together, as a hole between entries. To stop again and again is no
/// answer for a member: it is damage, and says so. Nothing of the engine is used after a panic.
fn reading<T>(dir: &Path, read: impl FnOnce() -> T) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| LogError::damaged(dir, "its records do not fit together"))
}

fn settings(dir: &Path) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: 1,
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize::mb(FILE_MIB),
        purge_threshold: ReadableSize::mb(PURGE_MIB),
        enable_log_recycle: false,
        prefill_for_recycle: false,
        ..Config::default()
    }
}

fn failed(action: &'static str, dir: &Path) -> impl FnOnce(raft_engine::Error) -> LogError + use<> {
    let dir = dir.to_path_buf();
    move |error| LogError::Engine {
        action,
        dir,
        reason: error.to_string(),
    }
}
