//! Messages on the local sockets of launcher and keeper: a length (u32, little endian), then JSON.
//! Bytes in, messages out; does NOT read or write a socket.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The length field names more than may be sent, or a message grew beyond it.
    #[error("a message of {bytes} bytes; at most {limit}")]
    TooLong {
        /// What was claimed.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not the JSON of a message that this release knows.
    #[error("not a message of this protocol: {0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of one message.
///
/// # Errors
/// When it is longer than `limit`.
pub(crate) fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, WireError> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, message)?;
    let bytes = out.len() - 4;
    match u32::try_from(bytes) {
        Ok(length) if bytes <= limit => {
            out[..4].copy_from_slice(&length.to_le_bytes());
            Ok(out)
        }
        _ => Err(WireError::TooLong { bytes, limit }),
    }
}

/// Collects bytes until they make a message. Holds at most one message and one read.
#[derive(Debug)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    limit: usize,
}

impl Decoder {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            limit,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The connection cannot be used any further.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let Some(head) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let bytes = u32::from_le_bytes(*head) as usize;
        if bytes > self.limit {
            return Err(WireError::TooLong {
                bytes,
                limit: self.limit,
            });
        }
        let Some(body) = self.buffer.get(4..4 + bytes) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body)?;
        self.buffer.drain(..4 + bytes);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut() {
        let bytes = [
            encode(&vec![1u8, 2], 64).expect("short"),
            encode(&vec![3u8], 64).expect("short"),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let mut decoder = Decoder::new(64);
            let mut seen: Vec<Vec<u8>> = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(message) = decoder.next().expect("good bytes") {
                    seen.push(message);
                }
            }
            assert_eq!(seen, [vec![1, 2], vec![3]], "cut at {cut}");
        }
    }

    #[test]
    fn hostile_bytes_are_errors() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::new(16);
            decoder.push(bytes);
            decoder.next::<Vec<u8>>().is_err()
        };
        assert!(
            refused(&[255; 8])
                && refused(&[17, 0, 0, 0])
                && refused(b"\x02\0\0\0{x")
                && refused(b"\0\0\0\0")
        );
        assert!(!refused(b"\x02\0\0\0[") && !refused(b"\x01"));
        assert!(encode(&vec![200u8; 40], 16).is_err());
    }
}
