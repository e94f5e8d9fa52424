//! Parts become a directory again, before the ranks that resume from it start: what this node holds, and what `fetch` brings.
//! Does NOT choose a checkpoint, and gives nobody anything before it is whole.
//!
//! All is laid out in a directory that only the agent can enter, and then renamed to its place: no process of the job sees it before, and
//! nothing in a part can lead outside.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlctl_blobs::checkpoint::{CheckpointError, Restore as How};
use mlctl_blobs::upload::UploadError;
use mlctl_proto::ids::JobId;
use tracing::{info, warn};

use super::fetch::is_lost;
use super::ledger::{Entry, blob};
use super::sealing::{FILE, print};
use super::{Vault, lock};
use crate::checkpoints::leftovers::move_aside;
use crate::checkpoints::rules::is_final;
use crate::core::{PartKey, Restore, RestorePart};

/// A file that is about to take another's place. No trainer's: it is there for a moment only.
const COPY: &str = ".mlctl-copy";
/// How often what was found damaged while it was laid out is fetched again.
const ROUNDS: u32 = 3;

/// Why there is nothing to resume from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// Nobody has a part.
    #[error("no node that is connected holds part {index} of checkpoint {name}")]
    NoHolder {
        /// The part.
        index: u32,
        /// The checkpoint.
        name: String,
    },
    /// Nobody has a part, and the object store does not give it.
    #[error(
        "no node that is connected holds part {index} of checkpoint {name}, and the object store does not give it: {source}"
    )]
    Remote {
        /// The part.
        index: u32,
        /// The checkpoint.
        name: String,
        /// What is wrong there.
        source: Box<UploadError>,
    },
    /// A name that is none of a checkpoint.
    #[error("{0:?} is no checkpoint's name")]
    Name(String),
    /// The store, or what was fetched.
    #[error("checkpoint {name} cannot be put together: {source}")]
    Store {
        /// The checkpoint.
        name: String,
        /// What is wrong.
        source: CheckpointError,
    },
    /// The disk.
    #[error("cannot {doing} {}: {source}", path.display())]
    Disk {
        /// In present tense.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

pub(super) fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Disk {
        doing,
        path,
        source,
    }
}

/// What is to be put together, and where.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Whose checkpoint it is.
    pub(crate) job: JobId,
    /// Its name.
    pub(crate) name: String,
    /// What it is made of.
    pub(crate) restore: Restore,
    /// The part that lies below all others.
    pub(crate) own: u32,
    /// The checkpoint directory; it is there.
    pub(crate) into: PathBuf,
    /// For what is being laid out, on the same file system. Emptied before, gone after.
    pub(crate) staging: PathBuf,
    /// User and group who it belongs to; `None`: the agent's own.
    pub(crate) user: Option<(u32, u32)>,
}

/// A directory that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Of its files.
    pub(crate) bytes: u64,
    /// That came from elsewhere.
    pub(crate) came: u64,
    /// The nodes that gave something, and the URL of an object store that did; this node's own name if nothing came.
    pub(crate) from: Vec<String>,
    /// How: `quic`, `tcp`, `store`, or `local`.
    pub(crate) ways: Vec<String>,
    /// From the order until it was there.
    pub(crate) wall: Duration,
}

/// A part with a manifest.
pub(super) type Part = (PartKey, RestorePart);

impl Vault {
    /// Makes the directory whole, and returns when it has its name. Dropped before, it has left nothing but parts that need not come again.
    ///
    /// # Errors
    /// When nobody has a part, or this node cannot put it together. Who cannot be reached is tried again and again.
    pub(crate) async fn restore(&self, wanted: Wanted) -> Result<Restored, RestoreError> {
        let begun = Instant::now();
        if !is_final(&wanted.name) {
            return Err(RestoreError::Name(wanted.name));
        }
        let parts = parts_of(&wanted);
        let bytes = parts.iter().map(|(_, part)| part.bytes).sum();
        let mut restored = Restored {
            bytes,
            came: 0,
            from: vec![self.inner.own.clone()],
            ways: vec!["local".into()],
            wall: Duration::ZERO,
        };
        if self.is_there(&wanted, &parts) {
            restored.wall = begun.elapsed();
            return Ok(restored);
        }
        let mut round = 1;
        let mut came = Vec::new();
        loop {
            let fetched = self.fetch_all(&wanted, &parts).await?;
            let fresh = fetched.iter().zip(&parts);
            let fresh = fresh.map(|(one, (key, _))| one.fresh || self.is_own(&wanted, key));
            let fresh: Vec<bool> = fresh.collect();
            came.extend(fetched);
            let (vault, what, all) = (self.clone(), wanted.clone(), parts.clone());
            // Somebody waits for it: not on the threads that come last.
            let laying = tokio::task::spawn_blocking(move || vault.lay_out(&what, &all, &fresh));
            let laid = laying.await.map_err(io::Error::other);
            match laid.map_err(disk("lay out", &wanted.into))? {
                Err(RestoreError::Store { source, .. }) if round < ROUNDS && is_lost(&source) => {
                    warn!(job = %wanted.job, wanted.name, error = %source, "a part on this node is damaged; it is fetched anew");
                    self.find_lost().await;
                    round += 1;
                }
                other => break other?,
            }
        }
        restored.came = came.iter().map(|one| one.came).sum();
        if restored.came > 0 {
            let from = came.iter().flat_map(|one| &one.from);
            let (mut names, mut ways): (Vec<String>, Vec<String>) = from
                .map(|(node, way)| (node.clone(), (*way).to_owned()))
                .unzip();
            for words in [&mut names, &mut ways] {
                words.sort_unstable();
                words.dedup();
            }
            (restored.from, restored.ways) = (names, ways);
        }
        self.let_go(&parts).await;
        restored.wall = begun.elapsed();
        Ok(restored)
    }

