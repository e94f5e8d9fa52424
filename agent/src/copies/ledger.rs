//! Which parts of which checkpoints this node holds, and what the cluster knows of each: one small file a part, so that it outlives the
//! agent. Does NOT hold the parts: the store does, by their manifests.
//!
//! A file is written aside, synced and renamed. One that cannot be read is set aside with a warning: then the cluster asks for that part.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mlctl_blobs::BlobId;
use mlctl_proto::persist::{CheckpointPart, CheckpointSealed};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::checkpoints::rules::is_final;
use crate::core::{ManifestId, PartKey};

/// Version of the files.
const FORMAT: u32 = 1;
/// More than any of our own has, bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// Where damaged ones go, inside the ledger's directory.
const DAMAGED: &str = "damaged";
const ENDING: &str = ".json";
const ASIDE: &str = ".new";

/// A part that is held.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Which.
    pub(crate) key: PartKey,
    /// Everything that the cluster knows of it.
    pub(crate) sealed: CheckpointSealed,
    /// What the directory looked like of which this is all, if this node has that: see `sealing::print`.
    pub(crate) made: Option<String>,
}

impl Entry {
    /// Of this part; `sealed` must tell of one with a manifest.
    pub(crate) fn new(key: PartKey, sealed: CheckpointSealed) -> Self {
        Self {
            key,
            sealed,
            made: None,
        }
    }
}

/// As it lies on the disk.
#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    job: String,
    epoch: String,
    name: String,
    index: u32,
    manifest: String,
    bytes: u64,
    step: u64,
    parts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metric: Option<u64>,
    save_ms: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<String>,
}

impl Written {
    fn of(entry: &Entry) -> Self {
        let (key, sealed) = (&entry.key, &entry.sealed);
        Self {
            v: FORMAT,
            job: key.job.to_string(),
            epoch: key.epoch.to_string(),
            name: key.name.clone(),
            index: key.index,
            manifest: blob(&key.manifest).to_string(),
            bytes: sealed.part.as_ref().map_or(0, |part| part.bytes),
            step: sealed.step,
            parts: sealed.parts,
            metric: sealed.metric,
            save_ms: sealed.save_ms,
            made: entry.made.clone(),
        }
    }

    fn entry(self) -> Result<Entry, String> {
        if self.v != FORMAT {
            return Err(format!("its version is {}, not {FORMAT}", self.v));
        }
        if !is_final(&self.name) {
            return Err("its name is none of a checkpoint".into());
        }
        let bad = |what: &str| format!("its {what} is none");
        let manifest: BlobId = self.manifest.parse().map_err(|_| bad("manifest"))?;
        let key = PartKey {
            job: self.job.parse().map_err(|_| bad("job"))?,
            epoch: self.epoch.parse().map_err(|_| bad("epoch"))?,
            name: self.name.clone(),
            index: self.index,
            manifest: *manifest.as_bytes(),
        };
        let part = CheckpointPart {
            index: self.index,
            manifest: key.manifest.to_vec(),
            bytes: self.bytes,
        };
        let sealed = CheckpointSealed {
            name: self.name,
            step: self.step,
            part: Some(part),
            parts: self.parts,
            metric: self.metric,
            save_ms: self.save_ms,
        };
        let made = self.made;
        Ok(Entry { key, sealed, made })
    }
}

/// A manifest's id as the store writes it.
pub(crate) fn blob(manifest: &ManifestId) -> BlobId {
    BlobId::from_hash(blake3::Hash::from_bytes(*manifest))
}

