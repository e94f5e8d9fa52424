//! `refused`: the note that a directory lost something, found out only while it ran.
//!
//! A leader proved that this disk once held more than it does. The next start would not see that by itself and would vote
//! again, so the reason is written down before the process ends. It does not heal anything: the directory is set aside.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

const NAME: &str = "refused";

/// Why this directory must not be used, if that was noted. A note that cannot be read is a note.
pub(super) fn read(dir: &Path) -> Option<String> {
    let path = dir.join(NAME);
    if !path.exists() {
        return None;
    }
    let bytes = fs::read(&path).unwrap_or_default();
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Notes the reason. The process ends either way, so a disk that refuses even this is only logged.
pub(super) fn note(dir: &Path, reason: &str) {
    let path = dir.join(NAME);
    let written = File::create(&path)
        .and_then(|mut file| {
            file.write_all(reason.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| File::open(dir)?.sync_all());
    if let Err(error) = written {
        tracing::error!(path = %path.display(), %error, "cannot note that this member must not vote again");
    }
}
