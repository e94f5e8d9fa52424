//! A small scanner for Rust text: blanks what is not code, finds functions, removes test-only items.
//! Does NOT parse Rust: it knows strings, characters, lifetimes, comments and brackets, and that is enough for the rules.

/// One function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of the `fn`, from 1.
    pub line: usize,
    /// Lines from the `fn` to the closing brace, both counted.
    pub length: usize,
}

/// A module in a file of its own that exists for tests only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestModule {
    /// Its name.
    pub name: String,
    /// The file, from the folder of the file that declares it, when `#[path]` says so.
    pub path: Option<String>,
}

/// The text with comments, strings and characters blanked: same length in bytes, same lines, only ASCII.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment_end(bytes, at);
        if end > at {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|b| if *b == b'\n' { b'\n' } else { b' ' }),
            );
            at = end;
        } else {
            out.push(if bytes[at].is_ascii() {
                bytes[at]
            } else {
                b'_'
            });
            at += 1;
        }
    }
    String::from_utf8(out).expect("only ASCII was pushed")
}

/// Where the comment, string or character that starts at `at` ends; `at` itself when none starts there.
fn literal_or_comment_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_ident = at > 0 && is_ident(bytes[at - 1]);
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment_length(rest);
    }
    match rest[0] {
        b'"' => at + string_length(rest),
        b'r' | b'b' | b'c' if !after_ident => at + prefixed_length(rest),
        b'\'' => at + character_length(rest),
        _ => at,
    }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `c"…"`, `cr"…"`, `b'…'`; 0 for an ordinary word (or a raw identifier) that starts with these letters.
fn prefixed_length(rest: &[u8]) -> usize {
    let letters = rest
        .iter()
        .take(2)
        .take_while(|b| matches!(b, b'r' | b'b' | b'c'))
        .count();
    let tail = &rest[letters..];
    if rest[..letters].contains(&b'r') {
        let hashes = tail.iter().take_while(|b| **b == b'#').count();
        if tail.get(hashes) != Some(&b'"') {
            return 0;
        }
        let closing: Vec<u8> = std::iter::once(b'"')
            .chain(std::iter::repeat_n(b'#', hashes))
            .collect();
        let body = &tail[hashes + 1..];
        let inside = body.windows(closing.len()).position(|w| w == closing);
        return letters + hashes + 1 + inside.map_or(body.len(), |p| p + closing.len());
    }
    match tail.first() {
        Some(b'"') => letters + string_length(tail),
        Some(b'\'') if rest[0] == b'b' && letters == 1 => letters + character_length(tail),
        _ => 0,
    }
}

/// Length of a character literal; 0 for a lifetime or a label.
fn character_length(rest: &[u8]) -> usize {
    match rest.get(1) {
        Some(b'\\') => {
            let close = rest.iter().skip(3).position(|b| *b == b'\'');
            close.map_or(rest.len(), |p| p + 4)
        }
        Some(first) if *first != b'\'' => {
            let width = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            if rest.get(1 + width) == Some(&b'\'') {
                width + 2
            } else {
                0
            }
        }
        _ => 0,
    }
}

/// May this byte stand inside an identifier?
pub fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Line (from 1) of a byte offset.
pub fn line_of(code: &str, offset: usize) -> usize {
    code.as_bytes()[..offset]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
        + 1
}

/// Every identifier or keyword of blanked code with its offset; numbers are left out.
pub fn words(code: &str) -> Vec<(usize, &str)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !is_ident(bytes[at]) {
            at += 1;
            continue;
        }
        let end = at + bytes[at..].iter().take_while(|b| is_ident(**b)).count();
        if !bytes[at].is_ascii_digit() {
            found.push((at, &code[at..end]));
        }
        at = end;
    }
    found
}

/// The first byte at or after `at` that is not white space, with its offset.
pub fn next_visible(code: &str, at: usize) -> Option<(usize, u8)> {
    let bytes = code.as_bytes();
    (at..bytes.len())
        .map(|i| (i, bytes[i]))
        .find(|(_, b)| !b.is_ascii_whitespace())
}

/// All functions with a body, nested ones too, in the order in which they start.
pub fn functions(code: &str) -> Vec<Function> {
    words(code)
        .into_iter()
        .filter(|(_, word)| *word == "fn")
        .filter_map(|(offset, _)| function_at(code, offset))
        .collect()
}

fn function_at(code: &str, offset: usize) -> Option<Function> {
    let bytes = code.as_bytes();
    let (start, first) = next_visible(code, offset + 2)?;
    // `fn(u8)` is a type; `fn $name` stands in a macro.
    if !is_ident(first) && first != b'$' {
        return None;
    }
    let mut depth = 0_usize;
    let body = (start..bytes.len()).find(|at| {
        match bytes[*at] {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' | b';' => return depth == 0,
            _ => {}
        }
        false
    })?;
    if bytes[body] == b';' {
        return None;
    }
    let end = matching_brace(code, body)?;
    let name_end = start
        + 1
        + bytes[start + 1..]
            .iter()
            .take_while(|b| is_ident(**b))
            .count();
    let line = line_of(code, offset);
    Some(Function {
        name: code[start..name_end].to_owned(),
        line,
        length: line_of(code, end) - line + 1,
    })
}

