//! What a trainer completed becomes a part that this node holds. Does NOT judge whether it is complete, and tells nobody: who calls does,
//! and then says that it did.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mlctl_blobs::checkpoint::{CheckpointError, CheckpointStore, Sealed};
use mlctl_proto::ids::{Epoch, JobId};

use super::ledger::{Entry, blob};
use super::{Vault, lock};
use crate::checkpoints::look::listing;
use crate::core::{CheckpointFound, PartFound, PartKey};
use crate::failpoint;

/// A checkpoint that is one file is kept as a directory with this in it and nothing else.
pub(super) const FILE: &str = ".mlctl-file";
/// How often one that changes meanwhile is tried again.
const TRIES: u32 = 3;
/// After such a pause.
const AGAIN: Duration = Duration::from_millis(300);

/// Why a directory is not sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] CheckpointError),
    /// What lies there is not what was judged to be complete: it was written to since, or is gone. It is judged anew.
    #[error("it was written to, or removed, after it was complete")]
    Overtaken,
    /// The disk.
    #[error("cannot {doing}: {source}")]
    Disk {
        /// In present tense.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn disk(doing: &'static str) -> impl FnOnce(io::Error) -> SealError {
    move |source| SealError::Disk { doing, source }
}

/// What tells a directory, or a file, from any other state of it: names, sizes, when each was written, and which file it is. `None` for one
/// with too many files.
pub(super) fn print(dir: &Path, name: &str) -> io::Result<Option<String>> {
    let found = listing(dir, name, false)?;
    if found.cut {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    for (path, size, mtime_ns, inode) in found.fingerprint().rows() {
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(&size.to_le_bytes());
        hasher.update(&mtime_ns.to_le_bytes());
        hasher.update(&inode.to_le_bytes());
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

impl Vault {
    /// What lies in `dir` under this name now; `None` where nothing tells its states apart, or nothing is there.
    pub(crate) async fn print_of(&self, dir: &Path, name: &str) -> Option<String> {
        let (dir, name) = (dir.to_owned(), name.to_owned());
        let looking = self.quietly(move || print(&dir, &name)).await;
        // Whatever it is, sealing finds it out.
        looking.ok()?.ok()?
    }

    /// Seals what lies complete in `dir` under the name of `found`, whose part is to be number `index`; writes it down, and puts the part
    /// into `found`. `judged` is what it looked like then. Whoever told the core of that calls [`Vault::said`].
    ///
    /// # Errors
    /// [`SealError::Overtaken`] when it is not that any more; else when the store does not take it: there is no room, it has what no
    /// checkpoint holds.
    pub(crate) async fn seal(
        &self,
        dir: &Path,
        found: &mut CheckpointFound,
        index: u32,
        judged: Option<&str>,
    ) -> Result<PartKey, SealError> {
        let _turn = self.inner.sealing.acquire().await;
        let mut tries = 0;
        loop {
            let (vault, dir, one) = (self.clone(), dir.to_owned(), found.clone());
            let judged = judged.map(str::to_owned);
            let sealing = move || vault.seal_now(&dir, one, index, judged.as_deref());
            let sealed = self.quietly(sealing).await;
            match sealed.map_err(disk("seal a checkpoint"))? {
                Ok((key, part)) => {
                    found.part = Some(part);
                    return Ok(key);
                }
                Err(SealError::Store(
                    CheckpointError::Changed { .. } | CheckpointError::NotHeld { .. },
                )) if tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether what lies in `dir` under the name of `found` is just what an earlier attempt sealed there: then it is none of this one.
    pub(crate) async fn is_of_earlier(&self, dir: &Path, found: &CheckpointFound) -> bool {
        let (vault, dir, found) = (self.clone(), dir.to_owned(), found.clone());
        let looking = move || {
            let now = print(&dir, &found.name).ok().flatten();
            let entries = vault.shared().ledger.entries().into_iter();
            let mut earlier = entries.filter(|entry| {
                let key = &entry.key;
                key.job == found.job && key.name == found.name && key.epoch < found.epoch
            });
            now.is_some() && earlier.any(|entry| entry.made == now)
        };
        // A panic was reported where it happened; sealing finds out the rest.
        self.quietly(looking).await.unwrap_or(false)
    }

    /// On a thread that may block.
    fn seal_now(
        &self,
        dir: &Path,
        mut found: CheckpointFound,
        index: u32,
        judged: Option<&str>,
    ) -> Result<(PartKey, PartFound), SealError> {
        let shared = self.shared();
        let look = || match print(dir, &found.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SealError::Overtaken),
            other => other.map_err(disk("look at a checkpoint")),
        };
        let before = look()?;
        if judged.is_some() && judged != before.as_deref() {
            return Err(SealError::Overtaken);
        }
        if let Some(known) = self.sealed_as(found.job, found.epoch, &found.name, before.as_ref())
            && known.key.index == index
        {
            let _keeping = lock(&shared.keeping);
            lock(&shared.unsaid).insert(known.key.clone());
            let bytes = known.sealed.part.as_ref().map_or(0, |part| part.bytes);
            let manifest = Some(known.key.manifest);
            let part = PartFound {
                index,
                manifest,
                bytes,
            };
            return Ok((known.key, part));
        }
        let at = dir.join(&found.name);
        let is_dir = fs::symlink_metadata(&at).map_err(disk("look at a checkpoint"))?;
        let sealed = if is_dir.is_dir() {
            shared.store.seal(&at)?
        } else {
            seal_file(&shared.store, &at, &self.inner.staging)?
        };
        failpoint::hit("copy.sealed");
        let part = PartFound {
            index,
            manifest: Some(*sealed.id.as_bytes()),
            bytes: sealed.bytes,
        };
        found.part = Some(part);
        let after = look()?;
        let record = found.sealed();
        let key = PartKey {
            job: found.job,
            epoch: found.epoch,
            name: found.name,
            index,
            manifest: *sealed.id.as_bytes(),
        };
        let mut entry = Entry::new(key.clone(), record);
        entry.made = after.filter(|after| Some(after) == before.as_ref());
        let _keeping = lock(&shared.keeping);
        if !shared.store.is_held(&sealed.id) {
            // The last that named these bytes was let go meanwhile.
            return Err(CheckpointError::NotHeld { id: sealed.id }.into());
        }
        lock(&shared.unsaid).insert(key.clone());
        let written = shared.ledger.put(entry);
        written.map_err(disk("write down that a checkpoint is sealed"))?;
        failpoint::hit("copy.ledger");
        Ok((key, part))
    }

    /// The entry of what lies under this name as it looks now, if all of it is one part that is held.
    pub(super) fn sealed_as(
        &self,
        job: JobId,
        epoch: Epoch,
        name: &str,
        print: Option<&String>,
    ) -> Option<Entry> {
        let print = print?;
        let shared = self.shared();
        let entries = shared.ledger.entries().into_iter();
        let mut same = entries.filter(|entry| {
            let key = &entry.key;
            let its = key.job == job && key.epoch == epoch && key.name == name;
            its && entry.made.as_ref() == Some(print)
        });
        same.find(|entry| shared.store.is_held(&blob(&entry.key.manifest)))
    }
}

/// A directory that goes away with its owner.
struct Stage(PathBuf);

impl Drop for Stage {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Seals one file, by a second name of it in a directory of its own.
fn seal_file(store: &CheckpointStore, at: &Path, staging: &Path) -> Result<Sealed, SealError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let stage = Stage(staging.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string()));
    let mut builder = fs::DirBuilder::new();
    let made = builder.mode(0o700).create(&stage.0);
    made.map_err(disk("make a directory for a checkpoint"))?;
    let second = stage.0.join(FILE);
    match fs::hard_link(at, &second) {
        // It lies in memory, or the agent's data on several file systems.
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy_file(at, &second).map_err(disk("copy a checkpoint"))?;
        }
        linked => linked.map_err(disk("give a checkpoint a second name"))?,
    }
    Ok(store.seal(&stage.0)?)
}

/// Copies a file that a job's user may change at any time: a link that has taken its place is not followed, and nothing waits for a pipe.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut opening = fs::OpenOptions::new();
    opening.read(true);
    opening.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut from = opening.open(from)?;
    let found = from.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file any more"));
    }
    let mut to = fs::File::create_new(to)?;
    io::copy(&mut from, &mut to)?;
    to.set_permissions(found.permissions())?;
    to.set_modified(found.modified()?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::copy_file;

    #[test]
    fn a_file_is_copied_as_it_is_and_a_link_is_not_followed() {
        let dir = tempfile::tempdir().expect("dir");
        let (from, to) = (dir.path().join("last.pt"), dir.path().join("copy"));
        fs::write(&from, "weights").expect("written");
        fs::set_permissions(&from, fs::Permissions::from_mode(0o640)).expect("set");
        copy_file(&from, &to).expect("copied");
        assert_eq!(fs::read(&to).expect("read"), b"weights");
        let (old, new) = (fs::metadata(&from), fs::metadata(&to));
        let (old, new) = (old.expect("there"), new.expect("there"));
        assert_eq!(old.permissions(), new.permissions());
        assert_eq!(
            old.modified().expect("known"),
            new.modified().expect("known")
        );
        let link = dir.path().join("link");
        symlink(&from, &link).expect("linked");
        for wrong in [link.as_path(), dir.path()] {
            assert!(copy_file(wrong, &dir.path().join("other")).is_err());
        }
        assert!(!dir.path().join("other").exists());
    }
}
