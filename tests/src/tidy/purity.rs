//! Rule: pure folders do no I/O, read no clock, draw no randomness, log nothing, await nothing and hold no floats.
//! Does NOT look into test-only items, and does not see what a macro of another crate expands to.
//!
//! The list of pure places below is the only one in the repository.

use super::paths::{Reference, module_of, references};
use super::production::production;
use super::scan::{attribute_at, code, is_ident, line_of, words};
use super::{SourceFile, Tree, Violation, is_under};

/// A pure module: a file, a folder, or both.
#[derive(Debug, Clone, Copy)]
pub struct Pure {
    /// Path from the root without `.rs`: `a/src/b` is `a/src/b.rs` and everything in `a/src/b/`.
    pub place: &'static str,
    /// Crates it may name beside `std` and the pure parts of the contracts.
    pub crates: &'static [&'static str],
    /// Places of its own crate outside the pure ones that it may name: plain data and constants.
    pub also: &'static [&'static str],
    /// Not written yet: it may be absent, but it will be pure from its first line.
    pub later: bool,
}

impl Pure {
    fn holds(&self, path: &str) -> bool {
        is_under(path, self.place) || path.strip_suffix(".rs") == Some(self.place)
    }

    /// The file in which the module begins.
    fn top(&self, tree: &Tree) -> String {
        let file = format!("{}.rs", self.place);
        if tree.text(&file).is_some() {
            file
        } else {
            format!("{}/mod.rs", self.place)
        }
    }
}

const fn pure(place: &'static str, crates: &'static [&'static str]) -> Pure {
    Pure {
        place,
        crates,
        also: &[],
        later: false,
    }
}

const fn later(place: &'static str) -> Pure {
    Pure {
        place,
        crates: &["thiserror"],
        also: &[],
        later: true,
    }
}

/// Everything that is pure.
pub const PURE: &[Pure] = &[
    pure(
        "coordinator/src/state",
        &["blake3", "bytes", "crc32fast", "imbl", "prost", "thiserror"],
    ),
    pure("coordinator/src/scheduler", &["imbl", "thiserror"]),
    Pure {
        place: "coordinator/src/consensus/turn",
        crates: &["bytes", "protobuf", "raft", "slog", "thiserror"],
        also: &["crate::consensus::MemberId"],
        later: false,
    },
    pure("coordinator/src/leader/copies", &[]),
    pure("coordinator/src/leader/gang", &["thiserror"]),
    pure("coordinator/src/leader/liveness", &["thiserror"]),
    pure("coordinator/src/leader/reconcile", &["thiserror"]),
    pure("coordinator/src/leader/leases", &["thiserror"]),
    pure("coordinator/src/leader/orders", &["thiserror"]),
    pure("coordinator/src/leader/pace", &["thiserror"]),
    pure("coordinator/src/leader/step", &["thiserror"]),
    pure("coordinator/src/leader/witness", &[]),
    pure("coordinator/src/vitals/judge", &[]),
    pure("coordinator/src/vitals/marks", &[]),
    pure("coordinator/src/vitals/space", &[]),
    pure("coordinator/src/vitals/admission", &[]),
    Pure {
        place: "blobs/src/transfer/protocol",
        crates: &["thiserror"],
        also: &["crate::BlobId", "crate::checkpoint"],
        later: false,
    },
    Pure {
        place: "blobs/src/transfer/work",
        crates: &[],
        also: &["crate::checkpoint"],
        later: false,
    },
    pure("blobs/src/transfer/pace", &[]),
    pure("proto/src/spec/remote", &[]),
    Pure {
        place: "blobs/src/upload/layout",
        crates: &[],
        also: &["crate::BlobId"],
        later: false,
    },
    Pure {
        place: "blobs/src/upload/part",
        crates: &["serde", "serde_json", "thiserror"],
        also: &["crate::BlobId"],
        later: false,
    },
    pure("agent/src/core", &["thiserror"]),
    pure("agent/src/tasks", &["serde"]),
    pure("agent/src/launch/array", &["serde"]),
    pure("agent/src/launch/cpus", &[]),
    pure("agent/src/launch/plan", &["serde", "thiserror"]),
    pure("agent/src/launch/environment", &["thiserror"]),
    pure("agent/src/launch/mpi", &["serde"]),
    pure("agent/src/launch/slurm", &[]),
    pure("agent/src/cgroup/detect", &[]),
    pure("agent/src/users", &["serde"]),
    pure("agent/src/keeper/fence", &[]),
    pure("agent/src/keeper/limit", &[]),
    pure("agent/src/keeper/protocol", &["serde"]),
    pure("agent/src/keeper/array", &[]),
    pure("agent/src/keeper/remote", &[]),
    pure("agent/src/witness/packet", &["blake3", "serde"]),
    pure("agent/src/checkpoints/rules", &["thiserror"]),
    pure("agent/src/checkpoints/seal", &["serde_json", "thiserror"]),
    pure("agent/src/checkpoints/track", &[]),
    pure("agent/src/copies/permits", &[]),
    pure("agent/src/copies/yielding/strain", &[]),
    later("agent/src/checkpoints/manifest"),
    later("agent/src/devices/health"),
    later("agent/src/power/idle"),
];

/// The parts of the contracts that pure code may name.
const CONTRACTS: &[&str] = &[
    "ids", "units", "spec", "limits", "errors", "persist", "mutants",
];

/// Parts of the standard library that reach outside.
const STD_DENIED: &[&str] = &[
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "std::io",
    "std::os",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::collections::hash_set",
    "std::hash::RandomState",
];

/// Words that never stand in pure code, with the reason.
const WORDS_DENIED: &[(&str, &str)] = &[
    (
        "async",
        "pure code never waits: take the answer as an input",
    ),
    (
        "await",
        "pure code never waits: take the answer as an input",
    ),
    ("HashMap", "its order differs between runs: use BTreeMap"),
    ("HashSet", "its order differs between runs: use BTreeSet"),
    (
        "f32",
        "floats differ between machines: use integers and units",
    ),
    (
        "f64",
        "floats differ between machines: use integers and units",
    ),
];

/// Macros that write to the outside.
const MACROS_DENIED: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];

