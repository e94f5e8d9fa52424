//! Rule: unsafe code lives in the agent's launcher and keeper and in the fake driver library, each use with its SAFETY text.
//! Does NOT judge whether the SAFETY text is true.

use super::scan::{code, line_of, words};
use super::{Tree, Violation, is_under};

/// The folders that may hold unsafe code.
const ALLOWED: &[&str] = &["agent/src/launcher", "agent/src/keeper", "tests/fake-nvml"];
/// Lines above an `unsafe` in which its SAFETY text is looked for.
const SAFETY_REACH: usize = 8;

/// Checks every Rust file and every crate root.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.rust() {
        let blanked = code(&file.text);
        let allowed = ALLOWED.iter().any(|place| is_under(&file.path, place));
        for (offset, word) in words(&blanked) {
            if !matches!(word, "unsafe" | "unsafe_code") {
                continue;
            }
            let line = line_of(&blanked, offset);
            if word == "unsafe" && !allowed {
                let mend = "only agent/src/launcher, agent/src/keeper and tests/fake-nvml may: use a safe wrapper";
                violations.push(Violation::new(&file.path, line, "unsafe code", mend));
            } else if word == "unsafe"
                && needs_text(&blanked, offset)
                && !explained(&file.text, line)
            {
                let mend = "write `// SAFETY:` above it and say why it holds";
                violations.push(Violation::new(
                    &file.path,
                    line,
                    "unsafe without its SAFETY text",
                    mend,
                ));
            } else if word == "unsafe_code" && !allowed {
                violations.extend(loosened(&file.path, &blanked, offset));
            }
        }
        violations.extend(root_fence(&file.path, &blanked));
    }
    violations
}

/// A block or an impl does something unsafe; a signature or an attribute only announces it.
fn needs_text(code: &str, offset: usize) -> bool {
    let rest = code[offset + "unsafe".len()..].trim_start();
    rest.starts_with('{') || rest.starts_with("impl")
}

fn explained(text: &str, line: usize) -> bool {
    let first = line.saturating_sub(SAFETY_REACH + 1);
    text.lines()
        .skip(first)
        .take(line - first)
        .any(|l| l.contains("SAFETY:"))
}

/// `allow(unsafe_code)` outside of the allowed folders, but for the two modules named in the agent's root.
fn loosened(path: &str, code: &str, offset: usize) -> Option<Violation> {
    let before = code[..offset].trim_end().trim_end_matches('(').trim_end();
    if !before.ends_with("allow") && !before.ends_with("expect") {
        return None;
    }
    let behind: Vec<&str> = words(&code[offset..])
        .into_iter()
        .map(|(_, w)| w)
        .filter(|w| !matches!(*w, "pub" | "crate"))
        .collect();
    let named = matches!(behind.get(1..3), Some(["mod", "launcher" | "keeper"]));
    let fine = path == "agent/src/lib.rs" && named;
    (!fine).then(|| {
        Violation::new(
            path,
            line_of(code, offset),
            "unsafe code is allowed here",
            "only the agent's launcher and keeper may allow it",
        )
    })
}

/// The line that every crate root carries.
fn root_fence(path: &str, code: &str) -> Option<Violation> {
    let krate = path
        .strip_suffix("/src/lib.rs")
        .or_else(|| path.strip_suffix("/src/main.rs"))?;
    if ALLOWED.contains(&krate) {
        return None;
    }
    let squeezed: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let wanted = if krate == "agent" {
        "#![deny(unsafe_code)]"
    } else {
        "#![forbid(unsafe_code)]"
    };
    let stricter = squeezed.contains("#![forbid(unsafe_code)]");
    (!squeezed.contains(wanted) && !stricter).then(|| {
        Violation::new(
            path,
            0,
            format!("the crate root lacks `{wanted}`"),
            "write it below the header",
        )
    })
}
