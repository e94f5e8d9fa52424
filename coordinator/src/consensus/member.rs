//! `member.json`: which member a data directory belongs to and with which voters its cluster began.
//!
//! It is written once, after the first mark of the log is durable, and never changed. Its absence is what "empty
//! directory" means.

use super::MemberId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "member.json";
const VERSION: u32 = 1;

/// What goes wrong with the member file.
#[derive(Debug, thiserror::Error)]
pub enum MemberFileError {
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
    /// It does not parse.
    #[error("{} is not a member file of this release: {reason}", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The directory is another member's.
    #[error(
        "{} belongs to member {found}, not to {wanted}: a member's id and its directory belong together",
        dir.display()
    )]
    OtherMember {
        /// The data directory.
        dir: PathBuf,
        /// Whose it is.
        found: MemberId,
        /// Who started.
        wanted: MemberId,
    },
    /// The configured voters are not those of the cluster.
    #[error(
        "{} is of a cluster with the voters {found:?}, but {wanted:?} are configured: the set of voters cannot be changed by configuration",
        dir.display()
    )]
    OtherVoters {
        /// The data directory.
        dir: PathBuf,
        /// The cluster's.
        found: Vec<MemberId>,
        /// The configuration's.
        wanted: Vec<MemberId>,
    },
}

#[derive(Serialize, Deserialize)]
struct MemberFile {
    v: u32,
    id: MemberId,
    voters: Vec<MemberId>,
}

/// Whether the directory has a member file, and that it is the one expected. `voters` must be sorted.
pub(super) fn check(
    dir: &Path,
    id: MemberId,
    voters: &[MemberId],
) -> Result<bool, MemberFileError> {
    let path = dir.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let unreadable = |reason: String| MemberFileError::Unreadable {
        path: path.clone(),
        reason,
    };
    let file: MemberFile =
        serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
    if file.v != VERSION {
        return Err(unreadable(format!("its version is {}", file.v)));
    }
    if file.id != id {
        return Err(MemberFileError::OtherMember {
            dir: dir.to_path_buf(),
            found: file.id,
            wanted: id,
        });
    }
    if file.voters != voters {
        return Err(MemberFileError::OtherVoters {
            dir: dir.to_path_buf(),
            found: file.voters,
            wanted: voters.to_vec(),
        });
    }
    Ok(true)
}

/// Writes the file durably.
pub(super) fn write(dir: &Path, id: MemberId, voters: &[MemberId]) -> Result<(), MemberFileError> {
    let path = dir.join(NAME);
    let file = MemberFile {
        v: VERSION,
        id,
        voters: voters.to_vec(),
    };
    let bytes = serde_json::to_vec(&file).map_err(|error| MemberFileError::Unreadable {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let aside = path.with_extension("tmp");
    let mut file = File::create(&aside).map_err(failed("create", &aside))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &aside))?;
    fs::rename(&aside, &path).map_err(failed("rename", &aside))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", dir))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MemberFileError + use<> {
    let path = path.to_path_buf();
    move |source| MemberFileError::Io {
        action,
        path,
        source,
    }
}
