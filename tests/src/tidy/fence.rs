//! Rule: the clippy fence stands: `.clippy.toml` lists what pure code may not touch, the workspace allows it, every crate takes the workspace's lints.
//! Does NOT run clippy; `tests/tests/tidy.rs` does, on a small crate that breaks the fence.

use super::{Tree, Violation};

/// Where the fence is defined.
pub const CLIPPY: &str = ".clippy.toml";

/// What must at least be listed: (key, path).
const LISTED: &[(&str, &str)] = &[
    ("disallowed-methods", "std::time::Instant::now"),
    ("disallowed-methods", "std::time::SystemTime::now"),
    ("disallowed-methods", "std::env::var"),
    ("disallowed-methods", "std::fs::read"),
    ("disallowed-methods", "std::fs::write"),
    ("disallowed-methods", "std::process::exit"),
    ("disallowed-methods", "std::thread::spawn"),
    ("disallowed-methods", "std::thread::sleep"),
    ("disallowed-methods", "rand::random"),
    ("disallowed-methods", "tokio::spawn"),
    ("disallowed-types", "std::collections::HashMap"),
    ("disallowed-types", "std::collections::HashSet"),
    ("disallowed-types", "std::time::Instant"),
    ("disallowed-types", "std::time::SystemTime"),
    ("disallowed-types", "std::fs::File"),
    ("disallowed-types", "std::net::TcpStream"),
    ("disallowed-types", "std::process::Command"),
    ("disallowed-types", "f32"),
    ("disallowed-types", "f64"),
];

/// A workspace of its own, of one file without pure code: everything in it is built with coverage counters.
const LIBFUZZER: &str = "tests/fuzz/Cargo.toml";
/// The two lints that the workspace allows so that pure modules can deny them.
const ALLOWED: [&str; 2] = ["disallowed_methods", "disallowed_types"];

/// Checks the fence's configuration and every crate manifest of the tree.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = listed(tree.text(CLIPPY).unwrap_or_default());
    let root = table(tree.text("Cargo.toml").unwrap_or_default());
    let lints = root
        .get("workspace")
        .and_then(|w| w.get("lints"))
        .and_then(|l| l.get("clippy"));
    for lint in ALLOWED {
        if lints
            .and_then(|l| l.get(lint))
            .and_then(toml::Value::as_str)
            != Some("allow")
        {
            violations.push(Violation::new(
                "Cargo.toml",
                0,
                format!("[workspace.lints.clippy] {lint} is not \"allow\""),
                "set it: only pure modules deny it",
            ));
        }
    }
    for file in tree
        .files
        .iter()
        .filter(|f| f.path.ends_with("/Cargo.toml") && f.path != LIBFUZZER)
    {
        let inherits = table(&file.text)
            .get("lints")
            .and_then(|l| l.get("workspace"))
            .and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            violations.push(Violation::new(
                &file.path,
                0,
                "the crate does not take the workspace's lints",
                "write `[lints]` with `workspace = true`",
            ));
        }
    }
    violations
}

fn table(text: &str) -> toml::Table {
    text.parse().unwrap_or_default()
}

fn listed(text: &str) -> Vec<Violation> {
    let config: toml::Table = match text.parse() {
        Ok(config) => config,
        Err(e) => {
            return vec![Violation::new(
                CLIPPY,
                0,
                format!("it is not TOML: {e}"),
                "mend it",
            )];
        }
    };
    let entries = |key: &str| {
        config
            .get(key)
            .and_then(toml::Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let field = |entry: &toml::Value, name: &str| {
        entry
            .get(name)
            .and_then(toml::Value::as_str)
            .map(str::to_owned)
    };
    let mut violations = Vec::new();
    for (key, path) in LISTED {
        if !entries(key)
            .iter()
            .any(|e| field(e, "path").as_deref() == Some(path))
        {
            violations.push(Violation::new(
                CLIPPY,
                0,
                format!("`{path}` is not listed in {key}"),
                "list it with a reason",
            ));
        }
    }
    for entry in ["disallowed-methods", "disallowed-types"]
        .iter()
        .flat_map(|key| entries(key))
    {
        if field(&entry, "reason").is_none_or(|r| r.trim().is_empty()) {
            violations.push(Violation::new(
                CLIPPY,
                0,
                format!("{entry} has no reason"),
                "say what to use instead",
            ));
        }
    }
    violations
}
