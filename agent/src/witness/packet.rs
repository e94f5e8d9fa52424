//! The question and the answer: a magic word, a nonce that whoever asks has drawn, and a keyed hash of both.
//! Pure. An answer is as long as its question, so nobody is flooded by it; an old answer does not fit a new nonce.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use serde::{Deserialize, Serialize};

/// Where somebody answers, and the key that question and answer are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePort {
    /// A UDP port of the node.
    pub port: u16,
    /// Known to who answers, to the leader, and to whom the leader asks to ask.
    pub key: Key,
}

/// A secret of one agent or keeper.
pub type Key = [u8; 32];
/// Drawn for one question.
pub type Nonce = [u8; 16];
/// A question or an answer, bytes.
pub const PACKET_BYTES: usize = WORD + NONCE + HASH;

const WORD: usize = 8;
const NONCE: usize = 16;
const HASH: usize = 32;
const QUESTION: &[u8; WORD] = b"mlctl q1";
const ANSWER: &[u8; WORD] = b"mlctl a1";

/// Are you there?
pub fn question(key: &Key, nonce: &Nonce) -> [u8; PACKET_BYTES] {
    packet(QUESTION, key, nonce)
}

/// The answer to a question, if it is one and was made with `key`.
pub fn answer_to(key: &Key, received: &[u8]) -> Option<[u8; PACKET_BYTES]> {
    let nonce = read(QUESTION, key, received)?;
    Some(packet(ANSWER, key, &nonce))
}

/// Whether this is the answer to the question with `nonce`.
pub fn is_answer(key: &Key, nonce: &Nonce, received: &[u8]) -> bool {
    read(ANSWER, key, received).as_ref() == Some(nonce)
}

fn packet(word: &[u8; WORD], key: &Key, nonce: &Nonce) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[..WORD].copy_from_slice(word);
    packet[WORD..WORD + NONCE].copy_from_slice(nonce);
    let hash = blake3::keyed_hash(key, &packet[..WORD + NONCE]);
    packet[WORD + NONCE..].copy_from_slice(hash.as_bytes());
    packet
}

fn read(word: &[u8; WORD], key: &Key, received: &[u8]) -> Option<Nonce> {
    let (said, rest) = received.split_first_chunk::<WORD>()?;
    let (nonce, hash) = rest.split_first_chunk::<NONCE>()?;
    let hash: [u8; HASH] = hash.try_into().ok()?;
    let made = blake3::keyed_hash(key, received.get(..WORD + NONCE)?);
    // Equality of these hashes takes the same time wherever they differ.
    (said == word && made == blake3::Hash::from_bytes(hash)).then_some(*nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [7; 32];
    const NONCE: Nonce = [9; 16];

    #[test]
    fn an_answer_fits_its_own_question_alone() {
        let asked = question(&KEY, &NONCE);
        let answer = answer_to(&KEY, &asked).expect("a good question");
        assert!(is_answer(&KEY, &NONCE, &answer));
        assert!(!is_answer(&KEY, &[8; 16], &answer), "it was replayed");
        assert!(!is_answer(&[6; 32], &NONCE, &answer), "another key");
        assert!(!is_answer(&KEY, &NONCE, &asked), "an echo is no answer");
        assert_eq!(answer_to(&[6; 32], &asked), None);
        assert_eq!(answer_to(&KEY, &answer), None, "answers are not answered");
    }

    #[test]
    fn damage_is_never_answered() {
        let asked = question(&KEY, &NONCE);
        for at in 0..PACKET_BYTES {
            let mut spoilt = asked;
            spoilt[at] ^= 1;
            assert_eq!(answer_to(&KEY, &spoilt), None, "byte {at}");
            assert_eq!(answer_to(&KEY, &asked[..at]), None, "{at} bytes");
        }
        assert_eq!(answer_to(&KEY, &[&asked[..], &[0]].concat()), None);
    }
}
