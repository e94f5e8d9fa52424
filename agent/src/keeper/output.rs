//! A rank's output: two pipes in, one framed and capped log file out.
//! Never blocks a rank on an agent, and never fails one: what the disk or the cap refuses is dropped and counted.

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

/// The log file of a rank.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// `None`: there was no line yet.
    file: Option<File>,
    cap: u64,
    /// Whole frames in the file.
    pub(super) bytes: u64,
    /// Bytes of frames that are not in the file.
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
            bytes: 0,
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

    /// Appends whole frames: as many as the cap leaves room for, and none once one was dropped, so that the file has no hole.
    fn append(&mut self, frames: &[u8]) {
        if frames.is_empty() {
            return;
        }
        self.news = true;
        let room = if self.dropped > 0 {
            0
        } else {
            self.cap.saturating_sub(self.bytes)
        };
        let fitting = fitting(frames, usize::try_from(room).unwrap_or(usize::MAX));
        match self.write(&frames[..fitting]) {
            Ok(()) => {
                self.bytes += fitting as u64;
                self.dropped += (frames.len() - fitting) as u64;
            }
            Err(error) => {
                self.dropped += frames.len() as u64;
                // A frame that was cut short would spoil the file for its readers.
                let mended = self
                    .file
                    .as_ref()
                    .map_or(Ok(()), |file| file.set_len(self.bytes));
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::error!(path = %self.path.display(), %error, mended = mended.is_ok(), "cannot write a log; output is dropped");
                }
            }
        }
    }
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
    fn the_cap_keeps_whole_frames_and_counts_the_rest() {
        let dir = tempfile::tempdir().expect("dir");
        let path = log_path(dir.path(), 0);
        let size = HEADER_BYTES as u64 + 4;
        let mut log = Log::create(path.clone(), 2 * size + 3).expect("log");
        log.append(&[frame(b"aaaa"), frame(b"bbbb"), frame(b"cccc")].concat());
        assert_eq!((log.bytes, log.dropped), (2 * size, size));
        log.append(&frame(b""));
        assert_eq!(
            (log.bytes, log.dropped),
            (2 * size, size + HEADER_BYTES as u64),
            "no hole, though it would fit"
        );
        let bytes = std::fs::read(path).expect("log");
        assert_eq!(whole(&bytes), Ok(2 * size as usize));
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
            bytes: 0,
            dropped: 0,
            ended: false,
            news: false,
            complained: false,
        };
        log.append(&frame(b"x"));
        assert_eq!((log.bytes, log.dropped), (0, HEADER_BYTES as u64 + 1));
    }
}
