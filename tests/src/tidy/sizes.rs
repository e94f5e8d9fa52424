//! Rule: files of at most 600 lines, functions of at most 70, as a ratchet.
//! Does NOT forgive new ones: `tests/tidy-ratchet.toml` lists what is larger today, and a listed size can only go down.

use super::scan::{code, functions};
use super::{Tree, Violation};
use std::collections::BTreeMap;

/// Largest file, in lines.
pub const FILE_LINES_MAX: usize = 600;
/// Largest function, in lines from its `fn` to its closing brace.
pub const FUNCTION_LINES_MAX: usize = 70;
/// Where the exceptions are listed.
pub const RATCHET: &str = "tests/tidy-ratchet.toml";

/// Compares every file and function with the limits and with the ratchet's text.
pub fn check(tree: &Tree, ratchet: &str) -> Vec<Violation> {
    let listed: toml::Table = match ratchet.parse() {
        Ok(table) => table,
        Err(e) => {
            return vec![Violation::new(
                RATCHET,
                0,
                format!("it is not TOML: {e}"),
                "mend it",
            )];
        }
    };
    let mut violations = Vec::new();
    for key in listed
        .keys()
        .filter(|k| !matches!(k.as_str(), "files" | "functions"))
    {
        violations.push(Violation::new(
            RATCHET,
            0,
            format!("unknown table `{key}`"),
            "use [files] and [functions]",
        ));
    }
    let (files, longest) = measure(tree);
    violations.extend(compare(&files, listed.get("files"), FILE_LINES_MAX, "file"));
    violations.extend(compare(
        &longest,
        listed.get("functions"),
        FUNCTION_LINES_MAX,
        "function",
    ));
    violations
}

/// Name → (path, line, size); of functions with one name in one file the largest counts.
type Sizes = BTreeMap<String, (String, usize, usize)>;

fn measure(tree: &Tree) -> (Sizes, Sizes) {
    let (mut files, mut longest) = (Sizes::new(), Sizes::new());
    for file in tree.rust() {
        files.insert(
            file.path.clone(),
            (file.path.clone(), 0, file.text.lines().count()),
        );
        for function in functions(&code(&file.text)) {
            let known = longest
                .entry(format!("{}#{}", file.path, function.name))
                .or_insert((file.path.clone(), function.line, 0));
            if function.length > known.2 {
                *known = (file.path.clone(), function.line, function.length);
            }
        }
    }
    (files, longest)
}

fn compare(sizes: &Sizes, listed: Option<&toml::Value>, max: usize, noun: &str) -> Vec<Violation> {
    let empty = toml::Table::new();
    let listed = listed.and_then(toml::Value::as_table).unwrap_or(&empty);
    let mut violations = Vec::new();
    for (name, (path, line, size)) in sizes {
        let allowed = listed
            .get(name)
            .and_then(toml::Value::as_integer)
            .and_then(|n| usize::try_from(n).ok());
        let (what, mend) = match allowed {
            None if *size <= max => continue,
            None => (
                format!("the {noun} `{name}` has {size} lines, {max} are allowed"),
                "split it where a reader would draw the line".to_owned(),
            ),
            Some(_) if *size <= max => (
                format!("`{name}` is listed in {RATCHET} but has only {size} lines"),
                "remove the entry".to_owned(),
            ),
            Some(limit) if *size > limit => (
                format!("the {noun} `{name}` grew from {limit} lines to {size}"),
                "a listed one may only shrink: split it".to_owned(),
            ),
            Some(limit) if *size < limit => (
                format!("the {noun} `{name}` shrank from {limit} lines to {size}"),
                format!("write {size} in {RATCHET} so that it stays so"),
            ),
            Some(_) => continue,
        };
        violations.push(Violation::new(path, *line, what, mend));
    }
    for name in listed.keys().filter(|name| !sizes.contains_key(*name)) {
        violations.push(Violation::new(
            RATCHET,
            0,
            format!("no {noun} `{name}` exists"),
            "remove the entry",
        ));
    }
    violations
}
