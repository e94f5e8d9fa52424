//! `<attempt_dir>/exits`: how the ranks ended, line by line, synced. Read by an agent that finds no keeper any more.
//! Does NOT decide what an exit means.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::protocol::Exit;
use crate::tasks::TaskEnds;

/// The file's name in an attempt's directory.
const NAME: &str = "exits";
/// As long as the lines of all ranks that a node may have, with room.
const BYTES_MAX: u64 = 1024 * 1024;

#[derive(Serialize, Deserialize)]
enum Line {
    Exited(Exit),
    Tasks(TaskEnds),
    AllEnded { launch_failed: Option<String> },
    Fenced { why: String },
    TimedOut { why: String },
}

/// What a keeper wrote down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// The ranks that ended while it watched.
    pub exits: Vec<Exit>,
    /// Of an array: the tasks that ended by themselves.
    pub tasks: TaskEnds,
    /// It saw to the end that nothing was left.
    pub all_ended: bool,
    /// Why ranks could not be started, if so.
    pub launch_failed: Option<String>,
    /// Why its fence ended the ranks, if so.
    pub fenced: Option<String>,
    /// Why its time limit ended the ranks, if so.
    pub timed_out: Option<String>,
}

/// The writing end.
#[derive(Debug)]
pub(super) struct ExitsFile {
    file: File,
    unsynced: bool,
}

impl ExitsFile {
    pub(super) fn create(attempt_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(attempt_dir.join(NAME))?;
        file.set_len(0)?;
        Ok(Self {
            file,
            unsynced: false,
        })
    }

    pub(super) fn exited(&mut self, exit: Exit) -> io::Result<()> {
        self.write(&Line::Exited(exit))
    }

    /// Tasks of an array. Nobody waits for that to be synced.
    pub(super) fn tasks(&mut self, ends: TaskEnds) -> io::Result<()> {
        let unsynced = self.unsynced;
        let written = self.write(&Line::Tasks(ends));
        self.unsynced = unsynced;
        written
    }

    pub(super) fn all_ended(&mut self, launch_failed: Option<String>) -> io::Result<()> {
        self.write(&Line::AllEnded { launch_failed })
    }

    pub(super) fn fenced(&mut self, why: String) -> io::Result<()> {
        self.write(&Line::Fenced { why })
    }

    pub(super) fn timed_out(&mut self, why: String) -> io::Result<()> {
        self.write(&Line::TimedOut { why })
    }

    /// Syncs what was written since the last time.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsynced) {
            self.file.sync_data()
        } else {
            Ok(())
        }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes)?;
        self.unsynced = true;
        Ok(())
    }
}

/// What the keeper of `attempt_dir` wrote down before it went. A last line that was cut short counts as never written.
///
/// # Errors
/// When the file is there and cannot be read. No file: nothing was written.
pub fn read_exits(attempt_dir: &Path) -> io::Result<Written> {
    let mut text = Vec::new();
    match File::open(attempt_dir.join(NAME)) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Written::default()),
        Err(error) => return Err(error),
    };
    let mut written = Written::default();
    for line in text.split_inclusive(|b| *b == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Line::Exited(exit)) if line.ends_with(b"\n") => written.exits.push(exit),
            Ok(Line::Tasks(ends)) if line.ends_with(b"\n") => written.tasks.merge(ends),
            Ok(Line::AllEnded { launch_failed }) if line.ends_with(b"\n") => {
                written.all_ended = true;
                written.launch_failed = launch_failed;
            }
            Ok(Line::Fenced { why }) if line.ends_with(b"\n") => written.fenced = Some(why),
            Ok(Line::TimedOut { why }) if line.ends_with(b"\n") => written.timed_out = Some(why),
            // Damage: what was read so far is true, what follows cannot be trusted.
            _ => break,
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_ends_the_reading() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(read_exits(dir.path()).expect("no file"), Written::default());
        let exit = |rank| Exit {
            rank,
            code: 3,
            signal: 0,
            killed_by_us: rank > 0,
            oom: None,
        };
        let mut file = ExitsFile::create(dir.path()).expect("file");
        file.exited(exit(0)).expect("written");
        file.fenced("cut off".into()).expect("written");
        file.timed_out("late".into()).expect("written");
        file.exited(exit(1)).expect("written");
        file.all_ended(Some("why".into())).expect("written");
        let want = Written {
            exits: vec![exit(0), exit(1)],
            tasks: TaskEnds::default(),
            all_ended: true,
            launch_failed: Some("why".into()),
            fenced: Some("cut off".into()),
            timed_out: Some("late".into()),
        };
        file.sync().expect("synced");
        assert_eq!(read_exits(dir.path()).expect("read"), want);
        let path = dir.path().join(NAME);
        let text = std::fs::read(&path).expect("text");
        for cut in 0..text.len() {
            std::fs::write(&path, &text[..cut]).expect("cut");
            let read = read_exits(dir.path()).expect("read");
            assert!(
                !read.all_ended && want.exits.starts_with(&read.exits),
                "cut at {cut}: {read:?}"
            );
        }
        std::fs::write(&path, [b"\xff\0{}\n" as &[u8], &text].concat()).expect("spoilt");
        assert_eq!(read_exits(dir.path()).expect("read"), Written::default());
    }
}
