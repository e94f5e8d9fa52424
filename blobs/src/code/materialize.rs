//! A manifest to a directory on a node. The destination is new and ours; nothing outside of it is ever touched.
use std::fs::{self, OpenOptions};
use std::path::Path;

use super::{CodeError, Manifest};
use crate::{BlobId, Store, StoreError};

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CodeError {
    let path = path.to_owned();
    move |source| CodeError::Io {
        doing,
        path,
        source,
    }
}

/// Lays `manifest` out in `dest`, which must be empty or missing, from blobs that are all in `store`.
/// Every file is verified while it is copied. The manifest was checked, so no path can leave `dest`.
pub fn materialize(store: &Store, manifest: &Manifest, dest: &Path) -> Result<(), CodeError> {
    fs::create_dir_all(dest).map_err(io("make", dest))?;
    if fs::read_dir(dest)
        .map_err(io("list", dest))?
        .next()
        .is_some()
    {
        let why = "is not empty: code is laid out in a new directory only";
        return Err(CodeError::Path {
            path: dest.display().to_string(),
            why,
        });
    }
    for entry in &manifest.files {
        let path = dest.join(&entry.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io("make", parent))?;
        }
        match &entry.link {
            Some(target) => link(target, &path)?,
            None => copy(store, &entry.blob, &path, entry.executable)?,
        }
    }
    Ok(())
}

fn copy(store: &Store, blob: &str, path: &Path, executable: bool) -> Result<(), CodeError> {
    let id: BlobId = blob
        .parse()
        .map_err(|error: crate::BlobIdError| CodeError::Format(error.to_string()))?;
    let mut from = store.open_blob(&id)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    mode(&mut options, executable);
    let to = options.open(path).map_err(io("create", path))?;
    let mut to = Hashed {
        to,
        hasher: blake3::Hasher::new(),
    };
    std::io::copy(&mut from, &mut to).map_err(io("write", path))?;
    let found = BlobId::from_hash(to.hasher.finalize());
    if found == id {
        Ok(())
    } else {
        Err(StoreError::Mismatch { named: id, found }.into())
    }
}

struct Hashed {
    to: fs::File,
    hasher: blake3::Hasher,
}

impl std::io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(unix)]
fn mode(options: &mut OpenOptions, executable: bool) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(if executable { 0o755 } else { 0o644 });
}

#[cfg(not(unix))]
fn mode(_: &mut OpenOptions, _: bool) {}

#[cfg(unix)]
fn link(target: &str, path: &Path) -> Result<(), CodeError> {
    std::os::unix::fs::symlink(target, path).map_err(io("link", path))
}

#[cfg(not(unix))]
fn link(_: &str, path: &Path) -> Result<(), CodeError> {
    Err(CodeError::Path {
        path: path.display().to_string(),
        why: "is a link, which this system cannot make",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::scan;

    #[test]
    fn a_tree_travels_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("pkg")).expect("made");
        fs::write(from.join("pkg/a.py"), "1").expect("written");
        fs::write(from.join("run.sh"), "#!/bin/sh").expect("written");
        std::os::unix::fs::symlink("pkg/a.py", from.join("l")).expect("linked");
        let scanned = scan(&from).expect("scans");
        let store = Store::open(dir.path().join("blobs")).expect("opens");
        for (_, path) in &scanned.files {
            store
                .put_bytes(&fs::read(path).expect("read"))
                .expect("kept");
        }
        let to = dir.path().join("to");
        materialize(&store, &scanned.manifest, &to).expect("laid out");
        assert_eq!(scan(&to).expect("scans").manifest, scanned.manifest);
        assert!(
            materialize(&store, &scanned.manifest, &to).is_err(),
            "not into a used directory"
        );
    }

    #[test]
    fn a_changed_blob_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let from = dir.path().join("from");
        fs::create_dir_all(&from).expect("made");
        fs::write(from.join("a"), "1").expect("written");
        let scanned = scan(&from).expect("scans");
        let store = Store::open(dir.path().join("blobs")).expect("opens");
        let id = store.put_bytes(b"1").expect("kept");
        fs::write(store.path(&id), "2").expect("written");
        let error =
            materialize(&store, &scanned.manifest, &dir.path().join("to")).expect_err("changed");
        assert!(
            matches!(error, CodeError::Store(StoreError::Mismatch { .. })),
            "{error}"
        );
    }
}
