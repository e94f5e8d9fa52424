//! The list of a code upload: canonical JSON, sorted by path, checked as if an enemy had written it.
use std::io;
use std::path::PathBuf;

use mlctl_proto::limits::CODE_FILES_MAX;
use serde::{Deserialize, Serialize};

use crate::{BlobId, StoreError};

/// One file, or a symbolic link that stays inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Relative, `/` between parts, no `.` and `..`.
    pub path: String,
    /// Blob of its bytes; empty for a link.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blob: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// May be run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
    /// Target of a link, relative to its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// A directory tree by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of this list: 1.
    pub v: u32,
    /// Sorted by path, no path twice.
    pub files: Vec<Entry>,
}

/// Why a code upload is refused or cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// A path that leaves the tree, or is no path.
    #[error("code upload: `{path}` {why}")]
    Path {
        /// As given, shortened.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Too many files.
    #[error(
        "code upload: more than {CODE_FILES_MAX} files; name what need not travel in .mlctlignore"
    )]
    TooMany,
    /// Not a manifest of this release.
    #[error("code upload: the manifest is not readable: {0}")]
    Format(String),
    /// A file of the tree could not be read or written.
    #[error("code upload: {doing} {path}")]
    Io {
        /// In present tense.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Manifest {
    /// Sorts and checks `files`.
    pub fn new(mut files: Vec<Entry>) -> Result<Self, CodeError> {
        files.sort();
        let manifest = Self { v: 1, files };
        manifest.check()?;
        Ok(manifest)
    }

    /// Canonical JSON: the same tree gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is made of strings and integers")
    }

    /// Reads and checks what somebody sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodeError> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| CodeError::Format(error.to_string()))?;
        if manifest.v != 1 {
            return Err(CodeError::Format(format!(
                "version {} is not known here",
                manifest.v
            )));
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Sum of the files' sizes, bytes.
    pub fn bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.size))
    }

    fn check(&self) -> Result<(), CodeError> {
        if self.files.len() > CODE_FILES_MAX {
            return Err(CodeError::TooMany);
        }
        let wrong = |path: &str, why| {
            Err(CodeError::Path {
                path: mlctl_proto::ids::clip(path),
                why,
            })
        };
        let mut before: Option<&Entry> = None;
        for entry in &self.files {
            if let Some(why) = path_fault(&entry.path) {
                return wrong(&entry.path, why);
            }
            if before.is_some_and(|before| before.path >= entry.path) {
                return wrong(&entry.path, "stands twice or out of order");
            }
            match &entry.link {
                Some(target) if link_leaves(&entry.path, target) => {
                    return wrong(&entry.path, "is a link that leaves the tree");
                }
                None if entry.blob.parse::<BlobId>().is_err() => {
                    return wrong(&entry.path, "names no blob");
                }
                _ => {}
            }
            before = Some(entry);
        }
        self.check_nesting()
    }

    /// No entry may lie below a file or a link: a link as a parent could lead out of the tree.
    fn check_nesting(&self) -> Result<(), CodeError> {
        let paths: std::collections::BTreeSet<&str> =
            self.files.iter().map(|e| e.path.as_str()).collect();
        for entry in &self.files {
            let mut parent = entry.path.as_str();
            while let Some((above, _)) = parent.rsplit_once('/') {
                if paths.contains(above) {
                    let why = "lies below a file or a link of the same upload";
                    return Err(CodeError::Path {
                        path: mlctl_proto::ids::clip(&entry.path),
                        why,
                    });
                }
                parent = above;
            }
        }
        Ok(())
    }
}

fn path_fault(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.len() > 4096 {
        return Some("is empty or longer than 4096 bytes");
    }
    if path.starts_with('/') {
        return Some("is absolute; paths are relative to the code directory");
    }
    if path.chars().any(char::is_control) || path.contains('\\') {
        return Some("holds a control character or a backslash");
    }
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > 255;
    if path.split('/').any(bad) {
        return Some("has an empty, `.`, `..` or over-long part");
    }
    (path.split('/').any(|part| part == ".git")).then_some("is inside .git, which never travels")
}

fn link_leaves(path: &str, target: &str) -> bool {
    if target.is_empty() || target.len() > 4096 || target.starts_with('/') || target.contains('\0')
    {
        return true;
    }
    let mut depth = path.split('/').count() as i64 - 1;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        let blob = BlobId::of(b"x").to_string();
        Entry {
            path: path.into(),
            blob,
            size: 1,
            executable: false,
            link: None,
        }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry {
            blob: String::new(),
            link: Some(target.into()),
            size: 0,
            ..file(path)
        }
    }

    #[test]
    fn good_trees_round_trip() {
        let files = vec![
            file("b/c.py"),
            file("a.py"),
            link("b/link", "../a.py"),
            file("..c"),
        ];
        let manifest = Manifest::new(files).expect("good");
        assert_eq!(
            Manifest::decode(&manifest.encode()).expect("ours"),
            manifest
        );
        assert_eq!(manifest.bytes(), 3);
    }

    #[test]
    fn path_tricks_are_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/.",
            "a\0b",
            "a\nb",
            "a\\b",
            ".git/config",
            "sub/.git/x",
        ] {
            assert!(Manifest::new(vec![file(path)]).is_err(), "{path:?}");
        }
        for (path, target) in [
            ("l", "/etc"),
            ("l", ".."),
            ("a/l", "../../x"),
            ("l", ""),
            ("l", "a/../../b"),
        ] {
            assert!(
                Manifest::new(vec![link(path, target)]).is_err(),
                "{path} -> {target}"
            );
        }
        assert!(Manifest::new(vec![file("a"), file("a")]).is_err());
        assert!(Manifest::new(vec![link("d", "e"), file("d/x")]).is_err());
        assert!(Manifest::new(vec![file("d"), file("d.x"), file("d/x")]).is_err());
        let mut nameless = file("a");
        nameless.blob = "../../x".into();
        assert!(Manifest::new(vec![nameless]).is_err());
    }

    #[test]
    fn hostile_bytes_are_refused() {
        for bytes in [
            b"" as &[u8],
            b"{}",
            b"{\"v\":2,\"files\":[]}",
            b"{\"v\":1,\"files\":[],\"x\":1}",
            b"\xff",
        ] {
            assert!(Manifest::decode(bytes).is_err());
        }
    }
}
