//! The framing of several commands in the data of one Raft entry.
//!
//! It does not know what a command means. Layout: one version byte, then per command a u32 LE length and its
//! bytes. Empty data is an entry without commands (a leader's first of its term).

use bytes::{BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;
/// Most commands that an entry may hold.
pub const MAX_COMMANDS: usize = 4096;

/// Why an entry's data is not a list of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Written by a release that this one does not know.
    #[error("its format version {0} is unknown to this release")]
    Version(u8),
    /// A length points behind the end.
    #[error("its data ends in the middle of a command")]
    Truncated,
    /// More commands than any release writes.
    #[error("it holds more than {MAX_COMMANDS} commands")]
    TooMany,
}

/// Puts commands into an entry's data.
pub fn encode_commands(commands: &[Bytes]) -> Bytes {
    let size: usize = commands.iter().map(|command| command.len() + 4).sum();
    let mut data = BytesMut::with_capacity(size + 1);
    data.put_u8(VERSION);
    for command in commands {
        debug_assert!(u32::try_from(command.len()).is_ok());
        data.put_u32_le(command.len() as u32);
        data.put_slice(command);
    }
    data.freeze()
}

/// Takes an entry's data apart without copying the commands.
///
/// # Errors
/// Any data that [`encode_commands`] does not write.
pub fn decode_commands(data: &Bytes) -> Result<Vec<Bytes>, FrameError> {
    let Some(&version) = data.first() else {
        return Ok(Vec::new());
    };
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let mut commands = Vec::new();
    let mut at = 1;
    while at < data.len() {
        if commands.len() == MAX_COMMANDS {
            return Err(FrameError::TooMany);
        }
        let length = data
            .get(at..at + 4)
            .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
            .map(u32::from_le_bytes)
            .ok_or(FrameError::Truncated)? as usize;
        let (start, end) = (at + 4, at + 4 + length);
        if end > data.len() {
            return Err(FrameError::Truncated);
        }
        commands.push(data.slice(start..end));
        at = end;
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(commands: &[&'static [u8]]) {
        let commands: Vec<Bytes> = commands.iter().map(|c| Bytes::from_static(c)).collect();
        assert_eq!(decode_commands(&encode_commands(&commands)), Ok(commands));
    }

    #[test]
    fn round_trips() {
        check(&[]);
        check(&[b""]);
        check(&[b"one"]);
        check(&[b"one", b"", b"three"]);
        assert_eq!(decode_commands(&Bytes::new()), Ok(vec![]));
    }

    #[test]
    fn hostile_data_is_refused() {
        let data = |bytes: &'static [u8]| decode_commands(&Bytes::from_static(bytes));
        assert_eq!(data(&[9]), Err(FrameError::Version(9)));
        assert_eq!(data(&[1, 1, 0, 0]), Err(FrameError::Truncated));
        assert_eq!(data(&[1, 2, 0, 0, 0, 7]), Err(FrameError::Truncated));
        assert_eq!(
            data(&[1, 255, 255, 255, 255, 7]),
            Err(FrameError::Truncated)
        );
        let mut many = vec![0u8; 1 + 4 * (MAX_COMMANDS + 1)];
        many[0] = VERSION;
        assert_eq!(decode_commands(&many.into()), Err(FrameError::TooMany));
    }

    #[test]
    fn every_cut_of_a_good_frame_is_refused_or_shorter() {
        let whole = encode_commands(&[Bytes::from_static(b"abc"), Bytes::from_static(b"defg")]);
        for end in 1..whole.len() {
            match decode_commands(&whole.slice(..end)) {
                Ok(commands) => assert!(commands.len() < 2, "cut at {end}"),
                Err(error) => assert_eq!(error, FrameError::Truncated),
            }
        }
    }
}
