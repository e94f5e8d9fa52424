//! Snapshot files: written aside, synced, renamed, read back and verified; the two newest are kept.
//!
//! It does not know what a snapshot holds nor when one is due. Layout of `snap-<index>.mls`: magic, version, index,
//! term, members, payload length, payload, and BLAKE3 over all of that; numbers are little endian. A file that came
//! from a leader is `incoming-<index>.mls` until the log says that it replaces everything before it.

use crate::consensus::turn::{Membership, SnapshotMeta};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MAGIC: &[u8; 8] = b"MLCTLSNP";
const VERSION: u32 = 2;
const DIGEST_BYTES: usize = 32;
const KEPT: usize = 2;
const SUFFIX: &str = ".mls";

/// What goes wrong with a snapshot file.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
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
    /// The bytes are not what was once written.
    #[error("the snapshot {name} is corrupt: {reason}")]
    Corrupt {
        /// Which one.
        name: String,
        /// What does not hold.
        reason: &'static str,
    },
    /// Another snapshot than the one that was asked for.
    #[error("there is no snapshot of index {index} with that digest here (any more)")]
    Unknown {
        /// The index that was asked for.
        index: u64,
    },
}

impl SnapshotError {
    /// Whether there was no room for it. What was written of it is gone again, and nothing else was touched.
    pub fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { source, .. } if full.contains(&source.kind()))
    }
}

/// The snapshot directory of one member. Shared between threads.
pub struct SnapshotStore {
    dir: PathBuf,
    /// Verified files, newest first.
    kept: Mutex<Vec<SnapshotMeta>>,
}

