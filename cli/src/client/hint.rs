//! Which coordinator was the one to ask the last time: noted in a file beside the context, so that the next command begins there.
//! A note that is wrong costs one try; one that is lost or cannot be written costs nothing. Holds no secret, decides nothing.

use std::path::{Path, PathBuf};

/// Longer notes are none of ours.
const LONGEST: usize = 300;

/// The note of one context.
pub struct Hint {
    path: PathBuf,
    noted: Option<String>,
}

impl Hint {
    /// The note beside the context file `context`.
    pub fn beside(context: &Path) -> Self {
        let mut path = context.as_os_str().to_owned();
        path.push(".leader");
        let path = PathBuf::from(path);
        let noted = std::fs::read_to_string(&path).ok();
        let noted = noted.filter(|text| text.len() <= LONGEST);
        Self { path, noted }
    }

    /// Where the noted coordinator stands among `addresses`; the first, if it is none of them.
    pub fn position(&self, addresses: &[String]) -> usize {
        let noted = self.noted.as_deref().map(str::trim);
        let found = addresses
            .iter()
            .position(|address| Some(address.as_str()) == noted);
        found.unwrap_or(0)
    }

    /// Notes `address`, unless that is what the note says. Somebody who reads meanwhile sees the old note or the new one.
    pub fn note(&mut self, address: &str) {
        if self.noted.as_deref() == Some(address) {
            return;
        }
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        let written = std::fs::write(&aside, address)
            .and_then(|()| std::fs::rename(&aside, &self.path))
            .is_ok();
        if !written {
            // The directory may not be ours to write to: then every command begins with the first address.
            let _ = std::fs::remove_file(&aside);
        }
        self.noted = Some(address.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_command_begins_where_the_last_one_was_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let context = folder.path().join("context.toml");
        let addresses = ["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()];
        let mut hint = Hint::beside(&context);
        assert_eq!(hint.position(&addresses), 0);
        hint.note("c:1");
        hint.note("c:1");
        assert_eq!(Hint::beside(&context).position(&addresses), 2);
        hint.note("b:1");
        assert_eq!(Hint::beside(&context).position(&addresses), 1);
        assert_eq!(
            std::fs::read_dir(folder.path())
                .expect("it is there")
                .count(),
            1
        );
    }

    #[test]
    fn a_note_that_makes_no_sense_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let context = folder.path().join("context.toml");
        let addresses = ["a:1".to_owned(), "b:1".to_owned()];
        for text in ["", "elsewhere:1", "b:1 ".repeat(100).as_str(), "\0"] {
            std::fs::write(folder.path().join("context.toml.leader"), text).expect("a file");
            assert_eq!(Hint::beside(&context).position(&addresses), 0, "{text:?}");
        }
        // A directory that is not there: nothing is noted, nothing fails.
        let mut nowhere = Hint::beside(&folder.path().join("none/context.toml"));
        nowhere.note("b:1");
        assert_eq!(
            Hint::beside(&folder.path().join("none/context.toml")).position(&addresses),
            0
        );
    }
}