/// All entries, in memory and on the disk. Reading never waits for the disk; changing does.
pub(crate) struct Ledger {
    dir: PathBuf,
    entries: Mutex<BTreeMap<PartKey, Entry>>,
    /// One change at a time.
    changing: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change of what they guard is one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Opens or makes the ledger in `dir`. What a crash left half written goes, what is damaged is set aside.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub(crate) fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir)?;
        let mut entries = BTreeMap::new();
        for found in fs::read_dir(&dir)? {
            let path = found?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name == DAMAGED {
                continue;
            }
            if name.ends_with(ASIDE) && fs::remove_file(&path).is_ok() {
                continue;
            }
            match read(&path, &name) {
                Ok(entry) => drop(entries.insert(entry.key.clone(), entry)),
                Err(why) => set_aside(&dir, &path, &why),
            }
        }
        Ok(Self {
            dir,
            entries: Mutex::new(entries),
            changing: Mutex::new(()),
        })
    }

    /// The entry of this part.
    pub(crate) fn get(&self, key: &PartKey) -> Option<Entry> {
        lock(&self.entries).get(key).cloned()
    }

    /// All of them, in order.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        lock(&self.entries).values().cloned().collect()
    }

    /// The keys of those that name this manifest.
    pub(crate) fn naming(&self, manifest: &ManifestId) -> Vec<PartKey> {
        let entries = lock(&self.entries);
        let keys = entries.keys().filter(|key| key.manifest == *manifest);
        keys.cloned().collect()
    }

    /// Durable when this returns. Whether it was not there, or said something else.
    ///
    /// # Errors
    /// When the disk fails; then the entry is as it was.
    pub(crate) fn put(&self, entry: Entry) -> io::Result<bool> {
        let _one = lock(&self.changing);
        if lock(&self.entries).get(&entry.key) == Some(&entry) {
            return Ok(false);
        }
        let name = file_name(&entry.key);
        let (aside, path) = (self.dir.join(format!("{name}{ASIDE}")), self.dir.join(name));
        let text = serde_json::to_vec(&Written::of(&entry))?;
        let mut file = File::create(&aside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(&self.dir)?.sync_all()?;
        lock(&self.entries).insert(entry.key.clone(), entry);
        Ok(true)
    }

    /// The entry that was there.
    ///
    /// # Errors
    /// When the disk fails; then it is still there.
    pub(crate) fn remove(&self, key: &PartKey) -> io::Result<Option<Entry>> {
        let _one = lock(&self.changing);
        if !lock(&self.entries).contains_key(key) {
            return Ok(None);
        }
        match fs::remove_file(self.dir.join(file_name(key))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(&self.dir)?.sync_all()?;
        Ok(lock(&self.entries).remove(key))
    }
}

/// Names come from jobs: none becomes a file's name.
fn file_name(key: &PartKey) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.job.to_key());
    hasher.update(&key.epoch.to_key());
    hasher.update(&key.index.to_be_bytes());
    hasher.update(&key.manifest);
    hasher.update(key.name.as_bytes());
    format!("{}{ENDING}", &hasher.finalize().to_hex()[..32])
}

fn read(path: &Path, name: &str) -> Result<Entry, String> {
    let mut text = Vec::new();
    let found = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        return Err("it is no file of ours".into());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut upto = file.take(FILE_BYTES_MAX);
    upto.read_to_end(&mut text)
        .map_err(|error| error.to_string())?;
    let written: Written = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let entry = written.entry()?;
    if file_name(&entry.key) != name {
        return Err("it says something else than its name".into());
    }
    Ok(entry)
}

