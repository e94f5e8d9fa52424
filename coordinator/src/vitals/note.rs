//! The note that a member leaves when a majority disagrees with its state: the next start finds it and refuses.
//!
//! It lies beside the log, so whoever moves the log aside to join anew moves the note with it. It decides nothing.
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const NAME: &str = "diverged.json";
const VERSION: u32 = 1;

/// What a member found out about its own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    v: u32,
    /// The lowest index at which it differs.
    pub index: u64,
    /// Its own digest there, hexadecimal.
    pub own: String,
    /// The majority's.
    pub majority: String,
}

/// Why a member does not start, or could not leave its note.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The last run ended because of it.
    #[error(
        "this member's state differs from the majority's at index {} (its digest is {}, theirs {}): it must not vote with it again; start it once with --rejoin, which moves {} aside and joins as a new member", note.index, clip(&note.own), clip(&note.majority), dir.display()
    )]
    Diverged {
        /// The directory of the log.
        dir: PathBuf,
        /// What the last run found.
        note: Note,
    },
    /// There is a note that does not parse. Why it was written is known all the same.
    #[error(
        "{} says that this member's state differs from the majority's, but cannot be read ({reason}): it must not vote again; start it once with --rejoin", path.display()
    )]
    Unreadable {
        /// The note.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Note {
    /// What is to be remembered.
    pub fn new(index: u64, own: [u8; 32], majority: [u8; 32]) -> Self {
        let hex = |bytes: [u8; 32]| blake3::Hash::from_bytes(bytes).to_hex().to_string();
        Self {
            v: VERSION,
            index,
            own: hex(own),
            majority: hex(majority),
        }
    }

    /// Writes it into the directory of the log, durably.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn leave(&self, dir: &Path) -> Result<(), NoteError> {
        let path = dir.join(NAME);
        let aside = path.with_extension("tmp");
        let text = serde_json::to_vec(self).map_err(|error| NoteError::Unreadable {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let mut file = File::create(&aside).map_err(failed("create", &aside))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &aside))?;
        fs::rename(&aside, &path).map_err(failed("rename", &aside))?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("sync", dir))
    }

    /// The same as an error.
    pub fn refusal(self, dir: &Path) -> NoteError {
        NoteError::Diverged {
            dir: dir.to_owned(),
            note: self,
        }
    }

    /// Refuses if the last run left a note in the directory of the log.
    ///
    /// # Errors
    /// [`NoteError::Diverged`] with it; [`NoteError::Unreadable`] when it is damaged.
    pub fn refuse(dir: &Path) -> Result<(), NoteError> {
        let path = dir.join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let dir = dir.to_path_buf();
        match serde_json::from_slice(&text) {
            Ok(note) => Err(NoteError::Diverged { dir, note }),
            Err(error) => Err(NoteError::Unreadable {
                path,
                reason: error.to_string(),
            }),
        }
    }
}

fn clip(hex: &str) -> &str {
    hex.get(..16).unwrap_or(hex)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NoteError + use<> {
    let path = path.to_path_buf();
    move |source| NoteError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_refuses_until_it_is_moved() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("raft");
        Note::refuse(&log).expect("nothing is there yet");
        fs::create_dir(&log).expect("made");
        Note::refuse(&log).expect("no note");
        Note::new(128, [1; 32], [2; 32]).leave(&log).expect("left");
        let text = Note::refuse(&log).expect_err("refused").to_string();
        for word in ["index 128", "--rejoin", "0101", "0202", "raft"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        fs::write(log.join(NAME), b"{").expect("damaged");
        let text = Note::refuse(&log).expect_err("refused").to_string();
        assert!(text.contains("--rejoin"), "{text}");
        fs::rename(&log, dir.path().join("raft.aside")).expect("moved");
        Note::refuse(&log).expect("as new");
    }
}
