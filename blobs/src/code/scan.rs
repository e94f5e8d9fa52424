//! A directory on a laptop to a manifest. Reads every file once, to hash it; sends nothing.
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;

use super::{CodeError, Entry, Manifest};
use crate::BlobId;

/// A scanned directory: its manifest and where each blob's bytes lie.
#[derive(Debug)]
pub struct Scanned {
    /// The list.
    pub manifest: Manifest,
    /// Blob and file, one per distinct content.
    pub files: Vec<(BlobId, PathBuf)>,
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CodeError {
    let path = path.to_owned();
    move |source| CodeError::Io {
        doing,
        path,
        source,
    }
}

/// Scans `root`: `.gitignore`, `.mlctlignore` and `.git/info/exclude` are respected, hidden files travel, `.git` never.
/// A link that leaves the tree, a name that is not UTF-8, a socket or device is refused by name.
pub fn scan(root: &Path) -> Result<Scanned, CodeError> {
    let root = root.canonicalize().map_err(io("open", root))?;
    if !root.is_dir() {
        let why = "is not a directory";
        return Err(CodeError::Path {
            path: root.display().to_string(),
            why,
        });
    }
    let walk = WalkBuilder::new(&root)
        .hidden(false)
        .parents(true)
        .require_git(false)
        .follow_links(false)
        .add_custom_ignore_filename(".mlctlignore")
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    let mut entries = Vec::new();
    let mut files = std::collections::BTreeMap::new();
    for found in walk {
        let found = found.map_err(|error| CodeError::Format(error.to_string()))?;
        if found.depth() == 0 || found.file_type().is_some_and(|kind| kind.is_dir()) {
            continue;
        }
        let (entry, blob) = entry_of(&root, found.path())?;
        entries.push(entry);
        if let Some(blob) = blob {
            files.entry(blob).or_insert_with(|| found.into_path());
        }
    }
    Ok(Scanned {
        manifest: Manifest::new(entries)?,
        files: files.into_iter().collect(),
    })
}

fn entry_of(root: &Path, path: &Path) -> Result<(Entry, Option<BlobId>), CodeError> {
    let wrong = |why| CodeError::Path {
        path: path.display().to_string(),
        why,
    };
    let inside = path
        .strip_prefix(root)
        .map_err(|_| wrong("is outside of the code directory"))?;
    let name = inside
        .to_str()
        .ok_or_else(|| wrong("has a name that is not UTF-8"))?
        .to_owned();
    let meta = fs::symlink_metadata(path).map_err(io("look at", path))?;
    if meta.is_symlink() {
        let target = fs::read_link(path).map_err(io("read link", path))?;
        let target = target
            .to_str()
            .ok_or_else(|| wrong("points to a name that is not UTF-8"))?
            .to_owned();
        let link = Entry {
            path: name,
            blob: String::new(),
            size: 0,
            executable: false,
            link: Some(target),
        };
        return Ok((link, None));
    }
    if !meta.is_file() {
        return Err(wrong(
            "is neither a file nor a link; name it in .mlctlignore",
        ));
    }
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(io("open", path))?;
    std::io::copy(&mut file, &mut hasher).map_err(io("read", path))?;
    let blob = BlobId::from_hash(hasher.finalize());
    let entry = Entry {
        path: name,
        blob: blob.to_string(),
        size: hasher.count(),
        executable: executable(&meta),
        link: None,
    };
    Ok((entry, Some(blob)))
}

#[cfg(unix)]
fn executable(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o100 != 0
}

#[cfg(not(unix))]
fn executable(_: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_are_respected_and_git_never_travels() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("inside")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("train.py", "print()");
        write("copy.py", "print()");
        write(".env", "A=1");
        write(".git/config", "secret");
        write("sub/.git/config", "secret");
        write(".gitignore", "*.bin\n/out/\n");
        write(".mlctlignore", "data\n");
        write("x.bin", "big");
        write("out/y", "big");
        write("data/z", "big");
        let scanned = scan(dir.path()).expect("scans");
        let paths: Vec<_> = scanned
            .manifest
            .files
            .iter()
            .map(|e| e.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [".env", ".gitignore", ".mlctlignore", "copy.py", "train.py"]
        );
        assert_eq!(scanned.files.len(), 4, "the same content is one blob");
    }

    #[cfg(unix)]
    #[test]
    fn links_that_leave_are_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("l")).expect("linked");
        let error = scan(dir.path()).expect_err("leaves the tree").to_string();
        assert!(error.contains("leaves the tree"), "{error}");
    }
}
