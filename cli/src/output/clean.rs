//! Text of others, made safe for a terminal: no control characters, no escape sequences, nothing that turns the writing direction.

/// One short text: what could drive the terminal becomes U+FFFD.
pub fn clean(text: &str) -> String {
    let safe = |c| if drives(c) { '\u{fffd}' } else { c };
    text.chars().map(safe).collect()
}

/// A line of a rank's output: escape sequences, such as colours, are left out, other control characters become U+FFFD. Of a line that
/// was written over, as progress bars do, the last version is shown, as a terminal would.
pub fn clean_line(text: &str) -> String {
    let text = text.trim_end_matches('\r');
    let last = text.rsplit('\r').find(|part| !part.is_empty());
    let mut out = String::with_capacity(text.len());
    let mut rest = last.unwrap_or_default();
    while let Some(at) = rest.find(['\u{1b}', '\u{9b}']) {
        out.push_str(&clean(&rest[..at]));
        rest = behind_escape(&rest[at..]);
    }
    out.push_str(&clean(rest));
    out
}

/// What follows the escape sequence at the beginning of `text`.
fn behind_escape(text: &str) -> &str {
    let Some(body) = text.strip_prefix('\u{1b}') else {
        return behind_csi(&text['\u{9b}'.len_utf8()..]);
    };
    let mut chars = body.chars();
    match chars.next() {
        Some('[') => behind_csi(&body[1..]),
        // A title, a link: up to BEL or ST.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let rest = chars.as_str();
            let end = rest.find(['\u{7}', '\u{9c}', '\u{1b}']);
            let Some(end) = end else { return "" };
            let behind = &rest[end..];
            behind
                .strip_prefix("\u{1b}\\")
                .or_else(|| behind.strip_prefix(['\u{7}', '\u{9c}']))
                .unwrap_or(behind)
        }
        Some(c) if c.is_ascii() => {
            // Intermediate bytes, then one final byte.
            let rest = body.trim_start_matches(|c| (' '..='/').contains(&c));
            let mut rest = rest.chars();
            rest.next();
            rest.as_str()
        }
        _ => body,
    }
}

/// What follows the parameters and the final byte of a control sequence.
fn behind_csi(text: &str) -> &str {
    let rest = text.trim_start_matches(|c| (' '..='?').contains(&c));
    rest.strip_prefix(|c| ('@'..='~').contains(&c))
        .unwrap_or(rest)
}

/// Whether a terminal does something else with it than show it.
fn drives(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    // Line and paragraph separators are breaks for some.
    turns || (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_cannot_drive_the_terminal() {
        assert_eq!(
            clean("a\x1b[31mb\r\n\tc"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}\tc"
        );
        assert_eq!(
            clean("a\u{202e}b\u{9b}c\u{7f}"),
            "a\u{fffd}b\u{fffd}c\u{fffd}"
        );
    }

    #[test]
    fn lines_lose_their_escape_sequences() {
        for (line, want) in [
            ("plain\ttext é 漢", "plain\ttext é 漢"),
            ("\x1b[1;31mred\x1b[0m!", "red!"),
            ("\u{9b}31mred", "red"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b]52;c;never ends", ""),
            ("\x1b(Bx\x1bcy", "xy"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("\x1b[31", ""),
            ("\x1b[31é", "é"),
            ("\x1b漢", "漢"),
            (" 10%\r 50%\r100%\r", "100%"),
            ("\r\r", ""),
            ("a\x08b", "a\u{fffd}b"),
            ("\u{202e}gnp.exe", "\u{fffd}gnp.exe"),
        ] {
            assert_eq!(clean_line(line), want, "{line:?}");
            assert!(!clean_line(line).contains(drives));
        }
    }

    #[test]
    fn nothing_that_drives_gets_through() {
        let parts = [
            "\x1b", "[", "]", "3", "m", "\x07", "\u{9b}", "\\", "é", "P", " ", "\r", "\u{9c}",
        ];
        for a in parts {
            for b in parts {
                for c in parts {
                    for d in parts {
                        let text = [a, b, c, d].concat();
                        assert!(!clean_line(&text).contains(drives), "{text:?}");
                    }
                }
            }
        }
    }
}
