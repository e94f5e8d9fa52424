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

/// A shorter log has one file, and its folder is not looked through for others: it may be that of a large array.
const LISTED_FROM: u64 = 64 * 1024;

/// One rank's log.
pub(super) type LogKey = (JobId, Epoch, u32);

/// How far a log is.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// The file that is read, and where it begins.
    file: Option<(u64, File)>,
    /// Stored by this leader; `None` until it has said so.
    stored: Option<u64>,
    /// All of it is stored, and it waits for the word that it is kept.
    whole: bool,
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
    /// What lies between what is stored and `offset` is not here any more.
    pub(super) skip: bool,
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
            let Some((rank, begins)) = name.to_str().and_then(file_name) else {
                continue;
            };
            if begins == 0 {
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
            whole: false,
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
            log.file = None;
            log.whole = false;
            log.asked = false;
            self.dirty.insert(*key);
        }
    }

    /// The leader has stored this much. `true`: the whole log is kept elsewhere and forgotten here.
    pub(super) fn stored(&mut self, key: LogKey, offset: u64, end: bool, kept: bool) -> bool {
        let Some(log) = self.logs.get_mut(&key) else {
            return false;
        };
        log.stored = Some(offset);
        log.asked = false;
        if !(end && log.ended) {
            self.dirty.insert(key);
            return false;
        }
        self.dirty.remove(&key);
        if kept {
            self.logs.remove(&key);
        } else {
            (log.whole, log.file) = (true, None);
        }
        kept
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
            let waiting = |log: &&mut Log| !log.asked && !log.whole;
            let Some(log) = self.logs.get_mut(&key).filter(waiting) else {
                continue;
            };
            let piece = log.piece(key).unwrap_or_else(|error| {
                tracing::warn!(path = %log.path.display(), %error, "this log cannot be read further; it ends here");
                log.ended = true;
                let offset = log.stored.unwrap_or(0);
                Some(log.last(key, offset, Vec::new()))
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
        let Some(stored) = self.stored else {
            return Ok(Some(Piece {
                probe: true,
                end: false,
                ..self.last(key, 0, Vec::new())
            }));
        };
        let mut offset = stored;
        if self
            .file
            .as_ref()
            .is_some_and(|(begins, _)| *begins > offset)
        {
            // The leader has less than what it was sent.
            self.file = None;
        }
        loop {
            let Some((begins, file)) = &self.file else {
                match self.open_at(offset)? {
                    Some(begins) => offset = offset.max(begins),
                    // The keeper makes the file when the rank starts.
                    None if !self.ended => return Ok(None),
                    None => return Ok(Some(self.last(key, offset, Vec::new()))),
                }
                continue;
            };
            let mut frames = vec![0; LOG_PIECE_BYTES_MAX];
            let read = read_at(file, &mut frames, offset.saturating_sub(*begins))?;
            frames.truncate(read);
            let good = whole(&frames)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // What is behind the last whole frame is still being written, or was torn.
            frames.truncate(good);
            let skip = offset > stored;
            if !frames.is_empty() {
                let end = self.ended
                    && read < LOG_PIECE_BYTES_MAX
                    && self.next(offset + good as u64)?.is_none();
                return Ok(Some(Piece {
                    end,
                    skip,
                    ..self.last(key, offset, frames)
                }));
            }
            match self.next(offset)? {
                Some((begins, file)) => {
                    offset = offset.max(begins);
                    self.file = Some((begins, file));
                }
                None if self.ended => {
                    return Ok(Some(Piece {
                        skip,
                        ..self.last(key, offset, frames)
                    }));
                }
                None => return Ok(None),
            }
        }
    }

    /// Opens the file that holds `offset`, or the first one behind it. Where it begins.
    fn open_at(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let opened = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if opened.metadata()?.len() >= offset {
            self.file = Some((0, opened));
            return Ok(Some(0));
        }
        let begins = self.tail_files();
        let holds = begins.range(..=offset).next_back().copied();
        let mut found = None;
        for begins in holds
            .into_iter()
            .chain(begins.range(offset..).next().copied())
        {
            let Some(file) = opened_if_there(&self.tail_path(begins))? else {
                continue;
            };
            if begins >= offset || begins + file.metadata()?.len() >= offset {
                found = Some((begins, file));
                break;
            }
        }
        // A leader that has more than there is here is told so by an end, or by what comes.
        let found = found.unwrap_or((0, opened));
        let begins = found.0;
        self.file = Some(found);
        Ok(Some(begins))
    }

    /// The file that goes on at `offset`, or, if that one is gone already, the oldest one behind it.
    fn next(&self, offset: u64) -> io::Result<Option<(u64, File)>> {
        let current = self.file.as_ref().map_or(0, |(begins, _)| *begins);
        if offset > current
            && let Some(file) = opened_if_there(&self.tail_path(offset))?
        {
            return Ok(Some((offset, file)));
        }
        if offset < LISTED_FROM {
            return Ok(None);
        }
        for begins in self.tail_files().range(offset + 1..) {
            if let Some(file) = opened_if_there(&self.tail_path(*begins))? {
                return Ok(Some((*begins, file)));
            }
        }
        Ok(None)
    }

    fn tail_path(&self, begins: u64) -> PathBuf {
        self.path.with_extension(format!("{begins}.log"))
    }

    /// Where the files of the newest part begin.
    fn tail_files(&self) -> BTreeSet<u64> {
        let own = self
            .path
            .file_name()
            .and_then(|name| file_name(name.to_str()?));
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| file_name(entry.file_name().to_str()?));
        names
            .filter(|(rank, begins)| *begins > 0 && own.is_some_and(|own| own.0 == *rank))
            .map(|(_, begins)| begins)
            .collect()
    }

    fn last(&self, key: LogKey, offset: u64, frames: Vec<u8>) -> Piece {
        Piece {
            key,
            offset,
            frames,
            end: true,
            dropped: self.dropped,
            probe: false,
            skip: false,
        }
    }
}

