//! The frame of a rank's output: what a keeper writes, coordinators store and `mlctl logs` reads. Pure bytes, no files.
//!
//! A frame is `length: u32 LE` (of what follows), `flags: u8`, `time_ms: u64 LE`, then the bytes of one line without its newline.

/// The line came from standard error.
pub const STDERR: u8 = 1;
/// The line goes on in the next frame of the same stream.
pub const PARTIAL: u8 = 2;

/// The log with this bit in its number is no output: it holds the dump that the rank left when a collective hung, as one line.
pub const DUMP: u32 = 1 << 31;
/// Bytes of dumps that a node keeps of one attempt.
pub const DUMP_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes of a frame before its text.
pub const HEADER_BYTES: usize = 13;
/// The longest text of one frame; longer lines are split, each part but the last marked [`PARTIAL`].
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// One line, or part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// [`STDERR`] and [`PARTIAL`] bits.
    pub flags: u8,
    /// The node's wall clock, UTC milliseconds; for people only.
    pub time_ms: u64,
    /// At most [`TEXT_BYTES_MAX`] bytes.
    pub text: &'a [u8],
}

/// Appends `frame` to `out`. A longer text than [`TEXT_BYTES_MAX`] is split.
pub fn encode(frame: Frame<'_>, out: &mut Vec<u8>) {
    let mut rest = frame.text;
    loop {
        let (part, tail) = rest.split_at(rest.len().min(TEXT_BYTES_MAX));
        let flags = if tail.is_empty() {
            frame.flags
        } else {
            frame.flags | PARTIAL
        };
        out.extend_from_slice(&((part.len() + HEADER_BYTES - 4) as u32).to_le_bytes());
        out.push(flags);
        out.extend_from_slice(&frame.time_ms.to_le_bytes());
        out.extend_from_slice(part);
        rest = tail;
        if rest.is_empty() {
            return;
        }
    }
}

/// The bytes are not frames: a length that no writer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged log: a frame claims {length} bytes")]
pub struct Damaged {
    /// What the length field says.
    pub length: u32,
}

/// The first frame of `bytes` and how many bytes it takes; `None` when more bytes are needed.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Damaged> {
    let Some(head) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head);
    let body = length as usize;
    if !(HEADER_BYTES - 4..=TEXT_BYTES_MAX + HEADER_BYTES - 4).contains(&body) {
        return Err(Damaged { length });
    }
    let Some(frame) = bytes.get(4..4 + body) else {
        return Ok(None);
    };
    let time = frame[1..9].first_chunk::<8>().copied().unwrap_or_default();
    let decoded = Frame {
        flags: frame[0],
        time_ms: u64::from_le_bytes(time),
        text: &frame[9..],
    };
    Ok(Some((decoded, 4 + body)))
}

/// How many of `bytes` are whole frames.
pub fn whole(bytes: &[u8]) -> Result<usize, Damaged> {
    let mut at = 0;
    while let Some((_, used)) = decode(&bytes[at..])? {
        at += used;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_long_lines_split() {
        let long = vec![b'x'; TEXT_BYTES_MAX * 2 + 5];
        let mut out = Vec::new();
        for text in [b"" as &[u8], b"hello", &long] {
            encode(
                Frame {
                    flags: STDERR,
                    time_ms: 7,
                    text,
                },
                &mut out,
            );
        }
        assert_eq!(whole(&out), Ok(out.len()));
        assert_eq!(
            whole(&out[..out.len() - 1]),
            Ok(out.len() - HEADER_BYTES - 5)
        );
        let mut at = 0;
        let mut texts = Vec::new();
        let mut current = Vec::new();
        while let Some((frame, used)) = decode(&out[at..]).expect("we wrote it") {
            assert_eq!((frame.flags & STDERR, frame.time_ms), (STDERR, 7));
            current.extend_from_slice(frame.text);
            if frame.flags & PARTIAL == 0 {
                texts.push(std::mem::take(&mut current));
            }
            at += used;
        }
        assert_eq!(texts, vec![Vec::new(), b"hello".to_vec(), long]);
    }

    #[test]
    fn hostile_lengths_are_damage() {
        assert_eq!(decode(&[0, 0]), Ok(None));
        assert!(decode(&[0, 0, 0, 0, 0]).is_err());
        assert!(decode(&[255, 255, 255, 255, 0]).is_err());
    }
}
