//! Runs every rule of `mlctl_tests::tidy` on the repository, which must be clean, and on a planted violation, which must be found.
//! Does NOT hold a rule: those are in `tests/src/tidy`, one file each.

#![forbid(unsafe_code)]

mod outside;
mod pure;
mod texts;

use mlctl_tests::tidy::{Tree, Violation, repository_root};

fn tree() -> Tree {
    Tree::load(&repository_root()).expect("the tests run in a git checkout")
}

fn text(path: &str) -> String {
    let whole = repository_root().join(path);
    std::fs::read_to_string(&whole)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", whole.display()))
}

/// The tree must be clean.
fn clean(rule: &str, violations: &[Violation]) {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(
        lines.is_empty(),
        "{rule}: {} violations\n{}",
        lines.len(),
        lines.join("\n")
    );
}

/// Exactly the planted violations must be found: (path, line, part of what is said).
fn found(violations: &[Violation], expect: &[(&str, usize, &str)]) {
    let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert_eq!(violations.len(), expect.len(), "found:\n{}", all.join("\n"));
    for (path, line, part) in expect {
        let hit = violations
            .iter()
            .any(|v| v.path == *path && v.line == *line && v.what.contains(part));
        assert!(
            hit,
            "not found: {path}:{line}: {part}; found:\n{}",
            all.join("\n")
        );
    }
}