/// The rank and the beginning of a log file called `name`: `rank-7.log`, or `rank-7.1048576.log` of its newest part.
fn file_name(name: &str) -> Option<(u32, u64)> {
    let name = name.strip_prefix("rank-")?.strip_suffix(".log")?;
    match name.split_once('.') {
        Some((rank, begins)) => Some((rank.parse().ok()?, begins.parse().ok()?)),
        None => Some((name.parse().ok()?, 0)),
    }
}

fn opened_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
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
            if logs.stored(piece.key, stored.len() as u64, piece.end, piece.end) {
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
            logs.stored(KEY, have as u64, false, false);
            let piece = logs.next().expect("the rest");
            assert_eq!((piece.frames, piece.end), (all[have..].to_vec(), true));
        }
        // An answer that does not hold the end is no end.
        assert!(!logs.stored(KEY, all.len() as u64, false, false));
        assert!(logs.next().expect("the end again").end);
        assert!(!logs.stored(KEY, all.len() as u64, true, false));
        assert!(
            logs.next().is_none() && !logs.waits(),
            "it is stored, and waits to be kept"
        );
        assert!(logs.has_attempt(KEY.0, KEY.1));
        logs.forget_leader();
        assert!(logs.next().expect("a new leader is asked").probe);
        assert!(logs.stored(KEY, all.len() as u64, true, true));
    }

    #[test]
    fn a_damaged_log_ends_where_it_is_damaged() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("rank-0.log"), [0xff; 100]).expect("written");
        std::fs::write(dir.path().join("rank-x.log"), b"").expect("written");
        let mut logs = Logs::default();
        logs.find((KEY.0, KEY.1), dir.path(), false);
        logs.next().expect("a probe");
        logs.stored(KEY, 0, false, false);
        let piece = logs.next().expect("an end");
        assert!(piece.end && piece.frames.is_empty());
        assert!(logs.stored(KEY, 0, true, true));
    }

    #[test]
    fn a_rank_that_never_wrote_ends_too() {
        let mut logs = Logs::default();
        logs.ended(KEY, PathBuf::from("/nonexistent/rank-0.log"), 0);
        assert!(drain(&mut logs, &mut Vec::new()));
    }

    #[test]
    fn a_rotated_log_is_read_on_and_a_gap_is_said() {
        let dir = tempfile::tempdir().expect("dir");
        let size = frames(1, 1_000).len();
        let write = |begins: usize, count: usize| {
            let name = match begins {
                0 => "rank-0.log".to_owned(),
                begins => format!("rank-0.{}.log", begins * size),
            };
            let path = dir.path().join(name);
            std::fs::write(&path, frames(count, 1_000)).expect("written");
            path
        };
        let first = write(0, 100);
        write(100, 50);
        let mut logs = Logs::default();
        logs.grew(KEY, first.clone());
        let mut stored = Vec::new();
        drain(&mut logs, &mut stored);
        assert_eq!(
            stored.len(),
            150 * size,
            "no gap: the files follow one another"
        );
        // The next two files came and the first of them went again before the agent looked.
        write(200, 50);
        write(250, 10);
        logs.grew(KEY, first.clone());
        let piece = logs.next().expect("what is there");
        let at = |frames: usize| (frames * size) as u64;
        assert!(piece.skip && !piece.end && piece.offset == at(200));
        logs.stored(KEY, at(250), false, false);
        let piece = logs.next().expect("the last file");
        assert!(!piece.skip && piece.offset == at(250));
        logs.stored(KEY, at(260), false, false);
        // A new leader that has the beginning only, and one that stands within a file.
        logs.ended(KEY, first, 0);
        for (have, offset, skip) in [(120, 120, false), (150, 200, true), (210, 210, false)] {
            logs.forget_leader();
            let mut new = Logs::default();
            new.find((KEY.0, KEY.1), dir.path(), true);
            for logs in [&mut logs, &mut new] {
                assert!(logs.next().expect("a probe").probe);
                logs.stored(KEY, at(have), false, false);
                let piece = logs.next().expect("the rest");
                assert_eq!(
                    (piece.offset, piece.skip),
                    (at(offset), skip),
                    "from {have}"
                );
                assert!(!piece.end, "there is one more file");
            }
        }
    }
}
