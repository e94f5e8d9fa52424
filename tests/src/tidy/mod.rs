//! The conventions of this repository as code: one file per rule, each a pure function from texts to violations.
//! Does NOT decide what the conventions are (see docs/ARCHITECTURE.md) and never changes a file.
//!
//! `tests/tests/tidy.rs` runs every rule twice: on the tree, which must be clean, and on a planted violation, which must be found.

pub mod cargo;
pub mod crate_arrows;
pub mod fence;
pub mod headers;
pub mod licences;
pub mod macos;
pub mod module_arrows;
pub mod paths;
pub mod playbook;
pub mod production;
pub mod purity;
pub mod scan;
pub mod sizes;
pub mod skips;
pub mod supply;
pub mod top_level;
pub mod unsafety;
pub mod versions;
pub mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Path from the root of the repository.
    pub path: String,
    /// Line, counted from 1; 0 means the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

impl Violation {
    /// A violation at `path:line`.
    pub fn new(path: &str, line: usize, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
            mend: mend.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}; {}", self.path, self.what, self.mend)
        } else {
            write!(
                f,
                "{}:{}: {}; {}",
                self.path, self.line, self.what, self.mend
            )
        }
    }
}

/// A text file of the repository.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// The files that a rule looks at.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// Every file with valid UTF-8, in path order.
    pub files: Vec<SourceFile>,
    /// Every path, texts or not.
    pub paths: Vec<String>,
}

impl Tree {
    /// A tree made of `(path, text)` pairs: what planted violations use.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| SourceFile {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        let paths = files.iter().map(|f| f.path.clone()).collect();
        Self { files, paths }
    }

    /// What git tracks under `root`, and what it would track if somebody added it: a rule that only saw committed files would come a commit late.
    ///
    /// # Errors
    /// A sentence when git cannot list the files or one of them cannot be read.
    pub fn load(root: &Path) -> Result<Self, String> {
        let output = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root)
            .output()
            .map_err(|e| format!("cannot run git: {e}"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("git ls-files failed in {}: {why}", root.display()));
        }
        let listing = String::from_utf8(output.stdout)
            .map_err(|e| format!("a file name is not UTF-8: {e}"))?;
        let mut paths: Vec<String> = listing
            .split('\0')
            .filter(|p| !p.is_empty())
            .map(str::to_owned)
            .collect();
        paths.sort();
        paths.dedup();
        // Listed but deleted in the work tree: gone with the next commit.
        paths.retain(|p| root.join(p).symlink_metadata().is_ok());
        let mut files = Vec::new();
        for path in &paths {
            let bytes =
                std::fs::read(root.join(path)).map_err(|e| format!("cannot read {path}: {e}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                let path = path.clone();
                files.push(SourceFile { path, text });
            }
        }
        Ok(Self { files, paths })
    }

    /// The Rust sources.
    pub fn rust(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|f| f.path.ends_with(".rs"))
    }

    /// One file's text.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|f| f.path == path)
            .map(|f| f.text.as_str())
    }

    /// Does a file or a folder of this name exist?
    pub fn holds(&self, path: &str) -> bool {
        self.paths.iter().any(|p| is_under(p, path))
    }
}

/// Is `path` the file or inside the folder `place`?
pub fn is_under(path: &str, place: &str) -> bool {
    path.strip_prefix(place)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The root of the repository that this crate was built from.
pub fn repository_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("the tests crate lies one level below the root")
        .to_path_buf()
}
