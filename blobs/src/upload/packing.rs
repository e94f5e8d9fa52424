//! Chunks and manifests as objects: zstd where that saves something. Whatever comes back is bounded before it is unpacked.
//! Does NOT verify: who asked for an object knows its hash.
use std::io::{self, Read};

use super::layout::Form;

/// Fast enough for any link to a store, and most of what there is to gain.
const LEVEL: i32 = 3;
/// Windows of this many bits are the largest that [`LEVEL`] writes; larger ones only cost memory.
const WINDOW_LOG_MAX: u32 = 23;
/// A chunk is stored compressed if that saves at least such a part of it.
const WORTH: usize = 32;

/// A chunk as it is stored.
pub(super) fn pack_chunk(bytes: Vec<u8>) -> io::Result<(Form, Vec<u8>)> {
    let packed = zstd::bulk::compress(&bytes, LEVEL)?;
    if packed.len() + bytes.len() / WORTH < bytes.len() {
        Ok((Form::Zstd, packed))
    } else {
        Ok((Form::Raw, bytes))
    }
}

/// Can an object with `stored` bytes be that chunk? An empty or cut one is sent again.
pub(super) fn is_plausible(form: Form, stored: u64, length: usize) -> bool {
    match form {
        Form::Zstd => stored > 0 && stored < length as u64,
        Form::Raw => stored == length as u64,
    }
}

/// The bytes of a chunk of `length` bytes; never more than that.
pub(super) fn unpack_chunk(form: Form, stored: &[u8], length: usize) -> io::Result<Vec<u8>> {
    match form {
        // One pass into one buffer: whatever window the frame asks for, nothing else is allocated.
        Form::Zstd => zstd::bulk::decompress(stored, length),
        Form::Raw => Ok(stored.to_vec()),
    }
}

/// A manifest as it is stored.
pub(super) fn pack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, LEVEL)
}

/// A manifest of at most `max` bytes.
pub(super) fn unpack(stored: &[u8], max: usize) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(stored)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut bytes = Vec::new();
    decoder.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::other("it unpacks to more than any manifest has"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrinks_is_packed_and_what_does_not_stays_plain() {
        let text = b"weights ".repeat(1_000);
        let (form, packed) = pack_chunk(text.clone()).expect("packed");
        assert_eq!(form, Form::Zstd);
        assert!(packed.len() < text.len() / 10);
        assert!(is_plausible(form, packed.len() as u64, text.len()));
        assert!(!is_plausible(form, 0, text.len()));
        assert_eq!(
            unpack_chunk(form, &packed, text.len()).expect("unpacked"),
            text
        );
        // As good as noise.
        let noise: Vec<u8> = (0..200_u32)
            .flat_map(|n| *crate::BlobId::of(&n.to_le_bytes()).as_bytes())
            .collect();
        let (form, packed) = pack_chunk(noise.clone()).expect("packed");
        assert_eq!((form, &packed), (Form::Raw, &noise));
        assert!(!is_plausible(form, 6_399, noise.len()));
        assert_eq!(
            unpack_chunk(form, &packed, noise.len()).expect("as it is"),
            noise
        );
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let bomb = pack(&vec![0; 8 << 20]).expect("packed");
        assert!(bomb.len() < 2_000);
        assert!(unpack(&bomb, (8 << 20) - 1).is_err());
        assert_eq!(
            unpack(&bomb, 8 << 20).expect("as much as allowed").len(),
            8 << 20
        );
        assert!(unpack_chunk(Form::Zstd, &bomb, 4 << 20).is_err());
        for junk in [
            &b""[..],
            b"x",
            &bomb[..bomb.len() / 2],
            &[0x28, 0xb5, 0x2f, 0xfd, 0, 0xff],
        ] {
            assert!(
                unpack(junk, 1_000_000_000).map_or(true, |b| b.is_empty()),
                "{junk:?}"
            );
            assert!(unpack_chunk(Form::Zstd, junk, 100).map_or(true, |b| b.is_empty()));
        }
    }
}