/// Offset of the bracket that closes the one at `open`.
pub fn matching_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Blanked code without the items behind `#[cfg(test)]`; also the modules in other files that are test-only.
pub fn without_tests(text: &str) -> (String, Vec<TestModule>) {
    let code = code(text);
    let mut out = code.as_bytes().to_vec();
    let mut modules = Vec::new();
    for (start, _) in code.match_indices('#') {
        let Some((attribute, end)) = attribute_at(&code, start) else {
            continue;
        };
        let squeezed: String = attribute.chars().filter(|c| !c.is_whitespace()).collect();
        if !squeezed.starts_with("cfg(test)") && !squeezed.starts_with("cfg(all(test") {
            continue;
        }
        let inner = code.as_bytes().get(start + 1) == Some(&b'!');
        let item_end = if inner {
            code.len()
        } else {
            item_end(&code, end)
        };
        modules.extend(test_module(&code[end..item_end], text.get(end..item_end)));
        for byte in &mut out[start..item_end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    let blanked = String::from_utf8(out).expect("blanked code is ASCII");
    (blanked, modules)
}

/// The module that an item declares, when its text lies in another file.
fn test_module(item: &str, text: Option<&str>) -> Option<TestModule> {
    let names: Vec<&str> = words(item).into_iter().map(|(_, word)| word).collect();
    let at = names.iter().position(|word| *word == "mod")?;
    if !item.ends_with(';') {
        return None;
    }
    let path = text
        .and_then(|t| t.split_once("#[path = \""))
        .and_then(|(_, t)| t.split_once('"'));
    Some(TestModule {
        name: (*names.get(at + 1)?).to_owned(),
        path: path.map(|(path, _)| path.to_owned()),
    })
}

/// The inside of the attribute whose `#` is at `start`, and the offset behind its `]`.
pub fn attribute_at(code: &str, start: usize) -> Option<(&str, usize)> {
    let open = start
        + if code.as_bytes().get(start + 1) == Some(&b'!') {
            2
        } else {
            1
        };
    if code.as_bytes().get(open) != Some(&b'[') {
        return None;
    }
    let close = matching_brace(code, open)?;
    Some((code[open + 1..close].trim(), close + 1))
}

/// Offset behind the item that starts at or after `from`, further attributes included.
fn item_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while let Some((next, b'#')) = next_visible(code, at) {
        let Some((_, end)) = attribute_at(code, next) else {
            break;
        };
        at = end;
    }
    let bytes = code.as_bytes();
    let mut depth = 0_usize;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return at + 1,
            b'{' if depth == 0 => {
                return matching_brace(code, at).map_or(code.len(), |end| end + 1);
            }
            _ => {}
        }
        at += 1;
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::{code, functions, without_tests};

    fn check_code(text: &str, expect: &str) {
        let squeeze = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
        let blanked = code(text);
        assert_eq!(squeeze(&blanked), expect, "{text}");
        assert_eq!(blanked.len(), text.len(), "{text}");
        assert_eq!(blanked.lines().count(), text.lines().count(), "{text}");
    }

    #[test]
    fn blanks_what_is_not_code() {
        check_code("a // b\nc", "a c");
        check_code("a /* b /* c */ d */ e", "a e");
        check_code(r#"a("b \" } {") c"#, "a( ) c");
        check_code("a(r##\"x \"# { \"##) b", "a( ) b");
        check_code("a(br\"\\\") b(b\"}\") c(b'}')", "a( ) b( ) c( )");
        check_code("x::<'a>('{', '\\'', '\\u{7d}', 'é')", "x::<'a>( , , , )");
        check_code("for_r\"x\"", "for_r");
        check_code("r#fn bar number", "r#fn bar number");
        check_code(
            "'outer: loop { break 'outer }",
            "'outer: loop { break 'outer }",
        );
        check_code("\"never closed", "");
    }

    #[test]
    fn measures_functions() {
        let text = "fn a() {}\ntrait T { fn b(&self) -> [u8; 2]; }\nfn c(x: fn(u8) -> [u8; 3]) -> u8 {\n  let s = \"}\";\n  1\n}\n";
        let found: Vec<_> = functions(&code(text))
            .into_iter()
            .map(|f| (f.name, f.line, f.length))
            .collect();
        assert_eq!(found, [("a".to_owned(), 1, 1), ("c".to_owned(), 3, 4)]);
        let hostile = functions(&code("fn open( { fn x() { } } } } fn"));
        assert!(hostile.len() <= 2, "{hostile:?}");
    }

    #[test]
    fn removes_tests() {
        let text = "use a;\n#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\nfn b() {}\n#[cfg(test)]\nmod more { use std::fs; }\nuse c;\n#[cfg(test)] pub(crate) mod help;";
        let (left, modules) = without_tests(text);
        let left: Vec<_> = left.split_whitespace().collect();
        assert_eq!(left.join(" "), "use a; fn b() {} use c;");
        let modules: Vec<_> = modules.into_iter().map(|m| (m.name, m.path)).collect();
        let x = Some("x.rs".to_owned());
        assert_eq!(
            modules,
            [("tests".to_owned(), x), ("help".to_owned(), None)]
        );
        assert_eq!(without_tests("#![cfg(test)]\nuse a;").0.trim(), "");
        assert_eq!(
            without_tests("#[cfg(not(test))]\nuse a;").0,
            "#[cfg(not(test))]\nuse a;"
        );
    }
}
