//! Rule: every Rust file opens with `//!` text that says what it is for.
//! Does NOT judge the text.

use super::{Tree, Violation};

/// Files whose first line is not an inner doc comment with words in it.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let speaks = |text: &str| {
        let first = text.lines().next().unwrap_or_default();
        first
            .strip_prefix("//!")
            .is_some_and(|rest| rest.trim().len() >= 10)
    };
    tree.rust()
        .filter(|file| !speaks(&file.text))
        .map(|file| {
            Violation::new(
                &file.path,
                1,
                "the file does not open with `//!` and a sentence",
                "say in one line what it is for, and in the next what it does not do",
            )
        })
        .collect()
}
