//! What two nodes say to each other while a checkpoint moves, and its bytes. Pure. Bytes may come from an enemy: each frame is short,
//! and what follows one (a manifest, a chunk) has a length with a limit. Does NOT decide who says what when.
//!
//! A *link* is two streams of bytes, one each way; who dials begins with the [`hello`]. Whoever lacks chunks asks, whoever has them answers
//! in order, so the one that must write them to a disk sets the pace:
//! ```text
//! push   control link   Offer ▷ ◁ Go  manifest ▷  ◁ Still…  ◁ Want   … ◁ Still …   ◁ Held (the ack: durable) | ◁ Refused
//!        each lane      Join ▷  ◁ Fetch…  Chunk bytes ▷ …  ◁ Done                  the sender dials, the receiver asks
//! pull   each lane      Open ▷  ◁ Opened | ◁ Refused,  Get ▷ ◁ Manifest bytes,  Fetch… ▷  ◁ Chunk bytes | ◁ Lack …  Done ▷
//! verify one link       Verify ▷  ◁ Still…  ◁ Held | ◁ Refused
//! ```
//! Frame: length:u32 of what follows it, kind:u8, then fields, little-endian, nothing left over.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use crate::BlobId;
use crate::checkpoint::{CHUNK_BYTES, MANIFEST_BYTES_MAX};

/// Stands at the beginning of what a dialler says on a link.
const MAGIC: &[u8; 6] = b"mlblob";
/// Of the frames. Another one is refused.
const VERSION: u16 = 1;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 8;
/// Bytes of a frame's length.
pub const PREFIX_BYTES: usize = 4;
/// Bytes of a frame behind its length.
pub const FRAME_BYTES_MAX: usize = 4096;
/// Neighbours that an offer may name.
pub const NEAR_MAX: usize = 64;
/// Bytes of text in a refusal.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Connections for one transfer that anybody asks for.
pub const LANES_MAX: u8 = 32;

/// Why a node does not do what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// This node may not send or read this checkpoint there.
    NotAllowed = 1,
    /// It is not held there.
    NotHeld = 2,
    /// Over the limit of its store, or its disk has no room. Nothing was begun.
    NoRoom = 3,
    /// Its disk became full on the way; what came so far stays.
    DiskFull = 4,
    /// It is receiving this checkpoint from somebody else, or has too much to do.
    Busy = 5,
    /// The manifest is not the one that was named, or not sound.
    BadManifest = 6,
    /// A chunk was not the one that was asked for.
    WrongChunk = 7,
    /// It speaks another version.
    Version = 8,
    /// Its disk failed, or it is stopping.
    Failed = 9,
}

impl Refusal {
    const ALL: [Self; 9] = [
        Self::NotAllowed,
        Self::NotHeld,
        Self::NoRoom,
        Self::DiskFull,
        Self::Busy,
        Self::BadManifest,
        Self::WrongChunk,
        Self::Version,
        Self::Failed,
    ];
}