/// What must stand at the top of a pure file or of a pure folder's `mod.rs`.
const FENCE: [&str; 3] = [
    "clippy::disallowed_methods",
    "clippy::disallowed_types",
    "clippy::float_arithmetic",
];

/// Checks every pure place. `externs` are the names of all crates that the workspace depends on.
pub fn check(tree: &Tree, places: &[Pure], externs: &[String]) -> Vec<Violation> {
    let shipped = production(tree);
    let mut violations = Vec::new();
    for pure in places {
        if !tree.paths.iter().any(|path| pure.holds(path)) {
            if pure.later {
                continue;
            }
            violations.push(Violation::new(
                pure.place,
                0,
                "a place that is listed as pure does not exist",
                "write it, or change the list in tests/src/tidy/purity.rs",
            ));
            continue;
        }
        violations.extend(fence(tree, pure));
        for file in shipped.iter().filter(|f| pure.holds(&f.path)) {
            violations.extend(check_file(file, pure, places, externs));
        }
    }
    violations.extend(unlisted(tree, places));
    violations
}

/// Files that carry the fence but lie in no listed place: half a rule would guard them.
fn unlisted(tree: &Tree, places: &[Pure]) -> Vec<Violation> {
    let outside = tree
        .rust()
        .filter(|f| !places.iter().any(|p| p.holds(&f.path)));
    outside
        .filter(|f| fenced(&code(&f.text)))
        .map(|f| {
            let what = "the file carries the clippy fence but is not listed as pure";
            Violation::new(&f.path, 0, what, "list it in tests/src/tidy/purity.rs")
        })
        .collect()
}

/// Does an inner attribute deny all three lints?
fn fenced(blanked: &str) -> bool {
    let inner = blanked
        .match_indices("#!")
        .filter_map(|(at, _)| attribute_at(blanked, at));
    let denied: Vec<&str> = inner
        .map(|(attribute, _)| attribute)
        .filter(|a| a.starts_with("deny") || a.starts_with("forbid"))
        .collect();
    let covers = |lint: &&str| denied.iter().any(|a| a.contains(*lint));
    FENCE.iter().all(covers)
}

fn fence(tree: &Tree, pure: &Pure) -> Option<Violation> {
    let top = pure.top(tree);
    let blanked = code(tree.text(&top).unwrap_or_default());
    (!fenced(&blanked)).then(|| {
        Violation::new(
            &top,
            0,
            "the clippy fence is missing",
            format!("write `#![deny({})]` below the header", FENCE.join(", ")),
        )
    })
}

