//! A rank's output: two pipes in, one framed log out, of which the beginning and the newest part are kept.
//! Never blocks a rank on an agent, and never fails one: what the disk refuses is dropped and counted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mlctl_proto::logs::{STDERR, decode};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::clock;
use super::lines::Lines;
use super::torchrun::{self, Failure};

/// One read of a pipe; also what the kernel keeps in one.
const READ_BYTES: usize = 64 * 1024;
/// What is read from one pipe before others get their turn.
const TURN_BYTES: usize = 1024 * 1024;

/// A quarter of what a log may take is for its beginning, the rest is for its newest part.
const HEAD_SHARE: u64 = 4;
/// Files of the newest part; the oldest goes when there is one more.
const TAIL_FILES: u64 = 12;

/// The log of a rank: a file with its beginning, and behind it files of its newest part, named after where they begin.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// `None`: there was no line yet.
    file: Option<File>,
    cap: u64,
    /// Bytes in the file that is written, and how many of them there may be.
    written: u64,
    room: u64,
    /// Where the files of the newest part begin, and the bytes of those that are full.
    tail: VecDeque<(u64, u64)>,
    /// Whole frames in all files.
    pub(super) bytes: u64,
    /// Bytes of frames that were written and whose file is gone.
    pub(super) rotated: u64,
    /// Bytes of frames that the disk refused.
    pub(super) dropped: u64,
    /// Nothing comes any more.
    pub(super) ended: bool,
    /// Grew since the agent was told.
    pub(super) news: bool,
    complained: bool,
}

impl Log {
    /// Opens `path`, which must not hold another attempt's output.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn create(path: PathBuf, cap: u64) -> io::Result<Self> {
        let file = new_file(&path)?;
        Ok(Self {
            file: Some(file),
            ..Self::lazy(path, cap)
        })
    }

    /// The same, but the file is made with the first line.
    pub(super) fn lazy(path: PathBuf, cap: u64) -> Self {
        Self {
            path,
            file: None,
            cap,
            written: 0,
            room: cap / HEAD_SHARE,
            tail: VecDeque::new(),
            bytes: 0,
            rotated: 0,
            dropped: 0,
            ended: false,
            news: false,
            complained: false,
        }
    }

    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(new_file(&self.path)?),
        };
        file.write_all(frames)
    }

    /// Appends whole frames. What the disk refuses is dropped and counted; a frame is written whole or not at all.
    fn append(&mut self, frames: &[u8]) {
        let mut rest = frames;
        while !rest.is_empty() {
            self.news = true;
            let room = self.room.saturating_sub(self.written);
            let mut fits = fitting(rest, usize::try_from(room).unwrap_or(usize::MAX));
            if fits == 0 && self.written > 0 {
                if let Err(error) = self.roll() {
                    return self.refused(rest.len(), &error);
                }
                continue;
            }
            if fits == 0 {
                // A frame is longer than a file: it gets its own.
                fits = decode(rest)
                    .ok()
                    .flatten()
                    .map_or(rest.len(), |(_, used)| used);
            }
            if let Err(error) = self.write(&rest[..fits]) {
                // A frame that was cut short would spoil the file for its readers.
                let mended = self
                    .file
                    .as_ref()
                    .map_or(Ok(()), |file| file.set_len(self.written));
                if let Err(error) = mended {
                    tracing::error!(path = %self.path.display(), %error, "a log ends in part of a line");
                }
                return self.refused(rest.len(), &error);
            }
            self.written += fits as u64;
            self.bytes += fits as u64;
            rest = &rest[fits..];
        }
    }

    /// Goes on in a new file, and drops the oldest of the newest part if they are too many.
    fn roll(&mut self) -> io::Result<()> {
        let begins = self.bytes + self.rotated;
        self.file = Some(new_file(&tail_path(&self.path, begins))?);
        if let Some(last) = self.tail.back_mut() {
            last.1 = self.written;
        }
        self.tail.push_back((begins, 0));
        self.written = 0;
        self.room = (self.cap - self.cap / HEAD_SHARE) / TAIL_FILES;
        if self.tail.len() as u64 > TAIL_FILES
            && let Some((begins, bytes)) = self.tail.pop_front()
        {
            std::fs::remove_file(tail_path(&self.path, begins))?;
            self.bytes -= bytes;
            self.rotated += bytes;
        }
        Ok(())
    }

    fn refused(&mut self, bytes: usize, error: &io::Error) {
        self.dropped += bytes as u64;
        if !std::mem::replace(&mut self.complained, true) {
            tracing::error!(path = %self.path.display(), %error, "cannot write a log; output is dropped");
        }
    }
}

/// The file of the newest part that begins at `begins`, beside `rank-7.log`: `rank-7.1048576.log`.
fn tail_path(path: &Path, begins: u64) -> PathBuf {
    path.with_extension(format!("{begins}.log"))
}

/// An empty file that is appended to.
fn new_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// How many bytes of `frames` are whole frames within `room`.
fn fitting(frames: &[u8], room: usize) -> usize {
    if frames.len() <= room {
        return frames.len();
    }
    let mut at = 0;
    while let Ok(Some((_, used))) = decode(&frames[at..]) {
        if at + used > room {
            break;
        }
        at += used;
    }
    at
}

/// The reading end of one pipe.
#[derive(Debug)]
pub(super) struct Stream {
    pipe: File,
    lines: Lines,
    /// torchrun writes here: its lines are looked at.
    watched: bool,
    failure: Option<Failure>,
}

