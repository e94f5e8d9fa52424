//! Sees names appear in the job's checkpoint directory, by inotify.
//! Does NOT look at what is there, nor into what it sees.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::rules::is_final;

/// Room for many events; the kernel gives whole ones only.
const BUFFER_BYTES: usize = 16 * 1024;
/// An event before its name: watch, mask, cookie, length.
const HEAD: usize = 16;
/// The largest event: its head and the longest name with its end.
const EVENT_BYTES_MAX: usize = HEAD + 256;

/// What a watch hears of.
const WATCHED: AddWatchFlags = AddWatchFlags::IN_MOVED_TO
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_ONLYDIR);

/// What a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A directory or file got this final name just now.
    Renamed(String),
    /// Something was made under this final name just now.
    Made(String),
    /// The kernel dropped events: look at everything again.
    Overflow,
}

/// A watch on one directory. It ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    /// To the runtime an inotify descriptor is a pipe that only we read.
    events: Receiver,
    buffer: Vec<u8>,
}

impl Watch {
    /// Watches `dir`, which must be there. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses, for instance because too many watches are open.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(dir, WATCHED)?;
        let events = Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self {
            events,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Waits until something is seen.
    ///
    /// # Errors
    /// When the watch is broken: the directory is gone.
    pub async fn next(&mut self) -> io::Result<Vec<Seen>> {
        loop {
            let read = self.events.read(&mut self.buffer).await?;
            let seen = self.seen(read)?;
            if !seen.is_empty() {
                return Ok(seen);
            }
        }
    }

    /// What the kernel has already put by, without waiting.
    ///
    /// # Errors
    /// When the watch is broken: the directory is gone.
    pub fn waiting(&mut self) -> io::Result<Vec<Seen>> {
        let mut all = Vec::new();
        loop {
            match nix::unistd::read(self.events.as_fd(), &mut self.buffer) {
                Ok(read) => all.extend(self.seen(read)?),
                Err(nix::errno::Errno::EAGAIN) => return Ok(all),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn seen(&self, read: usize) -> io::Result<Vec<Seen>> {
        // A full buffer may have left events behind that wake nobody any more.
        let mut seen = if read + EVENT_BYTES_MAX > BUFFER_BYTES {
            vec![Seen::Overflow]
        } else {
            Vec::new()
        };
        for (mask, name) in events(&self.buffer[..read]) {
            if mask.contains(AddWatchFlags::IN_IGNORED) {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "the checkpoint directory is gone",
                ));
            }
            seen.extend(judge(mask, name));
        }
        Ok(seen)
    }
}

fn judge(mask: AddWatchFlags, name: &[u8]) -> Option<Seen> {
    if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        return Some(Seen::Overflow);
    }
    let name = std::str::from_utf8(name).ok()?;
    let seen = if mask.contains(AddWatchFlags::IN_MOVED_TO) {
        Seen::Renamed
    } else {
        Seen::Made
    };
    is_final(name).then(|| seen(name.to_owned()))
}

/// The mask and the name of every event in `bytes`.
fn events(mut bytes: &[u8]) -> Vec<(AddWatchFlags, &[u8])> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = (word(12) as usize).min(rest.len());
        let (padded, behind) = rest.split_at(length);
        let name = padded.split(|byte| *byte == 0).next().unwrap_or_default();
        found.push((AddWatchFlags::from_bits_truncate(word(4)), name));
        bytes = behind;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    #[tokio::test]
    async fn only_final_names_are_seen() {
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("step-1")).expect("made");
        let mut watch = Watch::new(dir.path()).expect("watching");
        fs::create_dir(path("made-in-place-9")).expect("made");
        fs::create_dir(path("a.tmp")).expect("made");
        fs::rename(path("a.tmp"), path("b.partial")).expect("renamed");
        fs::write(path("file.tmp"), b"x").expect("written");
        fs::rename(path("file.tmp"), path("file-3")).expect("renamed");
        fs::rename(path("b.partial"), path("step-2")).expect("renamed");
        let name = |name: &str| name.to_owned();
        let seen = [
            Seen::Made(name("made-in-place-9")),
            Seen::Renamed(name("file-3")),
            Seen::Renamed(name("step-2")),
        ];
        assert_eq!(watch.waiting().expect("watching"), seen);
        assert_eq!(watch.waiting().expect("watching"), []);
        fs::create_dir(path("step-3")).expect("made");
        let next = tokio::time::timeout(Duration::from_secs(10), watch.next());
        let next = next.await.expect("seen").expect("watching");
        assert_eq!(next, [Seen::Made(name("step-3"))]);
    }

    #[tokio::test]
    async fn a_directory_that_goes_away_ends_the_watch() {
        let dir = tempfile::tempdir().expect("dir");
        let gone = dir.path().join("gone");
        fs::create_dir(&gone).expect("made");
        let mut watch = Watch::new(&gone).expect("watching");
        fs::remove_dir(&gone).expect("removed");
        let ended = tokio::time::timeout(Duration::from_secs(10), watch.next())
            .await
            .expect("seen");
        assert!(ended.is_err());
        assert!(Watch::new(&gone).is_err());
    }

    #[test]
    fn cut_events_never_panic() {
        let mut bytes = [7; 40];
        bytes[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
        for cut in 0..bytes.len() {
            assert!(events(&bytes[..cut]).len() <= 1);
        }
    }
}
