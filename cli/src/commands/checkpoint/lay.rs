//! Parts of a checkpoint over each other, as one directory: in the order of their nodes; a file that is there already stays. The directory
//! appears whole or not at all. Does NOT fetch.
use std::fs;
use std::io;
use std::path::Path;

use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointError, CheckpointStore, Restore};

/// Lays `parts` out as `dest`, which must not be there; `aside` is a directory on the same file system for what is not done. Returns the
/// bytes of its files.
pub fn lay(
    store: &CheckpointStore,
    parts: &[BlobId],
    aside: &Path,
    dest: &Path,
) -> Result<u64, CheckpointError> {
    // Files of their own: whoever writes into one later changes no other.
    let how = Restore {
        share: false,
        hash: true,
    };
    if let [only] = parts {
        return Ok(store.restore(only, dest, how)?.bytes);
    }
    let whole = aside.join("whole");
    cleared(&whole)?;
    fs::create_dir(&whole).map_err(|error| failed("make", &whole, error))?;
    for part in parts {
        let one = aside.join("part");
        cleared(&one)?;
        store.restore(part, &one, how)?;
        merge(&one, &whole).map_err(|error| failed("put together", &whole, error))?;
        cleared(&one)?;
    }
    let bytes = size(&whole).map_err(|error| failed("read", &whole, error))?;
    // A directory does not replace one that has something in it; an empty one that came meanwhile is no loss.
    fs::rename(&whole, dest).map_err(|error| failed("rename to", dest, error))?;
    Ok(bytes)
}

/// What an earlier try left is no use any more.
fn cleared(dir: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir, error)),
        _ => Ok(()),
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Moves what `to` lacks.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match target.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::rename(entry.path(), &target)?
            }
            Err(error) => return Err(error),
            Ok(there) if there.is_dir() && entry.file_type()?.is_dir() => {
                merge(&entry.path(), &target)?
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

fn size(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        bytes = bytes.saturating_add(match facts.is_dir() {
            true => size(&entry.path())?,
            false => facts.len(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_blobs::checkpoint::Options;

    #[test]
    fn parts_lie_over_each_other_and_the_first_wins() {
        let root = tempfile::tempdir().expect("a directory");
        let options = Options {
            limit_bytes: 1 << 30,
            threads: 1,
        };
        let aside = root.path().join("aside");
        let store = CheckpointStore::open(&aside, options).expect("a store");
        let seal = |name: &str, files: &[(&str, &str)]| {
            let dir = root.path().join(name);
            for (path, text) in files {
                let path = dir.join(path);
                fs::create_dir_all(path.parent().expect("below")).expect("made");
                fs::write(path, text).expect("written");
            }
            store.seal(&dir).expect("sealed").id
        };
        let first = seal("0", &[("meta", "of 0"), ("shards/0", "zero")]);
        let second = seal(
            "1",
            &[("meta", "of 1, longer"), ("shards/1", "one"), ("only", "1")],
        );
        let dest = root.path().join("dest");
        assert_eq!(
            lay(&store, &[first, second], &aside, &dest).expect("laid"),
            12
        );
        let read = |path: &str| fs::read_to_string(dest.join(path)).expect("there");
        assert_eq!(
            [
                read("meta"),
                read("shards/0"),
                read("shards/1"),
                read("only")
            ],
            ["of 0", "zero", "one", "1"]
        );
        assert!(!aside.join("part").exists() && !aside.join("whole").exists());
        assert!(
            lay(&store, &[first, second], &aside, &dest).is_err(),
            "it is there"
        );
        assert_eq!(read("meta"), "of 0");
        let alone = root.path().join("alone");
        lay(&store, &[second], &aside, &alone).expect("laid");
        assert_eq!(fs::read_to_string(alone.join("only")).expect("there"), "1");
    }
}
