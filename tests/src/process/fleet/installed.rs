//! Builds of the program that take one another's place on the disk of the nodes, as an upgrade does.
//! Does NOT build anything: both are the binary under test, told apart by what they say that they are.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use mlctl_agent::keeper::protocol::PROTOCOL_OLDEST;

use super::Fleet;

/// A build, as far as agents and keepers can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The one under test.
    This,
    /// It speaks only what the release before did.
    Before,
}

/// What lies where the nodes' program is.
pub(super) struct Installed {
    path: PathBuf,
    build: Build,
}

impl Installed {
    pub(super) fn binary(&self) -> &PathBuf {
        &self.path
    }

    pub(super) fn prepare(&self, command: &mut Command) {
        if self.build == Build::Before {
            command.env("MLCTL_KEEPER_PROTOCOL", PROTOCOL_OLDEST.to_string());
        }
    }
}

impl Fleet {
    /// Replaces the program of all nodes. What runs goes on with the file that it was started from; what is started from now on is of `build`.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn install(&mut self, build: Build) {
        let path = self.layout.root.join("bin").join("mlctl");
        put(&self.binary, &path, build)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.installed = Some(Installed { path, build });
    }
}

/// A copy that differs by a word behind its end, put in place in one step.
fn put(binary: &Path, path: &Path, build: Build) -> std::io::Result<()> {
    let aside = path.with_extension("new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(binary, &aside)?;
    let mut file = fs::File::options().append(true).open(&aside)?;
    write!(file, "{build:?}")?;
    drop(file);
    fs::rename(aside, path)
}
