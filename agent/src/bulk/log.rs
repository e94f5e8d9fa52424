//! The logs that are not wholly stored yet: how far each is, and the next piece of it.
//! Reads files; does NOT know the stream they leave on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::LOG_PIECE_BYTES_MAX;
use mlctl_proto::logs::whole;

/// One rank's log.
pub(super) type LogKey = (JobId, Epoch, u32);

/// How far a log is.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Option<File>,
    /// Stored by this leader; `None` until it has said so.
    stored: Option<u64>,
    /// A piece or a probe is on its way: the next one waits for the answer.
    asked: bool,
    ended: bool,
    dropped: u64,
}

/// A piece that may leave.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) key: LogKey,
    pub(super) offset: u64,
    pub(super) frames: Vec<u8>,
    pub(super) end: bool,
    pub(super) dropped: u64,
    pub(super) probe: bool,
}

/// Every log that is not wholly stored.
#[derive(Debug, Default)]
pub(super) struct Logs {
    logs: BTreeMap<LogKey, Log>,
    /// Those that may have something to send.
    dirty: BTreeSet<LogKey>,
}

impl Logs {
    /// Takes in the logs that lie in `folder`; `ended`: nobody writes them any more.
    pub(super) fn find(&mut self, (job, epoch): (JobId, Epoch), folder: &Path, ended: bool) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("rank-")?.strip_suffix(".log"));
            if let Some(rank) = number.and_then(|number| number.parse().ok()) {
                let log = self.entry((job, epoch, rank), entry.path());
                log.ended |= ended;
            }
        }
    }

    pub(super) fn grew(&mut self, key: LogKey, path: PathBuf) {
        self.entry(key, path);
    }

    pub(super) fn ended(&mut self, key: LogKey, path: PathBuf, dropped: u64) {
        let log = self.entry(key, path);
        log.ended = true;
        log.dropped = dropped;
    }

    fn entry(&mut self, key: LogKey, path: PathBuf) -> &mut Log {
        self.dirty.insert(key);
        let new = || Log {
            path,
            file: None,
            stored: None,
            asked: false,
            ended: false,
            dropped: 0,
        };
        self.logs.entry(key).or_insert_with(new)
    }

    /// A new leader: nothing is known of what it has.
    pub(super) fn forget_leader(&mut self) {
        for (key, log) in &mut self.logs {
            log.stored = None;
            log.asked = false;
            self.dirty.insert(*key);
        }
    }

    /// The leader has stored this much. `true`: the whole log is stored and forgotten here.
    pub(super) fn stored(&mut self, key: LogKey, offset: u64, end: bool) -> bool {
        let Some(log) = self.logs.get_mut(&key) else {
            return false;
        };
        log.stored = Some(offset);
        log.asked = false;
        if end && log.ended {
            self.logs.remove(&key);
            self.dirty.remove(&key);
            return true;
        }
        self.dirty.insert(key);
        false
    }

    /// Is anything of the attempt left to store?
    pub(super) fn has_attempt(&self, job: JobId, epoch: Epoch) -> bool {
        self.logs
            .range((job, epoch, 0)..=(job, epoch, u32::MAX))
            .next()
            .is_some()
    }

    /// Does an answer of the leader have to come?
    pub(super) fn waits(&self) -> bool {
        self.logs.values().any(|log| log.asked)
    }

    /// The next piece that may leave, if any. A log that cannot be read ends where it is.
    pub(super) fn next(&mut self) -> Option<Piece> {
        while let Some(key) = self.dirty.pop_first() {
            let Some(log) = self.logs.get_mut(&key).filter(|log| !log.asked) else {
                continue;
            };
            let piece = log.piece(key).unwrap_or_else(|error| {
                tracing::warn!(path = %log.path.display(), %error, "this log cannot be read further; it ends here");
                log.ended = true;
                let offset = log.stored.unwrap_or(0);
                Some(Piece { key, offset, frames: Vec::new(), end: true, dropped: log.dropped, probe: false })
            });
            if piece.is_some() {
                log.asked = true;
                return piece;
            }
        }
        None
    }
}

