//! Parts become a directory again, before the ranks that resume from it start: what this node holds, and from other nodes what it does not.
//! What is fetched stays, so that this node is a holder too. Does NOT choose a checkpoint, and gives nobody anything before it is whole.
//!
//! All is laid out in a directory that only the agent can enter, and then renamed to its place: no process of the job sees it before, and
//! nothing in a part can lead outside.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlctl_blobs::checkpoint::{CheckpointError, Restore as How};
use mlctl_blobs::transfer::{Peer, Pull, TransferError};
use mlctl_proto::ids::JobId;
use mlctl_proto::persist::CheckpointSealed;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::ledger::{Entry, blob};
use super::push::{PAUSE_FIRST, PAUSE_MOST, resolve, way_word};
use super::sealing::{FILE, print};
use super::{Vault, lock};
use crate::checkpoints::leftovers::move_aside;
use crate::checkpoints::rules::{is_final, step_of};
use crate::core::{Holder, PartFound, PartKey, Restore, RestorePart};
use crate::failpoint;

/// Parts that are fetched at once.
const AT_ONCE: usize = 4;
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

fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
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
    /// That came from other nodes.
    pub(crate) came: u64,
    /// The nodes that gave something; this node's own name if nothing came.
    pub(crate) from: Vec<String>,
    /// How: `quic`, `tcp`, or `local`.
    pub(crate) ways: Vec<String>,
    /// From the order until it was there.
    pub(crate) wall: Duration,
}

/// A part that is held now.
#[derive(Debug, Default)]
struct Fetched {
    came: u64,
    from: Vec<(String, &'static str)>,
    /// Verified a moment ago.
    fresh: bool,
}

/// Of a checkpoint with more parts than this a node keeps its own alone: were every node of a large gang to keep and announce all of them, the job's
/// record would grow with the square of its nodes.
const KEPT_ALL: usize = 4;

/// A part with a manifest.
type Part = (PartKey, RestorePart);

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

    /// Sees to it that every part is held here; in order of `parts`.
    async fn fetch_all(
        &self,
        wanted: &Wanted,
        parts: &[Part],
    ) -> Result<Vec<Fetched>, RestoreError> {
        let mut fetched: Vec<Option<Fetched>> = parts.iter().map(|_| None).collect();
        let mut fetching = JoinSet::new();
        let mut next = parts.iter().enumerate();
        loop {
            while fetching.len() < AT_ONCE
                && let Some((number, (key, part))) = next.next()
            {
                let (vault, key, part) = (self.clone(), key.clone(), part.clone());
                let whole = u32::try_from(wanted.restore.parts.len()).unwrap_or(u32::MAX);
                let keeps = parts.len() <= KEPT_ALL || key.index == wanted.own;
                let whole = keeps.then_some(whole);
                // They end with this call, if it is given up.
                let fetch = async move { (number, vault.fetch(key, part, whole).await) };
                fetching.spawn_on(fetch, &self.inner.quiet.handle());
            }
            match fetching.join_next().await {
                None => break,
                Some(Ok((number, one))) => fetched[number] = Some(one?),
                Some(Err(error)) => {
                    return Err(disk("fetch to", &wanted.into)(io::Error::other(error)));
                }
            }
        }
        Ok(fetched.into_iter().flatten().collect())
    }

    /// Fetches one part, from all who have it, until it is here. It is kept as a copy, one of `keep` parts, or only laid out.
    async fn fetch(
        &self,
        key: PartKey,
        part: RestorePart,
        keep: Option<u32>,
    ) -> Result<Fetched, RestoreError> {
        let id = blob(&key.manifest);
        let others: Vec<Holder> = part
            .holders
            .iter()
            .filter(|holder| holder.node != self.inner.own)
            .cloned()
            .collect();
        let pull = Pull {
            id,
            near: self.near(&key),
            urgent: true,
        };
        let (mut pause, mut told) = (PAUSE_FIRST, false);
        let mut fetched = Fetched::default();
        while !self.shared().store.is_held(&id) {
            if others.is_empty() {
                let (index, name) = (key.index, key.name);
                return Err(RestoreError::NoHolder { index, name });
            }
            let why = match self.pull(&others, &pull).await {
                Ok(got) => {
                    failpoint::hit("restore.pulled");
                    fetched = got;
                    break;
                }
                Err(TransferError::Store(source)) if !is_lost(&source) => {
                    let name = key.name;
                    return Err(RestoreError::Store { name, source });
                }
                Err(error) => error.to_string(),
            };
            if pause == PAUSE_MOST && !std::mem::replace(&mut told, true) {
                warn!(job = %key.job, key.name, key.index, why, "a checkpoint cannot be fetched yet; trying again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
        let Some(whole) = keep else {
            return Ok(fetched);
        };
        let found = PartFound {
            index: key.index,
            manifest: Some(key.manifest),
            bytes: part.bytes,
        };
        let sealed = CheckpointSealed {
            name: key.name.clone(),
            step: step_of(&key.name),
            part: Some(found.to_record()),
            parts: whole,
            ..CheckpointSealed::default()
        };
        if self.shared().ledger.get(&key).is_none() {
            let held = self.hold(Entry::new(key, sealed)).await;
            held.map_err(disk("write down a part in", &self.inner.staging))?;
        }
        Ok(fetched)
    }

    async fn pull(&self, holders: &[Holder], pull: &Pull) -> Result<Fetched, TransferError> {
        let mut peers: Vec<Peer> = Vec::new();
        let mut why = String::new();
        for holder in holders {
            match resolve(holder).await {
                Ok(peer) => peers.push(peer),
                Err(error) => why = error,
            }
        }
        if peers.is_empty() {
            return Err(TransferError::Local(why));
        }
        let pulled = self.inner.node.pull(&peers, pull).await?;
        let gave = pulled.sources.iter().filter(|source| source.bytes > 0);
        let from = gave.filter_map(|source| Some((source.node.clone(), way_word(source.way?))));
        Ok(Fetched {
            came: pulled.sources.iter().map(|source| source.bytes).sum(),
            from: from.collect(),
            fresh: true,
        })
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

/// Can it be had anew?
fn is_lost(error: &CheckpointError) -> bool {
    matches!(
        error,
        CheckpointError::Damaged { .. }
            | CheckpointError::NotHeld { .. }
            | CheckpointError::Incomplete { .. }
            | CheckpointError::WrongChunk { .. }
            | CheckpointError::Busy { .. }
    )
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