impl SnapshotStore {
    /// Opens the directory, finishes or forgets what a crash left half done, and verifies every file.
    /// `floor` is the index that the log begins after. Corrupt files are reported in the log and not used.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn open(dir: &Path, floor: u64) -> Result<Self, SnapshotError> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let store = Self {
            dir: dir.to_path_buf(),
            kept: Mutex::default(),
        };
        let mut verified = Vec::new();
        for item in fs::read_dir(dir).map_err(failed("list", dir))? {
            let path = item.map_err(failed("list", dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.unwrap_or_default().to_owned();
            if let Some(index) = index_in(&name, "incoming-") {
                // The log was told before the rename, or it was not and the file means nothing.
                if index == floor && floor > 0 {
                    let adopted = store.path("snap", index);
                    fs::rename(&path, &adopted).map_err(failed("rename", &path))?;
                    store.sync()?;
                    store.verify_into(&adopted, &mut verified)?;
                } else {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
            } else if index_in(&name, "snap-").is_some() {
                store.verify_into(&path, &mut verified)?;
            } else if name.ends_with(".tmp") {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        verified.sort_by_key(|meta| std::cmp::Reverse(meta.index));
        verified.dedup_by_key(|meta| meta.index);
        *store.lock() = verified;
        Ok(store)
    }

    /// The verified snapshots, newest first.
    pub fn verified(&self) -> Vec<SnapshotMeta> {
        self.lock().clone()
    }

    /// Writes a snapshot of the local state durably and reads it back. `meta.digest` is filled in.
    ///
    /// # Errors
    /// What the disk refused, or a file that does not read back as it was written.
    pub fn save(
        &self,
        mut meta: SnapshotMeta,
        payload: &[u8],
    ) -> Result<SnapshotMeta, SnapshotError> {
        let bytes = encode(&mut meta, payload);
        let path = self.path("snap", meta.index);
        self.write_durably(&path, &bytes)?;
        let written = fs::read(&path).map_err(failed("read", &path))?;
        if parse(&written).map(|(read, _)| read).as_ref() != Ok(&meta) {
            return Err(SnapshotError::Corrupt {
                name: path.display().to_string(),
                reason: "it does not read back as it was written",
            });
        }
        self.keep(meta.clone())?;
        Ok(meta)
    }

    /// Verifies a file that a leader sent and stores it durably, not yet to be used at a start.
    ///
    /// # Errors
    /// [`SnapshotError::Corrupt`] if it is not what `meta` announced, or what the disk refused.
    pub fn receive(&self, meta: &SnapshotMeta, file: &[u8]) -> Result<(), SnapshotError> {
        let corrupt = |reason| SnapshotError::Corrupt {
            name: format!("received for index {}", meta.index),
            reason,
        };
        let (found, _) = parse(file).map_err(corrupt)?;
        if found != *meta {
            return Err(corrupt("it is not the one that was announced"));
        }
        self.write_durably(&self.path("incoming", meta.index), file)
    }

    /// The log now begins after a received snapshot: makes it the newest.
    ///
    /// # Errors
    /// What the disk refused; the member must stop.
    pub fn adopt(&self, meta: &SnapshotMeta) -> Result<(), SnapshotError> {
        let from = self.path("incoming", meta.index);
        let to = self.path("snap", meta.index);
        fs::rename(&from, &to).map_err(failed("rename", &from))?;
        self.sync()?;
        self.keep(meta.clone())
    }

    /// What a verified snapshot holds, verified again.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`] if it is gone, [`SnapshotError::Corrupt`] if it changed.
    pub fn payload(&self, meta: &SnapshotMeta) -> Result<Vec<u8>, SnapshotError> {
        let (mut file, payload) = self.read(meta.index, &meta.digest)?;
        file.truncate(payload.end);
        Ok(file.split_off(payload.start))
    }

    /// The whole file for a follower.
    ///
    /// # Errors
    /// As [`SnapshotStore::payload`].
    pub fn file(&self, index: u64, digest: &[u8; 32]) -> Result<Vec<u8>, SnapshotError> {
        self.read(index, digest).map(|(file, _)| file)
    }

    fn read(
        &self,
        index: u64,
        digest: &[u8; 32],
    ) -> Result<(Vec<u8>, Range<usize>), SnapshotError> {
        let path = self.path("snap", index);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SnapshotError::Unknown { index });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let (meta, payload) = parse(&bytes).map_err(|reason| SnapshotError::Corrupt {
            name: path.display().to_string(),
            reason,
        })?;
        if meta.index != index || meta.digest != *digest {
            return Err(SnapshotError::Unknown { index });
        }
        Ok((bytes, payload))
    }

    fn verify_into(
        &self,
        path: &Path,
        verified: &mut Vec<SnapshotMeta>,
    ) -> Result<(), SnapshotError> {
        let bytes = fs::read(path).map_err(failed("read", path))?;
        match parse(&bytes) {
            Ok((meta, _)) => verified.push(meta),
            Err(reason) => tracing::error!(
                path = %path.display(),
                reason,
                "a snapshot is corrupt; an older one is used if the log reaches back to it"
            ),
        }
        Ok(())
    }

    /// Remembers a new file and removes all but the newest two.
    fn keep(&self, meta: SnapshotMeta) -> Result<(), SnapshotError> {
        let mut kept = self.lock();
        kept.retain(|old| old.index != meta.index);
        kept.push(meta);
        kept.sort_by_key(|meta| std::cmp::Reverse(meta.index));
        kept.truncate(KEPT);
        let oldest = kept.last().map_or(0, |meta| meta.index);
        for item in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = item.map_err(failed("list", &self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.unwrap_or_default();
            // A received file below the newest was never wanted: raft had moved on.
            let unwanted = index_in(name, "snap-").is_some_and(|index| index < oldest)
                || index_in(name, "incoming-").is_some_and(|index| index < oldest);
            if unwanted {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    fn write_durably(&self, path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
        let aside = path.with_extension("tmp");
        let mut file = File::create(&aside).map_err(failed("create", &aside))?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // The space it took is needed; what cannot be removed is at the next start.
            let _ = fs::remove_file(&aside);
            return Err(failed("write", &aside)(error));
        }
        fs::rename(&aside, path).map_err(failed("rename", &aside))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("sync", &self.dir))
    }

    fn path(&self, kind: &str, index: u64) -> PathBuf {
        self.dir.join(format!("{kind}-{index:020}{SUFFIX}"))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SnapshotMeta>> {
        // The list is replaced whole, so a panic elsewhere cannot leave it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index_in(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(SUFFIX)?;
    digits.parse().ok()
}

fn encode(meta: &mut SnapshotMeta, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 128);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&meta.index.to_le_bytes());
    bytes.extend_from_slice(&meta.term.to_le_bytes());
    let members = meta.members.to_bytes();
    bytes.extend_from_slice(&(members.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&members);
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(payload);
    meta.digest = *blake3::hash(&bytes).as_bytes();
    bytes.extend_from_slice(&meta.digest);
    bytes
}

/// Verifies a file; says what it is and where its payload lies.
fn parse(bytes: &[u8]) -> Result<(SnapshotMeta, Range<usize>), &'static str> {
    let (body, digest) = bytes
        .split_last_chunk::<DIGEST_BYTES>()
        .ok_or("it is shorter than its checksum")?;
    let mut rest = body.strip_prefix(MAGIC).ok_or("it has no magic number")?;
    if take(&mut rest).map(u32::from_le_bytes) != Some(VERSION) {
        return Err("its version is unknown to this release");
    }
    if blake3::hash(body).as_bytes() != digest {
        return Err("its checksum does not hold");
    }
    let mut number = || {
        take(&mut rest)
            .map(u64::from_le_bytes)
            .ok_or("its header is cut off")
    };
    let (index, term) = (number()?, number()?);
    let size = take(&mut rest)
        .map(u32::from_le_bytes)
        .ok_or("its header is cut off")?;
    let members = rest
        .split_off(..size as usize)
        .ok_or("its members are cut off")?;
    let members = Membership::from_bytes(members)?;
    let length = take(&mut rest)
        .map(u64::from_le_bytes)
        .ok_or("its header is cut off")?;
    if length != rest.len() as u64 {
        return Err("its length is wrong");
    }
    let meta = SnapshotMeta {
        index,
        term,
        members,
        digest: *digest,
    };
    Ok((meta, body.len() - rest.len()..body.len()))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError + use<> {
    let path = path.to_path_buf();
    move |source| SnapshotError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            index,
            term: 2,
            members: Membership::founded([(1, "a".into()), (2, "b".into())]),
            digest: [0; 32],
        }
    }

    fn indexes(store: &SnapshotStore) -> Vec<u64> {
        store.verified().iter().map(|meta| meta.index).collect()
    }

    #[test]
    fn the_two_newest_are_kept_and_survive_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = SnapshotStore::open(dir.path(), 0).expect("opens");
        let saved: Vec<_> = [5, 9, 12]
            .map(|index| store.save(meta(index), format!("state {index}").as_bytes()))
            .into_iter()
            .map(|saved| saved.expect("saves"))
            .collect();
        assert_eq!(indexes(&store), [12, 9]);
        assert!(matches!(
            store.payload(&saved[0]),
            Err(SnapshotError::Unknown { index: 5 })
        ));
        let store = SnapshotStore::open(dir.path(), 0).expect("opens again");
        assert_eq!(indexes(&store), [12, 9]);
        assert_eq!(store.payload(&saved[2]).expect("reads"), b"state 12");
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let mut about = meta(5);
        let good = encode(&mut about, b"some state");
        assert_eq!(parse(&good).map(|(meta, _)| meta), Ok(about));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(parse(&bad).is_err(), "a flip at {at} passed");
            assert!(parse(&good[..at]).is_err(), "a cut at {at} passed");
        }
    }

    #[test]
    fn a_corrupt_newest_leaves_the_older_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = SnapshotStore::open(dir.path(), 0).expect("opens");
        store.save(meta(5), b"five").expect("saves");
        store.save(meta(9), b"nine").expect("saves");
        let path = store.path("snap", 9);
        let mut bytes = fs::read(&path).expect("reads");
        bytes[70] ^= 1;
        fs::write(&path, bytes).expect("writes");
        let store = SnapshotStore::open(dir.path(), 0).expect("opens again");
        assert_eq!(indexes(&store), [5]);
    }

    #[test]
    fn received_files_count_only_when_the_log_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut about = meta(7);
        let file = encode(&mut about, b"seven");
        for (floor, expected) in [(0, vec![]), (7, vec![7])] {
            let store = SnapshotStore::open(dir.path(), 0).expect("opens");
            store.receive(&about, &file).expect("receives");
            assert!(indexes(&store).is_empty());
            let store = SnapshotStore::open(dir.path(), floor).expect("opens after a crash");
            assert_eq!(indexes(&store), expected);
        }
        let store = SnapshotStore::open(dir.path(), 7).expect("opens");
        let mut other = about.clone();
        other.term = 3;
        assert!(store.receive(&other, &file).is_err());
        assert!(store.receive(&about, &file[..20]).is_err());
    }
}
