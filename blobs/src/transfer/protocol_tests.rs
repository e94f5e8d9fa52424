//! Frames come back from their bytes, and nothing else is one. Does NOT open a socket.
use super::*;
use proptest::prelude::*;

fn every_frame() -> Vec<Frame> {
    let id = BlobId::of(b"x");
    vec![
        Frame::Offer {
            id,
            manifest_bytes: 7,
            near: vec![id, BlobId::of(b"y")],
        },
        Frame::Offer {
            id,
            manifest_bytes: MANIFEST_BYTES_MAX as u32,
            near: vec![id; NEAR_MAX],
        },
        Frame::Go,
        Frame::Want {
            token: 1 << 40,
            chunks: 3,
            bytes: 1 << 41,
            lanes: LANES_MAX,
        },
        Frame::Still { chunks: 9 },
        Frame::Join { token: 5 },
        Frame::Open { id, urgent: true },
        Frame::Open { id, urgent: false },
        Frame::Opened,
        Frame::Get,
        Frame::Manifest { bytes: 12 },
        Frame::Fetch { index: u32::MAX },
        Frame::Chunk {
            index: 1,
            bytes: CHUNK_BYTES as u32,
        },
        Frame::Lack { index: 2 },
        Frame::Done,
        Frame::Held { id },
        Frame::Verify { id },
        Frame::Refused {
            why: Refusal::NoRoom,
            text: "ünmöglich".to_owned(),
        },
    ]
}

#[test]
fn frames_come_back_and_cut_ones_do_not() {
    for frame in every_frame() {
        let bytes = frame.encode();
        let (prefix, body) = bytes.split_first_chunk::<PREFIX_BYTES>().expect("long");
        assert_eq!(frame_bytes(*prefix), Ok(body.len()));
        assert_eq!(Frame::decode(body), Ok(frame.clone()));
        let is_text = matches!(frame, Frame::Refused { .. });
        for cut in 0..body.len() {
            // A refusal is its text, and a shorter text is one as well.
            let short = Frame::decode(&body[..cut]);
            assert!(
                short.is_err() || is_text,
                "{frame:?} cut at {cut}: {short:?}"
            );
        }
        let longer = [body, b"\xff"].concat();
        assert!(Frame::decode(&longer).is_err(), "{frame:?}");
    }
}

#[test]
fn large_claims_are_refused_before_anything_is_read() {
    assert!(frame_bytes(0_u32.to_le_bytes()).is_err());
    assert!(frame_bytes((FRAME_BYTES_MAX as u32 + 1).to_le_bytes()).is_err());
    assert!(frame_bytes([0xff; 4]).is_err());
    for (kind, length) in [
        (9, MANIFEST_BYTES_MAX as u32 + 1),
        (9, u32::MAX),
        (11, CHUNK_BYTES as u32 + 1),
    ] {
        let mut bytes = vec![kind];
        if kind == 11 {
            bytes.extend_from_slice(&[0; 4]);
        }
        bytes.extend_from_slice(&length.to_le_bytes());
        let error = Frame::decode(&bytes).expect_err("too much");
        assert!(error.0.contains("more bytes"), "{error}");
    }
    let long = Frame::Refused {
        why: Refusal::Failed,
        text: "ä".repeat(TEXT_BYTES_MAX),
    };
    let bytes = long.encode();
    assert!(bytes.len() <= FRAME_BYTES_MAX);
    assert!(Frame::decode(&bytes[PREFIX_BYTES..]).is_ok());
}

#[test]
fn every_refusal_has_a_number_of_its_own() {
    for (number, why) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(why as usize, number + 1);
    }
    let newer = Frame::decode(&[15, 200, b'x']);
    let text = "x".to_owned();
    let why = Refusal::Failed;
    assert_eq!(newer, Ok(Frame::Refused { why, text }));
}

#[test]
fn only_a_hello_is_one() {
    assert_eq!(is_our_hello(hello()), Ok(true));
    let mut other = hello();
    other[6] = 2;
    assert_eq!(is_our_hello(other), Ok(false));
    assert!(is_our_hello(*b"GET / HT").is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_in_one_spelling_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = Frame::decode(&bytes) {
            let again = frame.encode();
            let known = !matches!(frame, Frame::Refused { why: Refusal::Failed, .. });
            prop_assert!(!known || again[PREFIX_BYTES..] == bytes[..]);
        }
    }

    #[test]
    fn changed_bytes_never_panic(number in 0_usize..17, at in any::<proptest::sample::Index>(), to in any::<u8>()) {
        let mut bytes = every_frame()[number].encode()[PREFIX_BYTES..].to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = Frame::decode(&bytes);
    }
}