impl Log {
    fn piece(&mut self, key: LogKey) -> io::Result<Option<Piece>> {
        let Some(offset) = self.stored else {
            let probe = Piece {
                key,
                offset: 0,
                frames: Vec::new(),
                end: false,
                dropped: 0,
                probe: true,
            };
            return Ok(Some(probe));
        };
        let file = match &self.file {
            Some(file) => file,
            // The keeper makes the file when the rank starts.
            None => match File::open(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.ended => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Some(self.last(key, offset, Vec::new())));
                }
                other => self.file.insert(other?),
            },
        };
        let mut frames = vec![0; LOG_PIECE_BYTES_MAX];
        let read = read_at(file, &mut frames, offset)?;
        frames.truncate(read);
        let good =
            whole(&frames).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // What is behind the last whole frame is still being written, or was torn.
        frames.truncate(good);
        let more = read == LOG_PIECE_BYTES_MAX;
        if self.ended && !more {
            return Ok(Some(self.last(key, offset, frames)));
        }
        let piece = Piece {
            key,
            offset,
            frames,
            end: false,
            dropped: self.dropped,
            probe: false,
        };
        Ok((!piece.frames.is_empty()).then_some(piece))
    }

    fn last(&self, key: LogKey, offset: u64, frames: Vec<u8>) -> Piece {
        Piece {
            key,
            offset,
            frames,
            end: true,
            dropped: self.dropped,
            probe: false,
        }
    }
}

/// Fills `buffer` from `offset` as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::logs::{Frame, encode};
    use std::io::Write;

    const KEY: LogKey = (JobId::new(1, 1), Epoch::new(1, 1), 0);

    fn frames(lines: usize, bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..lines {
            encode(
                Frame {
                    flags: 0,
                    time_ms: 1,
                    text: &vec![b'x'; bytes],
                },
                &mut out,
            );
        }
        out
    }

    /// A leader that stores everything; what it has in the end.
    fn drain(logs: &mut Logs, stored: &mut Vec<u8>) -> bool {
        while let Some(piece) = logs.next() {
            assert!(piece.frames.len() <= LOG_PIECE_BYTES_MAX);
            if !piece.probe {
                assert_eq!(piece.offset, stored.len() as u64, "no gap and no overlap");
                stored.extend(&piece.frames);
            }
            if logs.stored(piece.key, stored.len() as u64, piece.end) {
                return true;
            }
        }
        false
    }

    #[test]
    fn a_growing_log_arrives_whole_and_a_torn_frame_never() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("rank-0.log");
        let mut logs = Logs::default();
        let mut stored = Vec::new();
        logs.grew(KEY, path.clone());
        assert!(!drain(&mut logs, &mut stored), "the file is not there yet");
        let all = frames(100, 9_000);
        let mut file = File::create(&path).expect("made");
        file.write_all(&all[..all.len() - 5]).expect("written");
        logs.grew(KEY, path.clone());
        assert!(!drain(&mut logs, &mut stored));
        assert_eq!(stored, frames(99, 9_000));
        file.write_all(&all[all.len() - 5..]).expect("written");
        file.write_all(&[9, 0]).expect("written");
        logs.ended(KEY, path, 7);
        assert!(drain(&mut logs, &mut stored));
        assert_eq!(stored, all);
        assert!(!logs.has_attempt(KEY.0, KEY.1));
    }

    #[test]
    fn a_new_leader_is_asked_first_and_gets_what_it_lacks() {
        let dir = tempfile::tempdir().expect("dir");
        let all = frames(3, 10);
        std::fs::write(dir.path().join("rank-0.log"), &all).expect("written");
        let mut logs = Logs::default();
        logs.find((KEY.0, KEY.1), dir.path(), true);
        for have in [0, all.len() / 3] {
            logs.forget_leader();
            assert!(logs.next().expect("a probe").probe);
            assert!(logs.next().is_none() && logs.waits(), "one at a time");
            logs.stored(KEY, have as u64, false);
            let piece = logs.next().expect("the rest");
            assert_eq!((piece.frames, piece.end), (all[have..].to_vec(), true));
        }
        // An answer that does not hold the end is no end.
        assert!(!logs.stored(KEY, all.len() as u64, false));
        assert!(logs.next().expect("the end again").end);
        assert!(logs.stored(KEY, all.len() as u64, true));
    }

    #[test]
    fn a_damaged_log_ends_where_it_is_damaged() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("rank-0.log"), [0xff; 100]).expect("written");
        std::fs::write(dir.path().join("rank-x.log"), b"").expect("written");
        let mut logs = Logs::default();
        logs.find((KEY.0, KEY.1), dir.path(), false);
        logs.next().expect("a probe");
        logs.stored(KEY, 0, false);
        let piece = logs.next().expect("an end");
        assert!(piece.end && piece.frames.is_empty());
        assert!(logs.stored(KEY, 0, true));
    }

    #[test]
    fn a_rank_that_never_wrote_ends_too() {
        let mut logs = Logs::default();
        logs.ended(KEY, PathBuf::from("/nonexistent/rank-0.log"), 0);
        assert!(drain(&mut logs, &mut Vec::new()));
    }
}