fn set_aside(dir: &Path, path: &Path, why: &str) {
    let to = dir.join(DAMAGED);
    let name = path.file_name().unwrap_or_default();
    let moved = fs::create_dir_all(&to).and_then(|()| fs::rename(path, to.join(name)));
    let path = path.display();
    match moved {
        Ok(()) => warn!(%path, why, "an entry of the ledger of copies is damaged; it is set aside"),
        Err(error) => warn!(%path, why, %error, "an entry of the ledger of copies is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::ids::{Epoch, JobId};

    fn entry(name: &str, manifest: u8) -> Entry {
        let part = CheckpointPart {
            index: 2,
            manifest: vec![manifest; 32],
            bytes: 77,
        };
        let sealed = CheckpointSealed {
            name: name.into(),
            step: 5,
            part: Some(part),
            parts: 4,
            metric: Some(u64::MAX),
            save_ms: 9,
        };
        let key = PartKey::of(JobId::new(1, 7), Epoch::new(2, 3), &sealed);
        Entry {
            made: Some("x".into()),
            ..Entry::new(key.expect("a manifest"), sealed)
        }
    }

    fn files(dir: &Path) -> Vec<String> {
        let found = fs::read_dir(dir).expect("listed");
        let name = |found: io::Result<fs::DirEntry>| {
            found
                .expect("listed")
                .file_name()
                .to_string_lossy()
                .into_owned()
        };
        found.map(name).collect()
    }

    #[test]
    fn what_was_put_is_there_after_a_restart_until_it_is_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let ledger = Ledger::open(dir.path()).expect("opened");
        // Names of checkpoints are those of jobs.
        let all = [entry("step-1", 1), entry("ä é…", 1), entry("step-1", 2)];
        for one in &all {
            assert!(ledger.put(one.clone()).expect("written"));
            assert!(!ledger.put(one.clone()).expect("the same"));
        }
        assert_eq!(ledger.naming(&[1; 32]).len(), 2);
        let ledger = Ledger::open(dir.path()).expect("opened");
        for one in &all {
            assert_eq!(ledger.get(&one.key).as_ref(), Some(one));
        }
        let removed = ledger.remove(&all[0].key).expect("removed");
        assert_eq!(removed.as_ref(), Some(&all[0]));
        assert_eq!(ledger.remove(&all[0].key).expect("gone"), None);
        let ledger = Ledger::open(dir.path()).expect("opened");
        assert_eq!(ledger.entries().len(), 2);
    }

    #[test]
    fn a_crash_between_writing_and_renaming_leaves_what_was_there() {
        let dir = tempfile::tempdir().expect("dir");
        let ledger = Ledger::open(dir.path()).expect("opened");
        let one = entry("step-1", 1);
        ledger.put(one.clone()).expect("written");
        let aside = dir.path().join(format!("{}{ASIDE}", file_name(&one.key)));
        fs::write(&aside, b"{\"v\":1,\"jo").expect("written");
        let ledger = Ledger::open(dir.path()).expect("opened");
        assert_eq!(ledger.entries(), [one]);
        assert!(!aside.exists());
    }

    #[test]
    fn what_is_damaged_or_somebody_elses_is_set_aside_and_the_rest_counts() {
        let dir = tempfile::tempdir().expect("dir");
        let good = entry("step-1", 1);
        let ledger = Ledger::open(dir.path()).expect("opened");
        ledger.put(good.clone()).expect("written");
        let text = |change: &dyn Fn(&mut Written)| {
            let mut written = Written::of(&good);
            change(&mut written);
            serde_json::to_vec(&written).expect("JSON")
        };
        let own = file_name(&good.key);
        let bad: [(&str, Vec<u8>); 9] = [
            ("empty.json", vec![]),
            ("noise.json", vec![0xff; 100]),
            ("cut.json", text(&|_| {})[..40].to_vec()),
            ("renamed.json", text(&|_| {})),
            ("later.json", text(&|one| one.v = 2)),
            ("path.json", text(&|one| one.name = "../../etc".into())),
            ("manifest.json", text(&|one| one.manifest = "00".into())),
            ("job.json", text(&|one| one.job = "0".into())),
            ("long.json", vec![b' '; 20_000]),
        ];
        for (name, bytes) in &bad {
            fs::write(dir.path().join(name), bytes).expect("written");
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.json")).expect("linked");
        fs::create_dir(dir.path().join("dir.json")).expect("made");
        let ledger = Ledger::open(dir.path()).expect("opened all the same");
        assert_eq!(ledger.entries(), [good]);
        let mut left = files(dir.path());
        left.sort();
        let mut expected = [own, DAMAGED.to_owned()];
        expected.sort();
        assert_eq!(left, expected);
        assert_eq!(files(&dir.path().join(DAMAGED)).len(), bad.len() + 2);
    }
}
