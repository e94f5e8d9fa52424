//! Reads the logs of one attempt, all ranks together, from the start and then whatever was added. Blocks on the disk.
//!
//! Order within a rank is the order of arrival; between ranks it is by the nodes' clocks, for people. Waits for nothing. A reader holds
//! no lines: one that is slow reads later, and what was rotated away meanwhile is a gap that is said.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::logs::{self, DUMP, PARTIAL, STDERR};

use super::store::{AttemptLogs, Logs, RankLog};
use super::{LogError, Stored};

/// Bytes that are asked for from all ranks in one pass.
const PASS_BYTES: usize = 1 << 20;
/// Where a pass over very many ranks ends.
const PASS_BYTES_MAX: usize = 8 << 20;

/// One line, or part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which rank wrote it.
    pub rank: u32,
    /// To standard error.
    pub stderr: bool,
    /// It goes on in the rank's next line.
    pub partial: bool,
    /// The node's clock, UTC milliseconds.
    pub time_ms: u64,
    /// Behind it within the framed log.
    pub offset: u64,
    /// Without its newline.
    pub text: Vec<u8>,
}

/// A part of a log that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Of which rank.
    pub rank: u32,
    /// Where it begins.
    pub from: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// What a reader finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A line.
    Line(Line),
    /// A gap before the rank's next line.
    Missing(Missing),
}

/// A place in each log of an attempt.
#[derive(Debug)]
pub struct Reader {
    logs: Logs,
    job: JobId,
    epoch: Epoch,
    only: Option<u32>,
    /// Dumps are read, and not the output.
    dumps: bool,
    attempt: Option<Arc<AttemptLogs>>,
    /// Ranks of which more may come, and where each is.
    live: BTreeMap<u32, (RankLog, u64)>,
    done: BTreeMap<u32, Stored>,
    /// Ranks that stand before a gap.
    stopped: BTreeMap<u32, Missing>,
    over_gaps: bool,
    /// The rank with which the next pass begins.
    turn: u32,
}

impl Reader {
    /// At the start of the logs of (`job`, `epoch`); of one rank if `only` names it.
    pub fn new(logs: &Logs, job: JobId, epoch: Epoch, only: Option<u32>) -> Self {
        Self {
            logs: logs.clone(),
            job,
            epoch,
            only,
            dumps: false,
            attempt: None,
            live: BTreeMap::new(),
            done: BTreeMap::new(),
            stopped: BTreeMap::new(),
            over_gaps: false,
            turn: 0,
        }
    }

    /// The same for what ranks dumped, instead of what they wrote.
    pub fn of_dumps(self) -> Self {
        Self {
            dumps: true,
            ..self
        }
    }

    /// Whether a rank stands before a gap: perhaps it can be filled.
    pub fn stopped(&self) -> bool {
        !self.stopped.is_empty()
    }

    /// Gaps are passed over from now on, and said.
    pub fn pass_gaps(&mut self) {
        self.over_gaps = true;
    }

    /// The next entries; empty when all that is stored was read, or no rank can go on without [`Reader::pass_gaps`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(&mut self) -> Result<Vec<Entry>, LogError> {
        let attempt = match &self.attempt {
            Some(attempt) => attempt,
            None => self
                .attempt
                .insert(self.logs.attempt(self.job, self.epoch)?),
        };
        if attempt.count() != self.live.len() + self.done.len() {
            for rank in attempt.ranks() {
                let known = self.live.contains_key(&rank) || self.done.contains_key(&rank);
                let only = self.only.is_none_or(|only| only == rank & !DUMP);
                if only && self.dumps == (rank & DUMP != 0) && !known {
                    let log = self.logs.open((self.job, self.epoch, rank))?;
                    self.live.insert(rank, (log, 0));
                }
            }
        }
        let share = PASS_BYTES / self.live.len().max(1);
        let later: Vec<u32> = self
            .live
            .range(self.turn..)
            .map(|(rank, _)| *rank)
            .collect();
        let before: Vec<u32> = self
            .live
            .range(..self.turn)
            .map(|(rank, _)| *rank)
            .collect();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for rank in later.into_iter().chain(before) {
            self.turn = rank;
            if bytes > PASS_BYTES_MAX {
                break;
            }
            bytes += self.read_rank(rank, share, &mut entries)?;
            self.turn = rank.wrapping_add(1);
        }
        Ok(by_time(entries))
    }

    /// Reads on in one log.
    fn read_rank(
        &mut self,
        rank: u32,
        share: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<usize, LogError> {
        let Some((log, at)) = self.live.get_mut(&rank) else {
            return Ok(0);
        };
        // Before the log is read: what had ended then is read whole.
        let stored = log.stored()?;
        let chunk = log.read(*at, share)?;
        if chunk.at > *at {
            let missing = Missing {
                rank,
                from: *at,
                bytes: chunk.at - *at,
            };
            if !self.over_gaps {
                self.stopped.insert(rank, missing);
                return Ok(0);
            }
            entries.push(Entry::Missing(missing));
        }
        self.stopped.remove(&rank);
        *at = chunk.at;
        let mut rest = chunk.frames.as_slice();
        while let Ok(Some((frame, used))) = logs::decode(rest) {
            *at += used as u64;
            entries.push(Entry::Line(Line {
                rank: rank & !DUMP,
                stderr: frame.flags & STDERR != 0,
                partial: frame.flags & PARTIAL != 0,
                time_ms: frame.time_ms,
                offset: *at,
                text: frame.text.to_vec(),
            }));
            rest = &rest[used..];
        }
        if stored.end && *at >= stored.offset {
            self.live.remove(&rank);
            self.done.insert(rank, stored);
        }
        Ok(chunk.frames.len())
    }

    /// What is stored of each rank that has a log. One that ended after it was read counts as ended once the rest was read too.
    pub fn stored(&self) -> BTreeMap<u32, Stored> {
        let live = self.live.iter();
        let live = live.map(|(rank, (log, at))| {
            let stored = log.stored().unwrap_or_default();
            let end = stored.end && *at >= stored.offset;
            (*rank, Stored { end, ..stored })
        });
        live.chain(self.done.iter().map(|(rank, stored)| (*rank, *stored)))
            .collect()
    }
}

/// Merged by time; a clock that was set back does not reorder a rank's own entries.
fn by_time(entries: Vec<Entry>) -> Vec<Entry> {
    let mut latest: BTreeMap<u32, u64> = BTreeMap::new();
    let keyed = entries.into_iter().map(|entry| {
        let (rank, time_ms) = match &entry {
            Entry::Line(line) => (line.rank, line.time_ms),
            Entry::Missing(missing) => (missing.rank, 0),
        };
        let at = latest.entry(rank).or_default();
        *at = (*at).max(time_ms);
        (*at, entry)
    });
    let mut keyed: Vec<(u64, Entry)> = keyed.collect();
    keyed.sort_by_key(|(at, _)| *at);
    keyed.into_iter().map(|(_, entry)| entry).collect()
}