fn check_file(
    file: &SourceFile,
    pure: &Pure,
    places: &[Pure],
    externs: &[String],
) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (offset, word) in words(&file.text) {
        let at = |what: String, mend: &str| {
            Violation::new(&file.path, line_of(&file.text, offset), what, mend)
        };
        if let Some((_, mend)) = WORDS_DENIED.iter().find(|(denied, _)| *denied == word) {
            violations.push(at(format!("`{word}` in pure code"), mend));
        }
        if MACROS_DENIED.contains(&word) && file.text[offset + word.len()..].starts_with('!') {
            violations.push(at(
                format!("`{word}!` in pure code"),
                "return what is to be shown",
            ));
        }
    }
    for offset in float_literals(&file.text) {
        let line = line_of(&file.text, offset);
        violations.push(Violation::new(
            &file.path,
            line,
            "a float in pure code",
            "use integers and units",
        ));
    }
    for reference in references(&file.path, &file.text) {
        if let Some((what, mend)) = judge(&reference, pure, places, externs) {
            violations.push(Violation::new(&file.path, reference.line, what, mend));
        }
    }
    violations
}

/// Offsets of `1.5` and `2f64`-like numbers; not of `0..5` and `pair.0.1`.
fn float_literals(code: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() || (at > 0 && is_ident(bytes[at - 1])) {
            at += 1;
            continue;
        }
        let field = at > 0 && bytes[at - 1] == b'.' && !(at > 1 && bytes[at - 2] == b'.');
        let end = at + bytes[at..].iter().take_while(|b| is_ident(**b)).count();
        let word = &code[at..end];
        let point =
            bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
        let decimal = !word.starts_with("0x") && (word.ends_with("f32") || word.ends_with("f64"));
        if !field && (point || decimal) {
            found.push(at);
        }
        // `pair.0.1` is two fields: the second must not be taken for the start of a number.
        at = if point {
            end + 1
                + bytes[end + 1..]
                    .iter()
                    .take_while(|b| is_ident(**b))
                    .count()
        } else {
            end
        };
    }
    found
}

fn judge(
    reference: &Reference,
    pure: &Pure,
    places: &[Pure],
    externs: &[String],
) -> Option<(String, &'static str)> {
    let first = reference.path.first()?.as_str();
    let shown = reference.shown();
    match first {
        "std" | "core" | "alloc" => {
            let mut as_std = reference.clone();
            "std".clone_into(&mut as_std.path[0]);
            let denied = STD_DENIED
                .iter()
                .any(|d| as_std.leads_into(d) || as_std.opens(d));
            let plain_network = first == "core" && reference.leads_into("core::net");
            (denied && !plain_network).then(|| {
                (
                    format!("`{shown}` in pure code"),
                    "take it as an argument, or import the harmless item by its full path",
                )
            })
        }
        "crate" => {
            let own_crate = pure.place.split("/src/").next().unwrap_or_default();
            let siblings = places
                .iter()
                .filter(|p| p.place.split("/src/").next() == Some(own_crate));
            let known = siblings
                .map(|p| module_of(p.place).join("::"))
                .chain(pure.also.iter().map(|a| (*a).to_owned()));
            let fine = known.into_iter().any(|place| reference.leads_into(&place));
            (!fine).then(|| {
                (
                    format!("`{shown}` is not pure"),
                    "pure code names pure places only: pass the data in, or move it",
                )
            })
        }
        "mlctl_proto" => {
            let part = reference.path.get(1).map_or("", String::as_str);
            (!CONTRACTS.contains(&part))
                .then(|| (format!("`{shown}` in pure code"), "of the contracts, pure code may name ids, units, spec, limits, errors and persist"))
        }
        _ => {
            let foreign = externs.iter().any(|e| e == first) && !pure.crates.contains(&first);
            foreign.then(|| {
                (
                    format!("the crate `{first}` in pure code (`{shown}`)"),
                    "pure code does not know it: move the use to the driver",
                )
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::float_literals;

    #[test]
    fn finds_floats() {
        for (text, count) in [
            ("1.5", 1),
            ("0..5", 0),
            ("a.0.1", 0),
            ("x1.y", 0),
            ("2f64 + 3_f32", 2),
            ("0xf32", 0),
            ("1.max(2)", 0),
            ("0..1.5", 1),
        ] {
            assert_eq!(float_literals(text).len(), count, "{text}");
        }
    }
}