/// One thing said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// "I have this checkpoint for you."
    Offer {
        /// BLAKE3 of its manifest.
        id: BlobId,
        /// Bytes of the manifest.
        manifest_bytes: u32,
        /// Checkpoints that probably share chunks with it.
        near: Vec<BlobId>,
    },
    /// "Send the manifest."
    Go,
    /// "This is what I lack."
    Want {
        /// Names the transfer when lanes join it.
        token: u64,
        /// Chunks.
        chunks: u32,
        /// Bytes of these.
        bytes: u64,
        /// Lanes that it is worth.
        lanes: u8,
    },
    /// "I am still at it"; said every few seconds.
    Still {
        /// Chunks that are to come.
        chunks: u32,
    },
    /// "This link is a lane of that transfer."
    Join {
        /// From [`Frame::Want`].
        token: u64,
    },
    /// "I want chunks of this checkpoint."
    Open {
        /// BLAKE3 of its manifest.
        id: BlobId,
        /// Uncapped: somebody waits for it.
        urgent: bool,
    },
    /// "I have it."
    Opened,
    /// "Send its manifest."
    Get,
    /// The manifest follows.
    Manifest {
        /// Its bytes.
        bytes: u32,
    },
    /// "Send this chunk."
    Fetch {
        /// Its number in the manifest.
        index: u32,
    },
    /// The chunk follows.
    Chunk {
        /// Its number in the manifest.
        index: u32,
        /// Its bytes.
        bytes: u32,
    },
    /// "I do not have that chunk after all."
    Lack {
        /// Its number in the manifest.
        index: u32,
    },
    /// "I need nothing more on this lane."
    Done,
    /// "I hold it whole, verified and on the disk."
    Held {
        /// BLAKE3 of its manifest.
        id: BlobId,
    },
    /// "Read this checkpoint again from your disk": answered by Still…, and then Held or Refused.
    Verify {
        /// BLAKE3 of its manifest.
        id: BlobId,
    },
    /// "No." Nothing follows on this link.
    Refused {
        /// Why.
        why: Refusal,
        /// For people.
        text: String,
    },
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFrame(pub &'static str);

/// What a dialler says first.
pub fn hello() -> [u8; HELLO_BYTES] {
    let [low, high] = VERSION.to_le_bytes();
    let [a, b, c, d, e, f] = *MAGIC;
    [a, b, c, d, e, f, low, high]
}

/// Whether `bytes` is the hello of this version; `Err` if it is none at all.
///
/// # Errors
/// When it is no hello.
pub fn is_our_hello(bytes: [u8; HELLO_BYTES]) -> Result<bool, BadFrame> {
    if bytes.starts_with(MAGIC) {
        Ok(bytes == hello())
    } else {
        Err(BadFrame("it does not begin as this protocol does"))
    }
}

/// How many bytes follow a prefix.
///
/// # Errors
/// When they are too many for any frame, or none.
pub fn frame_bytes(prefix: [u8; PREFIX_BYTES]) -> Result<usize, BadFrame> {
    match u32::from_le_bytes(prefix) as usize {
        0 => Err(BadFrame("a frame is empty")),
        more if more > FRAME_BYTES_MAX => Err(BadFrame("a frame is too long")),
        bytes => Ok(bytes),
    }
}

impl Frame {
    /// Prefix and frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; PREFIX_BYTES];
        self.put(&mut out);
        let bytes = (out.len() - PREFIX_BYTES) as u32;
        out[..PREFIX_BYTES].copy_from_slice(&bytes.to_le_bytes());
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Offer {
                id,
                manifest_bytes,
                near,
            } => {
                out.push(1);
                out.extend_from_slice(id.as_bytes());
                out.extend_from_slice(&manifest_bytes.to_le_bytes());
                let near = &near[..near.len().min(NEAR_MAX)];
                out.push(near.len() as u8);
                near.iter().for_each(|id| out.extend(id.as_bytes()));
            }
            Self::Go => out.push(2),
            Self::Want {
                token,
                chunks,
                bytes,
                lanes,
            } => {
                out.push(3);
                out.extend_from_slice(&token.to_le_bytes());
                out.extend_from_slice(&chunks.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
                out.push(*lanes);
            }
            Self::Still { chunks } => put_u32(out, 4, *chunks),
            Self::Join { token } => {
                out.push(5);
                out.extend_from_slice(&token.to_le_bytes());
            }
            Self::Open { id, urgent } => {
                out.push(6);
                out.extend_from_slice(id.as_bytes());
                out.push(u8::from(*urgent));
            }
            Self::Opened => out.push(7),
            Self::Get => out.push(8),
            Self::Manifest { bytes } => put_u32(out, 9, *bytes),
            Self::Fetch { index } => put_u32(out, 10, *index),
            Self::Chunk { index, bytes } => {
                put_u32(out, 11, *index);
                out.extend_from_slice(&bytes.to_le_bytes());
            }
            Self::Lack { index } => put_u32(out, 12, *index),
            Self::Done => out.push(13),
            Self::Held { id } => {
                out.push(14);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Refused { why, text } => {
                out.push(15);
                out.push(*why as u8);
                let end = text.floor_char_boundary(TEXT_BYTES_MAX);
                out.extend_from_slice(&text.as_bytes()[..end]);
            }
            Self::Verify { id } => {
                out.push(16);
                out.extend_from_slice(id.as_bytes());
            }
        }
    }

    /// Reads a frame without its prefix.
    ///
    /// # Errors
    /// When it is none, or says something that nobody may say.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        let mut reader = Reader(bytes);
        let [kind] = reader.array()?;
        let frame = match kind {
            1 => reader.offer()?,
            2 => Self::Go,
            3 => Self::Want {
                token: reader.u64()?,
                chunks: reader.u32()?,
                bytes: reader.u64()?,
                lanes: reader.up_to(LANES_MAX)?,
            },
            4 => Self::Still {
                chunks: reader.u32()?,
            },
            5 => Self::Join {
                token: reader.u64()?,
            },
            6 => Self::Open {
                id: reader.id()?,
                urgent: reader.up_to(1)? == 1,
            },
            7 => Self::Opened,
            8 => Self::Get,
            9 => Self::Manifest {
                bytes: reader.length(MANIFEST_BYTES_MAX)?,
            },
            10 => Self::Fetch {
                index: reader.u32()?,
            },
            11 => Self::Chunk {
                index: reader.u32()?,
                bytes: reader.length(CHUNK_BYTES as usize)?,
            },
            12 => Self::Lack {
                index: reader.u32()?,
            },
            13 => Self::Done,
            14 => Self::Held { id: reader.id()? },
            15 => reader.refused()?,
            16 => Self::Verify { id: reader.id()? },
            _ => return Err(BadFrame("a frame of no known kind")),
        };
        if reader.0.is_empty() {
            Ok(frame)
        } else {
            Err(BadFrame("a frame is longer than what it says"))
        }
    }
}

