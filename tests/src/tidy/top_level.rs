//! Rule: the top level holds only what docs/ARCHITECTURE.md names.
//! Does NOT look into the folders.

use super::{Tree, Violation};
use std::collections::BTreeSet;

const ALLOWED: &[&str] = &[
    ".ci",
    ".clippy.toml",
    ".config",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "ansible",
    "blobs",
    "cli",
    "coordinator",
    "deny.toml",
    "docs",
    "examples",
    "proto",
    "runtime",
    "tests",
];

/// What every clone must hold.
const REQUIRED: &[&str] = &[
    ".ci/run",
    ".clippy.toml",
    ".config/nextest.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "deny.toml",
    "docs/ARCHITECTURE.md",
    "tests/run",
];

/// Entries that do not belong at the top, and those that are missing.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let top: BTreeSet<&str> = tree
        .paths
        .iter()
        .filter_map(|p| p.split('/').next())
        .collect();
    let stray = top.iter().filter(|entry| !ALLOWED.contains(entry));
    let mut violations: Vec<_> = stray
        .map(|entry| {
            let mend = "find its room, or change the layout in docs/ARCHITECTURE.md and here";
            Violation::new(entry, 0, "it does not belong at the top level", mend)
        })
        .collect();
    let missing = REQUIRED.iter().filter(|path| !tree.holds(path));
    violations.extend(missing.map(|path| Violation::new(path, 0, "it is missing", "write it")));
    violations
}
