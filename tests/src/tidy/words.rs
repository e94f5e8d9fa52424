//! Rule: the project speaks only of itself, and nothing unfinished is checked in.
//! Does NOT judge style. Patterns are put together from halves, so that this file does not match itself.

use super::scan::{attribute_at, code, line_of, words};
use super::{Tree, Violation};

/// A pattern and what is wrong with it. A pattern that begins with a letter matches at the start of a word only.
fn forbidden() -> Vec<(String, &'static str)> {
    let machine = "a path of somebody's machine";
    let workplace = "a word of the place where this was written";
    let unfinished = "something unfinished";
    let halves = [
        ("/wor", "k/", machine),
        ("/ro", "ot/", machine),
        ("/tmp/br", "ief", machine),
        ("shared/DES", "IGN", workplace),
        ("DES", "IGN.md", workplace),
        ("DES", "IGN §", workplace),
        ("FAC", "TS.md", workplace),
        ("FAC", "TS §", workplace),
        ("STY", "LE.md", workplace),
        ("POL", "ICY §", workplace),
        ("REL", "IABILITY §", workplace),
        ("the br", "ief", workplace),
        ("this iss", "ue", workplace),
        ("next iss", "ue", workplace),
        ("later iss", "ue", workplace),
        ("its iss", "ue", workplace),
        ("sub", "agent", workplace),
        ("the C", "EO", workplace),
        ("AI ass", "istant", workplace),
        ("Cla", "ude", workplace),
        ("Anth", "ropic", workplace),
        ("Co-Auth", "ored-By", workplace),
        ("FIX", "ME", unfinished),
        ("XX", "X:", unfinished),
        ("TO", "DO:", unfinished),
    ];
    halves
        .into_iter()
        .map(|(a, b, why)| (format!("{a}{b}"), why))
        .collect()
}

/// Macros that say that something was left out.
const MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Texts that others wrote, or that a tool writes.
const FOREIGN: [&str; 2] = ["Cargo.lock", "LICENSE"];

/// Looks for forbidden words in every text and for unfinished code in Rust files.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let patterns = forbidden();
    let mut violations = Vec::new();
    for file in tree
        .files
        .iter()
        .filter(|f| !FOREIGN.contains(&f.path.as_str()))
    {
        for (number, line) in file.text.lines().enumerate() {
            for (pattern, why) in patterns
                .iter()
                .filter(|(pattern, _)| stands_in(line, pattern))
            {
                let what = format!("`{pattern}` is {why}");
                violations.push(Violation::new(
                    &file.path,
                    number + 1,
                    what,
                    "say it without",
                ));
            }
            if let Some(reference) = numbered_issue(line) {
                let what = format!("`{reference}` names something outside of the repository");
                violations.push(Violation::new(
                    &file.path,
                    number + 1,
                    what,
                    "say what it is about",
                ));
            }
        }
    }
    for file in tree.rust() {
        violations.extend(unfinished(&file.path, &code(&file.text)));
    }
    violations
}

/// Found, and not in the middle of a longer word or path?
fn stands_in(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | ')' | '}'))
    })
}

/// The word, a space, perhaps `#`, and a number, in any case.
fn numbered_issue(line: &str) -> Option<String> {
    let lower = line.to_lowercase();
    let word = ["iss", "ue "].concat();
    lower.match_indices(&word).find_map(|(at, _)| {
        let rest = lower[at + word.len()..].trim_start_matches('#');
        let inside_word = lower[..at]
            .chars()
            .next_back()
            .is_some_and(char::is_alphanumeric);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        (!inside_word && !digits.is_empty()).then(|| format!("{word}{digits}"))
    })
}

fn unfinished(path: &str, code: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (offset, word) in words(code) {
        if MACROS.contains(&word) && code[offset + word.len()..].starts_with('!') {
            let what = format!("`{word}!` is left");
            violations.push(Violation::new(
                path,
                line_of(code, offset),
                what,
                "finish it or return an error",
            ));
        }
    }
    for (start, _) in code.match_indices('#') {
        let ignored = attribute_at(code, start).is_some_and(|(inside, _)| {
            let first = words(inside).first().map(|(_, word)| *word);
            first == Some("ignore")
                || (first == Some("cfg_attr") && words(inside).iter().any(|(_, w)| *w == "ignore"))
        });
        if ignored {
            let mend = "run it, or skip it loudly with `tidy::skips::skip`";
            violations.push(Violation::new(
                path,
                line_of(code, start),
                "an ignored test",
                mend,
            ));
        }
    }
    violations
}