    /// What came only to be laid out goes from the store.
    async fn let_go(&self, parts: &[Part]) {
        let (shared, parts) = (self.shared().clone(), parts.to_vec());
        let going = self.quietly(move || {
            for (key, _) in parts {
                let _keeping = lock(&shared.keeping);
                let id = blob(&key.manifest);
                if shared.ledger.naming(&key.manifest).is_empty()
                    && let Err(error) = shared.store.remove(&id)
                {
                    warn!(%id, %error, "a part that is laid out stays in the store until the agent starts again");
                }
            }
        });
        if let Err(error) = going.await {
            warn!(%error, "parts that are laid out stay in the store");
        }
    }

    /// The directory is there as it was when it was sealed, and is all of the checkpoint.
    fn is_there(&self, wanted: &Wanted, parts: &[Part]) -> bool {
        matches!(parts, [(key, _)] if self.is_own(wanted, key))
    }

    /// What lies there is this part, as it was sealed: it need not be hashed to know that the store has it.
    fn is_own(&self, wanted: &Wanted, key: &PartKey) -> bool {
        let now = print(&wanted.into, &wanted.name).ok().flatten();
        let sealed = self.sealed_as(key.job, key.epoch, &key.name, now.as_ref());
        sealed.is_some_and(|entry| entry.key == *key)
    }

    /// Lays the parts over each other and gives the whole its name. On a thread that may block.
    fn lay_out(&self, wanted: &Wanted, parts: &[Part], fresh: &[bool]) -> Result<(), RestoreError> {
        let staging = Staging::new(&wanted.staging)?;
        let whole = staging.0.join("whole");
        let mut is_first = true;
        for ((key, _), fresh) in parts.iter().zip(fresh) {
            let at = if is_first {
                whole.clone()
            } else {
                staging.0.join("part")
            };
            let how = How {
                share: true,
                hash: !fresh,
            };
            let laid = self.shared().store.restore(&blob(&key.manifest), &at, how);
            laid.map_err(|source| RestoreError::Store {
                name: wanted.name.clone(),
                source,
            })?;
            if !is_first {
                merge(&at, &whole).map_err(disk("put together", &whole))?;
                fs::remove_dir_all(&at).map_err(disk("clear", &at))?;
            }
            is_first = false;
        }
        if is_first {
            fs::create_dir(&whole).map_err(disk("make", &whole))?;
        }
        let ready = file_in(&whole).unwrap_or(whole);
        if let Some((user, group)) = wanted.user {
            give(&ready, user, group).map_err(disk("give away", &ready))?;
        }
        let to = wanted.into.join(&wanted.name);
        if fs::symlink_metadata(&to).is_ok() {
            move_aside(&wanted.into, &wanted.name).map_err(disk("move aside", &to))?;
            info!(job = %wanted.job, wanted.name, "what lay under the name of a checkpoint was something else; it is set aside");
        }
        fs::rename(&ready, &to).map_err(disk("rename to", &to))?;
        let synced = fs::File::open(&wanted.into).and_then(|dir| dir.sync_all());
        synced.map_err(disk("sync", &wanted.into))?;
        if let [(key, _)] = parts {
            self.remember(wanted, key);
        }
        Ok(())
    }

    /// The directory is all of this part: the next attempt here uses it as it is.
    fn remember(&self, wanted: &Wanted, key: &PartKey) {
        let ledger = &self.shared().ledger;
        let made = print(&wanted.into, &wanted.name).ok().flatten();
        if let Some(entry) = ledger.get(key)
            && let Err(error) = ledger.put(Entry { made, ..entry })
        {
            warn!(%error, "what a restored checkpoint looks like was not written down; it is laid out anew next time");
        }
    }
}

/// The parts with a manifest, in the order in which they lie over each other.
fn parts_of(wanted: &Wanted) -> Vec<Part> {
    let with_key = |part: &RestorePart| {
        let key = PartKey {
            job: wanted.job,
            epoch: wanted.restore.epoch,
            name: wanted.name.clone(),
            index: part.index,
            manifest: part.manifest?,
        };
        Some((key, part.clone()))
    };
    let mut parts: Vec<Part> = wanted.restore.parts.iter().filter_map(with_key).collect();
    parts.sort_by_key(|(key, _)| (key.index != wanted.own, key.index));
    parts
}