impl Stream {
    /// Takes a pipe's reading end, standard output or error.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    pub(super) fn new(pipe: OwnedFd, stderr: bool) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            pipe: File::from(pipe),
            lines: Lines::new(if stderr { STDERR } else { 0 }),
            watched: false,
            failure: None,
        })
    }

    /// The same, of a torchrun: what it says of failing ranks is kept for [`Stream::take_failure`].
    pub(super) fn watched(self) -> Self {
        Self {
            watched: true,
            ..self
        }
    }

    /// The first failure of a rank that was told since the last time.
    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// When [`Stream::flush`] has something to do, milliseconds on the keeper's clock.
    pub(super) fn due(&self) -> Option<u64> {
        self.lines.due()
    }

    /// Writes a line that waits for its newline, if it is time.
    pub(super) fn flush(&mut self, now: u64, log: &mut Log) {
        let mut frames = Vec::new();
        self.lines.flush(now, clock::wall_ms(), &mut frames);
        log.append(&frames);
    }

    /// Reads what there is, up to one turn. True: the pipe has ended.
    pub(super) fn read(&mut self, now: u64, log: &mut Log) -> bool {
        let mut buffer = [0; READ_BYTES];
        let mut frames = Vec::new();
        let mut turn = 0;
        let ended = loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => {
                    self.lines
                        .push(now, clock::wall_ms(), &buffer[..count], &mut frames);
                    turn += count;
                    if turn >= TURN_BYTES {
                        break false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(path = %log.path.display(), %error, "cannot read a rank's output");
                    break true;
                }
            }
        };
        if self.watched && self.failure.is_none() {
            self.failure = failure_in(&frames);
        }
        log.append(&frames);
        ended
    }

    /// All that can still write are gone: takes what is left in the pipe and closes the last line.
    pub(super) fn finish(mut self, now: u64, log: &mut Log) {
        // A pipe holds at most 1 MiB, and nobody fills it any more; more turns than that mean a stranger got hold of it.
        for _ in 0..4 {
            if self.read(now, log) {
                break;
            }
        }
        let mut frames = Vec::new();
        self.lines.finish(clock::wall_ms(), &mut frames);
        log.append(&frames);
    }
}

/// The first line among `frames` that tells of a failing rank.
fn failure_in(mut frames: &[u8]) -> Option<Failure> {
    while let Ok(Some((frame, used))) = decode(frames) {
        if let Some(failure) = torchrun::failure(frame.text) {
            return Some(failure);
        }
        frames = &frames[used..];
    }
    None
}

/// Where a rank's log lies.
pub(super) fn log_path(logs_dir: &Path, rank: u32) -> PathBuf {
    logs_dir.join(format!("rank-{rank}.log"))
}

#[cfg(test)]
mod tests {
    use mlctl_proto::logs::{Frame, HEADER_BYTES, encode, whole};

    use super::*;

    fn frame(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(
            Frame {
                flags: 0,
                time_ms: 1,
                text,
            },
            &mut out,
        );
        out
    }

    #[test]
    fn the_beginning_and_the_newest_part_stay_and_frames_stay_whole() {
        let dir = tempfile::tempdir().expect("dir");
        let path = log_path(dir.path(), 0);
        let size = HEADER_BYTES as u64 + 4;
        // Room for four frames at the beginning, and for one in each file of the rest.
        let cap = 16 * (size + 3);
        let mut log = Log::create(path.clone(), cap).expect("log");
        let texts: Vec<String> = (0..40).map(|n| format!("{n:04}")).collect();
        for some in texts.chunks(7) {
            let frames: Vec<Vec<u8>> = some.iter().map(|text| frame(text.as_bytes())).collect();
            log.append(&frames.concat());
            assert!(log.bytes <= cap);
        }
        assert_eq!((log.bytes + log.rotated, log.dropped), (40 * size, 0));
        let first = std::fs::read(&path).expect("log");
        assert_eq!(whole(&first), Ok(4 * size as usize));
        let newest = log.tail.iter().flat_map(|(begins, _)| {
            let bytes = std::fs::read(tail_path(&path, *begins)).expect("a file of the rest");
            assert_eq!(whole(&bytes), Ok(bytes.len()));
            let (frame, _) = decode(&bytes).expect("sound").expect("a frame");
            assert_eq!(
                *begins,
                size * String::from_utf8_lossy(frame.text)
                    .parse::<u64>()
                    .expect("a number")
            );
            bytes
        });
        let kept = first.len() + newest.count();
        assert_eq!(kept as u64, log.bytes);
        let names = std::fs::read_dir(dir.path()).expect("listed").count();
        assert_eq!(names as u64, 1 + TAIL_FILES);
        let last = std::fs::read(tail_path(&path, 39 * size)).expect("the newest");
        assert_eq!(last, frame(b"0039"));
    }

    #[test]
    fn a_line_longer_than_a_file_is_kept_whole() {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = Log::create(log_path(dir.path(), 1), 40).expect("log");
        for _ in 0..3 {
            log.append(&frame(&[b'x'; 100]));
        }
        assert_eq!((log.tail.len(), log.dropped), (2, 0));
        assert_eq!(log.bytes, 3 * (HEADER_BYTES as u64 + 100));
    }

    #[test]
    fn a_disk_that_refuses_drops_and_counts() {
        let full = Path::new("/dev/full");
        let file = OpenOptions::new()
            .append(true)
            .open(full)
            .expect("there on every Linux");
        let cap = u64::MAX;
        let mut log = Log {
            path: full.into(),
            file: Some(file),
            cap,
            written: 0,
            room: cap,
            tail: VecDeque::new(),
            bytes: 0,
            rotated: 0,
            dropped: 0,
            ended: false,
            news: false,
            complained: false,
        };
        log.append(&frame(b"x"));
        assert_eq!((log.bytes, log.dropped), (0, HEADER_BYTES as u64 + 1));
    }
}
