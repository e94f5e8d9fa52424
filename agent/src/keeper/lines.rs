//! From bytes of a pipe to frames of a log: whole lines at once, what lacks its newline a little later.
//! Bytes and times in, frames out: does NOT read a pipe, a clock or a file.

use mlctl_proto::logs::{Frame, PARTIAL, TEXT_BYTES_MAX, encode};

/// How long a line may lack its newline before what there is of it is written, milliseconds.
pub(super) const PARTIAL_MS: u64 = 80;

/// One stream of a rank.
#[derive(Debug)]
pub(super) struct Lines {
    /// [`mlctl_proto::logs::STDERR`] or nothing.
    flags: u8,
    /// A line without its newline; shorter than [`TEXT_BYTES_MAX`].
    rest: Vec<u8>,
    /// When `rest` is to be written as it is, on the caller's clock.
    due: Option<u64>,
    /// The last frame said that its line goes on.
    open: bool,
}

impl Lines {
    pub(super) fn new(flags: u8) -> Self {
        Self {
            flags,
            rest: Vec::new(),
            due: None,
            open: false,
        }
    }

    /// Takes what was read at `now` (any clock in milliseconds); whole lines go to `out`, stamped `time_ms`.
    pub(super) fn push(&mut self, now: u64, time_ms: u64, bytes: &[u8], out: &mut Vec<u8>) {
        let mut tail = bytes;
        while let Some(at) = tail.iter().position(|b| *b == b'\n') {
            let (line, behind) = tail.split_at(at);
            tail = &behind[1..];
            if self.rest.is_empty() {
                self.frame(self.flags, time_ms, line, out);
            } else {
                self.rest.extend_from_slice(line);
                let whole = std::mem::take(&mut self.rest);
                self.frame(self.flags, time_ms, &whole, out);
            }
            self.open = false;
            self.due = None;
        }
        self.rest.extend_from_slice(tail);
        let full = self.rest.len() / TEXT_BYTES_MAX * TEXT_BYTES_MAX;
        if full > 0 {
            let whole: Vec<u8> = self.rest.drain(..full).collect();
            self.frame(self.flags | PARTIAL, time_ms, &whole, out);
            self.open = true;
            self.due = None;
        }
        if !self.rest.is_empty() && self.due.is_none() {
            self.due = Some(now.saturating_add(PARTIAL_MS));
        }
    }

    /// When [`Lines::flush`] has something to do.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Writes a line that has waited long enough for its newline.
    pub(super) fn flush(&mut self, now: u64, time_ms: u64, out: &mut Vec<u8>) {
        if self.due.is_some_and(|due| due <= now) {
            let part = std::mem::take(&mut self.rest);
            self.frame(self.flags | PARTIAL, time_ms, &part, out);
            self.open = true;
            self.due = None;
        }
    }

    /// The stream has ended: closes what is open.
    pub(super) fn finish(&mut self, time_ms: u64, out: &mut Vec<u8>) {
        if self.open || !self.rest.is_empty() {
            let last = std::mem::take(&mut self.rest);
            self.frame(self.flags, time_ms, &last, out);
        }
        self.open = false;
        self.due = None;
    }

    fn frame(&self, flags: u8, time_ms: u64, text: &[u8], out: &mut Vec<u8>) {
        encode(
            Frame {
                flags,
                time_ms,
                text,
            },
            out,
        );
    }
}

#[cfg(test)]
mod tests {
    use mlctl_proto::logs::{STDERR, decode};

    use super::*;

    /// Frames as `text` or `text…` when they go on.
    fn shown(mut bytes: &[u8]) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some((frame, used)) = decode(bytes).expect("we wrote them") {
            assert_eq!(frame.flags & STDERR, STDERR);
            let more = if frame.flags & PARTIAL == 0 {
                ""
            } else {
                "…"
            };
            texts.push(format!("{}{more}", String::from_utf8_lossy(frame.text)));
            bytes = &bytes[used..];
        }
        assert!(bytes.is_empty());
        texts
    }

    fn check(pieces: &[(u64, &str)], want: &[&str]) {
        let mut lines = Lines::new(STDERR);
        let mut out = Vec::new();
        for (now, piece) in pieces {
            lines.flush(*now, 1, &mut out);
            lines.push(*now, 1, piece.as_bytes(), &mut out);
        }
        lines.finish(1, &mut out);
        assert_eq!(shown(&out), want, "{pieces:?}");
    }

    #[test]
    fn lines_and_what_lacks_a_newline() {
        check(&[(0, "a\nb\n")], &["a", "b"]);
        check(&[(0, "a"), (1, "b\n\nc")], &["ab", "", "c"]);
        check(&[(0, "a"), (PARTIAL_MS, "b\n")], &["a…", "b"]);
        check(&[(0, "a"), (PARTIAL_MS, "\n")], &["a…", ""]);
        check(&[(0, "a"), (PARTIAL_MS, "")], &["a…", ""]);
        check(&[(0, "")], &[]);
        check(&[(0, "x\0y\r\n")], &["x\0y\r"]);
    }

    #[test]
    fn long_lines_are_cut_and_never_held() {
        let mut lines = Lines::new(STDERR);
        let mut out = Vec::new();
        let long = "x".repeat(TEXT_BYTES_MAX + 3);
        lines.push(0, 1, long.as_bytes(), &mut out);
        assert!(lines.rest.len() == 3 && lines.due() == Some(PARTIAL_MS));
        lines.push(1, 1, b"y\nz\n", &mut out);
        let texts = shown(&out);
        assert_eq!(
            (texts.len(), texts[1].as_str(), texts[2].as_str()),
            (3, "xxxy", "z")
        );
        assert_eq!(texts[0].chars().count(), TEXT_BYTES_MAX + 1);
    }

    #[test]
    fn any_cut_gives_the_same_lines() {
        let text = b"one\n\ntwo\xff\xfe\nthree";
        let joined = |cut: usize| {
            let mut lines = Lines::new(STDERR);
            let mut out = Vec::new();
            lines.push(0, 1, &text[..cut], &mut out);
            lines.push(0, 1, &text[cut..], &mut out);
            lines.finish(1, &mut out);
            out
        };
        for cut in 0..text.len() {
            assert_eq!(joined(cut), joined(text.len()), "cut at {cut}");
        }
    }
}
