//! `member.json`: which member a data directory belongs to, and the last membership that it knew.
//!
//! It does not decide who votes: snapshot and log do. The id in it was drawn once and is never used for another
//! directory. Its absence is what "empty directory" means. It is rewritten aside and renamed, and carries a checksum,
//! because a flipped digit would be another member's id.

use super::MemberId;
use super::turn::Membership;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "member.json";
const VERSION: u32 = 2;
/// Directories set aside beside each other.
const ASIDE_MAX: u32 = 1_000;

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
    #[error(
        "{} is not a sound member file of this release ({reason}), so this member does not know who it is and will not vote; start it with --rejoin: it joins again under a new member id",
        path.display()
    )]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Who a data directory says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn once, for this directory alone.
    pub id: MemberId,
    /// What the cluster keeps for it, as opaque text.
    pub info: String,
    /// It has not been told yet how the cluster began: its log is still empty.
    pub joining: bool,
    /// The members before the first entry of the log.
    pub founders: Membership,
    /// The last members that it knew. A hint: who votes stands in snapshot and log.
    pub members: Membership,
}

/// How [`Identity`] stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberFile {
    v: u32,
    id: MemberId,
    info: String,
    joining: bool,
    founders: Members,
    members: Members,
    /// BLAKE3 of the file without this.
    sum: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    index: u64,
    voters: Vec<MemberId>,
    learners: Vec<MemberId>,
    outgoing: Vec<MemberId>,
    learners_next: Vec<MemberId>,
    removed: Vec<MemberId>,
    info: BTreeMap<MemberId, String>,
}

/// Reads who the directory belongs to; `None` for an empty one.
///
/// # Errors
/// See [`MemberFileError`].
pub fn identity(dir: &Path) -> Result<Option<Identity>, MemberFileError> {
    let path = dir.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let unreadable = |reason: String| MemberFileError::Unreadable {
        path: path.clone(),
        reason,
    };
    let mut file: MemberFile =
        serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
    if file.v != VERSION {
        return Err(unreadable(format!("its version is {}", file.v)));
    }
    let sum = std::mem::take(&mut file.sum);
    let sound = checksum(&file).is_ok_and(|expected| expected == sum);
    let identity = Identity {
        id: file.id,
        info: file.info,
        joining: file.joining,
        founders: file.founders.into(),
        members: file.members.into(),
    };
    let founders = identity.founders.check();
    if !sound || identity.id == 0 || (founders.is_err() && !identity.joining) {
        return Err(unreadable("its checksum does not hold".into()));
    }
    Ok(Some(identity))
}

/// Writes who an empty directory will be once the cluster has let it in: durable before anybody is asked, so that a
/// crash on the way does not draw another id.
///
/// # Errors
/// What the disk refused.
pub fn begin_join(dir: &Path, id: MemberId, info: &str) -> Result<Identity, MemberFileError> {
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    sync(dir.parent().unwrap_or(dir))?;
    let identity = Identity {
        id,
        info: info.to_owned(),
        joining: true,
        founders: Membership::default(),
        members: Membership::default(),
    };
    write(dir, &identity)?;
    Ok(identity)
}

/// Moves a directory that must not vote any more to `NAME.damaged-N` beside it, kept for people. Where it is now;
/// `None` if there was nothing.
///
/// # Errors
/// What the disk refused.
pub fn set_aside(dir: &Path) -> Result<Option<PathBuf>, MemberFileError> {
    if !dir.exists() {
        return Ok(None);
    }
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = (1..=ASIDE_MAX)
        .map(|n| dir.with_file_name(format!("{name}.damaged-{n}")))
        .find(|aside| !aside.exists());
    let full = || io::Error::other("there are too many of them; remove the old ones");
    let aside = aside.ok_or_else(|| failed("set aside", dir)(full()))?;
    fs::rename(dir, &aside).map_err(failed("set aside", dir))?;
    sync(dir.parent().unwrap_or(dir))?;
    Ok(Some(aside))
}

/// Writes the file durably.
pub(super) fn write(dir: &Path, identity: &Identity) -> Result<(), MemberFileError> {
    let path = dir.join(NAME);
    let unwritable = |error: serde_json::Error| MemberFileError::Unreadable {
        path: path.clone(),
        reason: error.to_string(),
    };
    let mut file = MemberFile {
        v: VERSION,
        id: identity.id,
        info: identity.info.clone(),
        joining: identity.joining,
        founders: identity.founders.clone().into(),
        members: identity.members.clone().into(),
        sum: String::new(),
    };
    file.sum = checksum(&file).map_err(unwritable)?;
    let bytes = serde_json::to_vec(&file).map_err(unwritable)?;
    let aside = path.with_extension("tmp");
    let mut file = File::create(&aside).map_err(failed("create", &aside))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &aside))?;
    fs::rename(&aside, &path).map_err(failed("rename", &aside))?;
    sync(dir)
}

/// Of a file whose own checksum is empty.
fn checksum(file: &MemberFile) -> Result<String, serde_json::Error> {
    let bytes = serde_json::to_vec(file)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

fn sync(dir: &Path) -> Result<(), MemberFileError> {
    let opened = File::open(if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    });
    opened
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", dir))
}

impl From<Membership> for Members {
    fn from(from: Membership) -> Self {
        let Membership {
            index,
            voters,
            learners,
            outgoing,
            learners_next,
            removed,
            info,
        } = from;
        Self {
            index,
            voters,
            learners,
            outgoing,
            learners_next,
            removed,
            info,
        }
    }
}

impl From<Members> for Membership {
    fn from(from: Members) -> Self {
        let Members {
            index,
            voters,
            learners,
            outgoing,
            learners_next,
            removed,
            info,
        } = from;
        Self {
            index,
            voters,
            learners,
            outgoing,
            learners_next,
            removed,
            info,
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MemberFileError + use<> {
    let path = path.to_path_buf();
    move |source| MemberFileError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flip_makes_it_another_member() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(identity(dir.path()).expect("reads"), None);
        let members = Membership::founded([(11, "a".into()), (22, "b".into())]);
        let written = Identity {
            id: 11,
            info: "a".into(),
            joining: false,
            founders: members.clone(),
            members,
        };
        write(dir.path(), &written).expect("writes");
        assert_eq!(identity(dir.path()).expect("reads"), Some(written.clone()));
        let path = dir.path().join(NAME);
        let good = fs::read(&path).expect("reads");
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                fs::write(&path, bad).expect("writes");
                match identity(dir.path()) {
                    // A flip that JSON does not mind says the same.
                    Ok(read) => assert_eq!(read, Some(written.clone()), "byte {at} bit {bit}"),
                    Err(error) => assert!(error.to_string().contains("--rejoin"), "{error}"),
                }
            }
            fs::write(&path, &good[..at]).expect("writes");
            assert!(identity(dir.path()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn directories_are_set_aside_beside_each_other() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("raft");
        assert_eq!(set_aside(&dir).expect("nothing to do"), None);
        for n in 1..=3 {
            let joining = begin_join(&dir, 40 + n, "c3").expect("begins");
            assert_eq!(identity(&dir).expect("reads"), Some(joining));
            let aside = set_aside(&dir).expect("moves").expect("there was one");
            assert_eq!(aside, home.path().join(format!("raft.damaged-{n}")));
            assert!(aside.join(NAME).exists() && !dir.exists());
        }
    }
}