fn put_u32(out: &mut Vec<u8>, kind: u8, number: u32) {
    out.push(kind);
    out.extend_from_slice(&number.to_le_bytes());
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadFrame> {
        let cut = self.0.split_first_chunk::<N>();
        let (taken, rest) = cut.ok_or(BadFrame("a frame ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, BadFrame> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, BadFrame> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn id(&mut self) -> Result<BlobId, BadFrame> {
        Ok(BlobId::from_bytes(self.array()?))
    }

    fn up_to(&mut self, max: u8) -> Result<u8, BadFrame> {
        let [number] = self.array()?;
        let good = number <= max;
        good.then_some(number)
            .ok_or(BadFrame("a number in a frame is too large"))
    }

    /// Of bytes that follow the frame.
    fn length(&mut self, max: usize) -> Result<u32, BadFrame> {
        let length = self.u32()?;
        let good = length as usize <= max;
        good.then_some(length)
            .ok_or(BadFrame("more bytes are announced than anybody may send"))
    }

    fn offer(&mut self) -> Result<Frame, BadFrame> {
        let id = self.id()?;
        let manifest_bytes = self.length(MANIFEST_BYTES_MAX)?;
        let count = self.up_to(NEAR_MAX as u8)?;
        let near = (0..count).map(|_| self.id()).collect::<Result<_, _>>()?;
        Ok(Frame::Offer {
            id,
            manifest_bytes,
            near,
        })
    }

    fn refused(&mut self) -> Result<Frame, BadFrame> {
        let [code] = self.array()?;
        let known = Refusal::ALL.into_iter().find(|why| *why as u8 == code);
        let text = std::str::from_utf8(self.0).map_err(|_| BadFrame("a text is not UTF-8"))?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(BadFrame("a text is too long"));
        }
        self.0 = &[];
        Ok(Frame::Refused {
            // A newer node may have more reasons; that it refuses is what counts.
            why: known.unwrap_or(Refusal::Failed),
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