/// The file that a checkpoint of one file is.
fn file_in(whole: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(whole).ok()?;
    let only = entries.next()?.ok()?;
    let alone = entries.next().is_none();
    let file = only.file_type().is_ok_and(|kind| kind.is_file());
    (alone && file && only.file_name() == FILE).then(|| only.path())
}

/// Moves what is in `from` to `to`. What is there already stays, and nothing is followed.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let at = to.join(entry.file_name());
        match fs::symlink_metadata(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::rename(entry.path(), &at)?;
            }
            Err(error) => return Err(error),
            Ok(there) if there.is_dir() && entry.file_type()?.is_dir() => {
                merge(&entry.path(), &at)?;
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Gives it to the job's user, with all that is in it. Links are changed themselves. What is theirs is left alone, and what is another
/// user's stays theirs: the same bytes may be in checkpoints of both, as one file in the store.
fn give(path: &Path, user: u32, group: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user, group)?;
        }
    }
    if (found.uid(), found.gid()) == (user, group) {
        return Ok(());
    }
    let own = nix::unistd::geteuid().as_raw();
    let others = ![own, user].contains(&found.uid());
    if others && found.is_file() && found.nlink() > 1 {
        let copy = path.with_file_name(COPY);
        fs::copy(path, &copy)?;
        fs::File::open(&copy)?.sync_all()?;
        fs::rename(&copy, path)?;
    }
    lchown(path, Some(user), Some(group))
}

/// A directory that nobody else can enter, and that goes away with its owner.
struct Staging(PathBuf);

impl Staging {
    fn new(path: &Path) -> Result<Self, RestoreError> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(disk("clear", path)(error));
            }
            _ => {}
        }
        let mut builder = fs::DirBuilder::new();
        let made = builder.mode(0o700).create(path);
        made.map_err(disk("make", path))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is removed with the attempt's folder, or by the next one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_part_never_leads_outside_of_the_whole() {
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        for at in ["whole", "outside", "part/a/deep", "part/b", "part/d"] {
            fs::create_dir_all(path(at)).expect("made");
        }
        symlink(path("outside"), path("whole/a")).expect("linked");
        fs::write(path("whole/b"), b"a file where the part has a directory").expect("written");
        fs::create_dir(path("whole/d")).expect("made");
        fs::write(path("whole/d/same"), b"first").expect("written");
        for at in [
            "part/a/deep/x",
            "part/b/x",
            "part/d/same",
            "part/d/new",
            "part/e",
        ] {
            fs::write(path(at), b"second").expect("written");
        }
        symlink("/etc/passwd", path("part/d/link")).expect("linked");
        merge(&path("part"), &path("whole")).expect("merged");
        let outside = fs::read_dir(path("outside")).expect("there");
        assert_eq!(outside.count(), 0, "a link was followed");
        let text = |at: &str| fs::read_to_string(path(at)).expect("there");
        assert_eq!(text("whole/d/same"), "first", "what is there stays");
        assert_eq!(
            (text("whole/d/new"), text("whole/e")),
            ("second".into(), "second".into())
        );
        assert!(path("whole/b").is_file() && path("whole/a").is_symlink());
        assert!(path("whole/d/link").is_symlink());
    }

    #[test]
    fn what_is_another_users_is_not_taken_from_them() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root gives files away");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("whole")).expect("made");
        for (name, owner) in [("theirs", 40_001), ("agents", 0), ("ones-own", 40_002)] {
            fs::write(path(name), name).expect("written");
            lchown(path(name), Some(owner), Some(owner)).expect("given");
            fs::hard_link(path(name), path("whole").join(name)).expect("linked");
        }
        symlink("/etc/passwd", path("whole/link")).expect("linked");
        give(&path("whole"), 40_002, 40_002).expect("given");
        let of = |at: &str| fs::symlink_metadata(path(at)).expect("there");
        assert_eq!(of("theirs").uid(), 40_001);
        assert_ne!(of("theirs").ino(), of("whole/theirs").ino());
        assert_eq!(of("agents").ino(), of("whole/agents").ino());
        for at in ["theirs", "agents", "ones-own", "link"] {
            assert_eq!(of(&format!("whole/{at}")).uid(), 40_002, "{at}");
        }
        assert_eq!(of("/etc/passwd").uid(), 0);
        assert_eq!(fs::read(path("whole/theirs")).expect("read"), b"theirs");
    }

    #[test]
    fn parts_lie_over_each_other_with_ones_own_first() {
        let part = |index, manifest| RestorePart {
            index,
            manifest,
            bytes: 1,
            holders: vec![],
            url: None,
        };
        let parts = [3, 0, 2].map(|index| part(index, Some([index as u8; 32])));
        let wanted = Wanted {
            job: JobId::new(1, 1),
            name: "step-1".into(),
            restore: Restore {
                epoch: mlctl_proto::ids::Epoch::new(1, 1),
                parts: parts.into_iter().chain([part(1, None)]).collect(),
            },
            own: 2,
            into: PathBuf::new(),
            staging: PathBuf::new(),
            user: None,
        };
        let order: Vec<u32> = parts_of(&wanted).iter().map(|(key, _)| key.index).collect();
        assert_eq!(order, [2, 0, 3]);
    }
}
