//! Finds every path that a Rust file names, in `use` trees and in expressions, as absolute segments.
//! Does NOT resolve names: what a `use` brought in is seen at the `use`.

use super::scan::{is_ident, line_of, next_visible, words};

/// One path named by a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Line, from 1.
    pub line: usize,
    /// Segments; the first is `crate` or the name of a crate (or of something local). A glob ends in `*`.
    pub path: Vec<String>,
    /// Named by a `use`.
    pub imported: bool,
}

impl Reference {
    /// Does this path lead to `place` or to something below it?
    pub fn leads_into(&self, place: &str) -> bool {
        let place: Vec<&str> = place.split("::").collect();
        self.path.len() >= place.len() && self.path.iter().zip(&place).all(|(a, b)| a == b)
    }

    /// Does this `use` bring in something above `place`, so that `place` could be reached unseen?
    pub fn opens(&self, place: &str) -> bool {
        let own = self.path.iter().filter(|s| *s != "*").count();
        let place: Vec<&str> = place.split("::").collect();
        self.imported
            && own < place.len()
            && self.path.iter().take(own).zip(&place).all(|(a, b)| a == b)
    }

    /// The path as it is written.
    pub fn shown(&self) -> String {
        self.path.join("::")
    }
}

/// The module of a file below `src/`, as segments from `crate`.
pub fn module_of(path: &str) -> Vec<String> {
    let inside = path.split_once("src/").map_or(path, |(_, rest)| rest);
    let stem = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut module = vec!["crate".to_owned()];
    module.extend(stem.split('/').map(str::to_owned));
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    module
}

/// Every reference in blanked `code` of the file at `path`.
pub fn references(path: &str, code: &str) -> Vec<Reference> {
    let module = module_of(path);
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut behind_use = 0;
    for (offset, word) in words(code) {
        if offset < behind_use {
            continue;
        }
        let follows = next_visible(code, offset + word.len());
        // `use<'a>` is a bound, not an import.
        if word == "use" && follows.is_some_and(|(_, b)| b != b'<') {
            let end = bytes[offset..]
                .iter()
                .position(|b| *b == b';')
                .map_or(code.len(), |p| offset + p);
            let mut leaves = Vec::new();
            leaves_of(&code[offset + 3..end], &[], &mut leaves);
            found.extend(leaves.into_iter().map(|leaf| Reference {
                line: line_of(code, offset),
                path: absolute(&module, leaf),
                imported: true,
            }));
            behind_use = end;
        } else if code[offset + word.len()..].trim_start().starts_with("::")
            && starts_path(code, offset)
        {
            found.push(Reference {
                line: line_of(code, offset),
                path: absolute(&module, inline_path(code, offset)),
                imported: false,
            });
        }
    }
    found
}

/// False for `b` in `a::b::c` and for a method call.
fn starts_path(code: &str, offset: usize) -> bool {
    let before = code[..offset].trim_end();
    if let Some(head) = before.strip_suffix("::") {
        let last = head.trim_end().bytes().last();
        return !last.is_some_and(|b| is_ident(b) || b == b'>');
    }
    !before.ends_with('.') || before.ends_with("..")
}

fn inline_path(code: &str, offset: usize) -> Vec<String> {
    let mut segments = Vec::new();
    let mut rest = &code[offset..];
    loop {
        let length = rest.bytes().take_while(|b| is_ident(*b)).count();
        if length == 0 {
            return segments;
        }
        segments.push(rest[..length].to_owned());
        match rest[length..].trim_start().strip_prefix("::") {
            Some(next) => rest = next.trim_start(),
            None => return segments,
        }
    }
}

/// Expands the use tree in `text` below `prefix`.
fn leaves_of(text: &str, prefix: &[String], leaves: &mut Vec<Vec<String>>) {
    for branch in split_top_level(text) {
        let branch = branch.trim().trim_start_matches("::");
        if branch.is_empty() {
            continue;
        }
        let mut path = prefix.to_vec();
        let (head, group) = match branch.split_once('{') {
            Some((head, group)) => (head, Some(group.trim_end().trim_end_matches('}'))),
            None => (branch, None),
        };
        let head = head.split(" as ").next().unwrap_or(head);
        let own = head.split("::").map(str::trim).filter(|s| !s.is_empty());
        path.extend(
            own.filter(|s| *s != "self" || prefix.is_empty())
                .map(str::to_owned),
        );
        match group {
            Some(group) => leaves_of(group, &path, leaves),
            None => leaves.push(path),
        }
    }
}

fn split_top_level(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_usize, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

fn absolute(module: &[String], path: Vec<String>) -> Vec<String> {
    let mut base: Option<Vec<String>> = None;
    let mut rest = path.iter().peekable();
    while let Some(segment) = rest.peek() {
        match segment.as_str() {
            "self" => base = Some(base.unwrap_or_else(|| module.to_vec())),
            "super" => {
                let mut up = base.unwrap_or_else(|| module.to_vec());
                up.pop();
                base = Some(up);
            }
            _ => break,
        }
        rest.next();
    }
    let mut whole = base.unwrap_or_default();
    whole.extend(rest.cloned());
    whole
}

#[cfg(test)]
mod tests {
    use super::{module_of, references};

    fn check(path: &str, code: &str, expect: &[&str]) {
        let found: Vec<_> = references(path, code)
            .iter()
            .map(super::Reference::shown)
            .collect();
        assert_eq!(found, expect, "{code}");
    }

    #[test]
    fn expands_uses_and_paths() {
        let file = "coordinator/src/scheduler/order.rs";
        check(
            file,
            "use std::{fs, time::{Duration, Instant as Now}};",
            &["std::fs", "std::time::Duration", "std::time::Instant"],
        );
        check(
            file,
            "use super::*; pub use self::x::{self, Y};",
            &[
                "crate::scheduler::*",
                "crate::scheduler::order::x",
                "crate::scheduler::order::x::Y",
            ],
        );
        check(
            file,
            "use super::super::state::view;",
            &["crate::state::view"],
        );
        check(
            file,
            "let a = ::std::fs::read(b.c::<D>()) + E::F;",
            &["std::fs::read", "E::F"],
        );
        check(
            file,
            "fn x() -> impl T + use<'a> { tokio :: spawn(0..crate::a::B) }",
            &["tokio::spawn", "crate::a::B"],
        );
        check(file, "use a::{b, c::{", &["a::b"]);
    }

    #[test]
    fn names_modules() {
        assert_eq!(module_of("a/src/lib.rs"), ["crate"]);
        assert_eq!(module_of("a/src/b/mod.rs"), ["crate", "b"]);
        assert_eq!(module_of("a/src/b/c.rs"), ["crate", "b", "c"]);
    }

    #[test]
    fn relates_to_places() {
        let found = references(
            "a/src/lib.rs",
            "use std::time; use std::time::Duration; use x::*;",
        );
        assert!(found[0].opens("std::time::Instant") && !found[0].leads_into("std::time::Instant"));
        assert!(!found[1].opens("std::time::Instant"));
        assert!(found[2].opens("x::y"));
    }
}
