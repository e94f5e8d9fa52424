//! Reads the logs of one attempt, all ranks together, from the start and then whatever was added. Blocks on the disk.
//!
//! Order within a rank is the order of arrival; between ranks it is by the nodes' clocks, for people. Waits for nothing.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::logs::{self, PARTIAL, STDERR};

use super::store::{LogError, Logs, RankLog, Stored};

/// Bytes taken from all ranks in one pass.
const PASS_BYTES: usize = 1 << 20;

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
    /// Without its newline.
    pub text: Vec<u8>,
}

/// A place in each log of an attempt.
#[derive(Debug)]
pub struct Reader {
    logs: Logs,
    job: JobId,
    epoch: Epoch,
    only: Option<u32>,
    ranks: BTreeMap<u32, (Arc<RankLog>, u64)>,
}

impl Reader {
    /// At the start of the logs of (`job`, `epoch`); of one rank if `only` names it.
    pub fn new(logs: &Logs, job: JobId, epoch: Epoch, only: Option<u32>) -> Self {
        Self {
            logs: logs.clone(),
            job,
            epoch,
            only,
            ranks: BTreeMap::new(),
        }
    }

    /// The next lines; empty when all that is stored was read.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(&mut self) -> Result<Vec<Line>, LogError> {
        for rank in self.logs.ranks(self.job, self.epoch)? {
            if self.only.is_none_or(|only| only == rank) && !self.ranks.contains_key(&rank) {
                let log = self.logs.open((self.job, self.epoch, rank))?;
                self.ranks.insert(rank, (log, 0));
            }
        }
        let share = PASS_BYTES / self.ranks.len().max(1);
        let mut lines = Vec::new();
        for (rank, (log, at)) in &mut self.ranks {
            let bytes = log.read(*at, share)?;
            *at += bytes.len() as u64;
            let mut rest = bytes.as_slice();
            while let Ok(Some((frame, used))) = logs::decode(rest) {
                lines.push(Line {
                    rank: *rank,
                    stderr: frame.flags & STDERR != 0,
                    partial: frame.flags & PARTIAL != 0,
                    time_ms: frame.time_ms,
                    text: frame.text.to_vec(),
                });
                rest = &rest[used..];
            }
        }
        // A clock that was set back must not reorder a rank's own lines.
        let mut latest: BTreeMap<u32, u64> = BTreeMap::new();
        let keyed = lines.into_iter().map(|line| {
            let at = latest.entry(line.rank).or_default();
            *at = (*at).max(line.time_ms);
            (*at, line)
        });
        let mut keyed: Vec<(u64, Line)> = keyed.collect();
        keyed.sort_by_key(|(at, _)| *at);
        Ok(keyed.into_iter().map(|(_, line)| line).collect())
    }

    /// What is stored of each rank that has a log.
    pub fn stored(&self) -> BTreeMap<u32, Stored> {
        let ranks = self.ranks.iter();
        ranks
            .map(|(rank, (log, _))| (*rank, log.stored()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Piece;
    use super::*;
    use mlctl_proto::logs::Frame;

    fn append(logs: &Logs, rank: u32, offset: u64, lines: &[(u64, &str)], end: bool) -> u64 {
        let key = (JobId::new(1, 1), Epoch::new(1, 1), rank);
        let mut frames = Vec::new();
        for (time_ms, text) in lines {
            let frame = Frame {
                flags: 0,
                time_ms: *time_ms,
                text: text.as_bytes(),
            };
            logs::encode(frame, &mut frames);
        }
        let piece = Piece {
            offset,
            frames: &frames,
            end,
            dropped: 0,
        };
        let log = logs.open(key).expect("opens");
        log.append(key, piece).expect("stored").offset
    }

    #[test]
    fn ranks_are_merged_and_followed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let logs = Logs::new(dir.path());
        let mut reader = Reader::new(&logs, JobId::new(1, 1), Epoch::new(1, 1), None);
        assert!(reader.read().expect("nothing yet").is_empty());
        let at = append(&logs, 1, 0, &[(10, "b1"), (30, "b2"), (20, "b3")], false);
        append(&logs, 0, 0, &[(5, "a1"), (25, "a2")], true);
        let texts = |lines: Vec<Line>| -> Vec<String> {
            let text =
                |line: Line| format!("{} {}", line.rank, String::from_utf8_lossy(&line.text));
            lines.into_iter().map(text).collect()
        };
        let got = texts(reader.read().expect("read"));
        assert_eq!(got, ["0 a1", "1 b1", "0 a2", "1 b2", "1 b3"]);
        assert!(reader.read().expect("read").is_empty());
        append(&logs, 1, at, &[(40, "b4")], true);
        assert_eq!(texts(reader.read().expect("read")), ["1 b4"]);
        assert!(reader.stored().values().all(|stored| stored.end));
        let mut one = Reader::new(&logs, JobId::new(1, 1), Epoch::new(1, 1), Some(0));
        assert_eq!(texts(one.read().expect("read")), ["0 a1", "0 a2"]);
    }
}
