//! From bytes of a peer to a Raft message that raft can be given without a panic, and back.
//!
//! It does not authenticate: the transport did. It caps the size, refuses protobuf groups before the decoder sees
//! them (its skipping of unknown groups recurses without a limit), and checks what raft takes for granted.

use super::{INFO_BYTES_MAX, MemberId, Membership, SnapshotMeta};
use bytes::{Buf, Bytes};
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeTransition, ConfChangeV2, Entry, EntryType, Message, MessageType, Snapshot,
    SnapshotMetadata,
};

/// Longer messages are refused before they are decoded.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// The highest term or index that is taken from a peer.
const FARTHEST: u64 = u64::MAX >> 1;
const DESCRIPTOR_VERSION: u8 = 2;
const DIGEST_BYTES: usize = 32;
/// Submessages of `Message` nest this deep: message, snapshot, metadata, conf state.
const MAX_DEPTH: u32 = 4;

/// Why bytes of a peer are not a message that this member takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("a Raft message of {0} bytes is over the limit of {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// Not protobuf, or protobuf that no release of this program writes.
    #[error("not a Raft message")]
    Malformed,
    /// The sender inside is not the sender that was authenticated, or it is for another member.
    #[error("a Raft message with a foreign sender or receiver")]
    Misaddressed,
    /// A kind that never travels between members here.
    #[error("a Raft message of a kind that members do not send")]
    Kind,
}

/// Whether these bytes are a snapshot's announcement. False for anything that does not decode.
pub fn is_snapshot(bytes: &Bytes) -> bool {
    parse(bytes).is_ok_and(|message| message.get_msg_type() == MessageType::MsgSnapshot)
}

/// Encodes a message. raft builds them from its own state, so this cannot fail for lack of a field.
pub(super) fn encode(message: &Message) -> Option<Bytes> {
    message.write_to_bytes().ok().map(Bytes::from)
}

/// Decodes and checks a message that `from` sent to `me`.
pub(super) fn decode(bytes: &Bytes, from: MemberId, me: MemberId) -> Result<Message, WireError> {
    let message = parse(bytes)?;
    if message.from != from || message.to != me || from == me {
        return Err(WireError::Misaddressed);
    }
    match message.get_msg_type() {
        MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgSnapshot
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow => {}
        _ => return Err(WireError::Kind),
    }
    if message.term == 0 || !numbers_are_near(&message) || !entries_are_in_order(&message) {
        return Err(WireError::Malformed);
    }
    Ok(message)
}

/// Decodes the message of an offer that was checked when it came.
pub(super) fn decode_offer(bytes: &Bytes, me: MemberId) -> Result<Message, WireError> {
    let from = parse(bytes)?.from;
    let message = decode(bytes, from, me)?;
    from_raft_snapshot(message.get_snapshot()).map(|_| message)
}

/// The descriptor of a snapshot as raft carries it.
pub(super) fn to_raft_snapshot(meta: &SnapshotMeta) -> Snapshot {
    let mut metadata = SnapshotMetadata {
        index: meta.index,
        term: meta.term,
        ..SnapshotMetadata::default()
    };
    metadata.set_conf_state(meta.members.conf_state());
    let mut data = vec![DESCRIPTOR_VERSION];
    data.extend_from_slice(&meta.digest);
    data.extend_from_slice(&meta.members.to_bytes());
    let mut snapshot = Snapshot {
        data: data.into(),
        ..Snapshot::default()
    };
    snapshot.set_metadata(metadata);
    snapshot
}

/// Reads a descriptor.
pub(super) fn from_raft_snapshot(snapshot: &Snapshot) -> Result<SnapshotMeta, WireError> {
    let metadata = snapshot.get_metadata();
    let Some((&DESCRIPTOR_VERSION, rest)) = snapshot.data.split_first() else {
        return Err(WireError::Malformed);
    };
    let (digest, members) = rest
        .split_first_chunk::<DIGEST_BYTES>()
        .ok_or(WireError::Malformed)?;
    let members = Membership::from_bytes(members).map_err(|_| WireError::Malformed)?;
    if metadata.index == 0 || *metadata.get_conf_state() != members.conf_state() {
        return Err(WireError::Malformed);
    }
    Ok(SnapshotMeta {
        index: metadata.index,
        term: metadata.term,
        members,
        digest: *digest,
    })
}

/// Whether an entry that is not made of commands is a change of the membership that this release can read.
///
/// # Errors
/// A text that says what it is not.
pub fn check_change(entry: &Entry) -> Result<(), String> {
    decode_change(entry)
        .map(drop)
        .map_err(|_| "it is not a change of the membership that this release knows".to_owned())
}

/// Reads an entry that changes the membership; none but what `changes` writes.
pub(super) fn decode_change(entry: &Entry) -> Result<ConfChangeV2, WireError> {
    let sound = entry.get_entry_type() == EntryType::EntryConfChangeV2
        && is_flat(&entry.data, &Shape::CHANGE, MAX_DEPTH);
    if !sound {
        return Err(WireError::Malformed);
    }
    let mut change = ConfChangeV2::default();
    change
        .merge_from_bytes(&entry.data)
        .map_err(|_| WireError::Malformed)?;
    let transition = if change.changes.len() > 1 {
        ConfChangeTransition::Explicit
    } else {
        ConfChangeTransition::Auto
    };
    let known = change.changes.len() <= 2
        && change.get_transition() == transition
        && change.changes.iter().all(|one| one.node_id != 0)
        && change.context.len() <= INFO_BYTES_MAX
        && std::str::from_utf8(&change.context).is_ok();
    known.then_some(change).ok_or(WireError::Malformed)
}

pub(super) fn parse(bytes: &Bytes) -> Result<Message, WireError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLong(bytes.len()));
    }
    if !is_flat(bytes, &Shape::MESSAGE, MAX_DEPTH) {
        return Err(WireError::Malformed);
    }
    let mut message = Message::default();
    message
        .merge_from_bytes(bytes)
        .map_err(|_| WireError::Malformed)?;
    Ok(message)
}

/// raft adds to terms and indexes without looking: no honest one comes near the end of the numbers.
fn numbers_are_near(message: &Message) -> bool {
    let metadata = message.get_snapshot().get_metadata();
    let numbers = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
        metadata.index,
        metadata.term,
    ];
    let last = message.entries.last().map_or(0, |entry| entry.index);
    numbers
        .into_iter()
        .chain([last])
        .all(|number| number <= FARTHEST)
}

/// raft slices entries by position and trusts that indexes follow each other.
fn entries_are_in_order(message: &Message) -> bool {
    let mut index = message.index;
    let mut term = message.log_term;
    for entry in &message.entries {
        let Some(next) = index.checked_add(1) else {
            return false;
        };
        if entry.index != next || entry.term < term || entry.term > message.term {
            return false;
        }
        (index, term) = (entry.index, entry.term);
    }
    true
}

/// Which fields of a message are messages again.
struct Shape {
    nested: &'static [(u64, &'static Shape)],
}

impl Shape {
    const LEAF: Self = Self { nested: &[] };
    const METADATA: Self = Self {
        nested: &[(1, &Self::LEAF)],
    };
    const SNAPSHOT: Self = Self {
        nested: &[(2, &Self::METADATA)],
    };
    const CHANGE: Self = Self {
        nested: &[(2, &Self::LEAF)],
    };
    const MESSAGE: Self = Self {
        nested: &[(7, &Self::LEAF), (9, &Self::SNAPSHOT)],
    };
}

/// Walks the wire format: every field complete, no group anywhere that the decoder would look.
fn is_flat(mut bytes: &[u8], shape: &Shape, depth: u32) -> bool {
    if depth == 0 {
        return false;
    }
    while bytes.has_remaining() {
        let Some(tag) = varint(&mut bytes) else {
            return false;
        };
        let length = match tag & 7 {
            0 => {
                if varint(&mut bytes).is_none() {
                    return false;
                }
                continue;
            }
            1 => 8,
            2 => match varint(&mut bytes) {
                Some(length) => length,
                None => return false,
            },
            5 => 4,
            _ => return false,
        };
        let Some(length) = usize::try_from(length).ok().filter(|n| *n <= bytes.len()) else {
            return false;
        };
        let (field, rest) = bytes.split_at(length);
        let nested = shape.nested.iter().find(|(number, _)| *number == tag >> 3);
        if let Some((_, nested)) = nested
            && tag & 7 == 2
            && !is_flat(field, nested, depth - 1)
        {
            return false;
        }
        bytes = rest;
    }
    true
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat() -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        (message.from, message.to, message.term) = (2, 1, 5);
        message
    }

    fn check(change: impl FnOnce(&mut Message), expected: Result<(), WireError>) {
        let mut message = heartbeat();
        change(&mut message);
        let bytes = encode(&message).expect("encodes");
        assert_eq!(decode(&bytes, 2, 1).map(|_| ()), expected, "{message:?}");
    }

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, term);
        entry
    }

    #[test]
    fn only_sound_messages_pass() {
        check(|_| {}, Ok(()));
        check(|m| m.from = 3, Err(WireError::Misaddressed));
        check(|m| m.to = 3, Err(WireError::Misaddressed));
        check(|m| m.term = 0, Err(WireError::Malformed));
        for kind in [
            MessageType::MsgPropose,
            MessageType::MsgReadIndex,
            MessageType::MsgReadIndexResp,
            MessageType::MsgHup,
            MessageType::MsgTransferLeader,
        ] {
            check(|m| m.set_msg_type(kind), Err(WireError::Kind));
        }
        let append = |entries: Vec<Entry>| {
            move |m: &mut Message| {
                m.set_msg_type(MessageType::MsgAppend);
                (m.index, m.log_term) = (4, 2);
                m.entries = entries.into();
            }
        };
        check(append(vec![entry(5, 2), entry(6, 5)]), Ok(()));
        check(append(vec![entry(6, 2)]), Err(WireError::Malformed));
        check(append(vec![entry(5, 1)]), Err(WireError::Malformed));
        check(append(vec![entry(5, 6)]), Err(WireError::Malformed));
        check(
            append(vec![entry(5, 2), entry(5, 2)]),
            Err(WireError::Malformed),
        );
    }

    /// Found by the fuzz target `message`: a vote is asked for in the next term, and there was none.
    #[test]
    fn numbers_at_the_end_of_their_range_are_refused() {
        for far in [FARTHEST + 1, u64::MAX] {
            check(|m| m.term = far, Err(WireError::Malformed));
            check(|m| m.log_term = far, Err(WireError::Malformed));
            check(|m| m.index = far, Err(WireError::Malformed));
            check(|m| m.commit = far, Err(WireError::Malformed));
            check(|m| m.reject_hint = far, Err(WireError::Malformed));
        }
        check(|m| m.term = FARTHEST, Ok(()));
    }

    #[test]
    fn groups_never_reach_the_decoder() {
        // A start-group tag of an unknown field, a million deep: the decoder would recurse once for each.
        let bomb = Bytes::from(vec![0xa3u8; 1_000_000]);
        assert_eq!(decode(&bomb, 2, 1), Err(WireError::Malformed));
        let mut nested = vec![0x3a, 0x03];
        nested.extend_from_slice(&[0xa3, 0x01, 0xa3]);
        assert_eq!(decode(&nested.into(), 2, 1), Err(WireError::Malformed));
        let long = Bytes::from(vec![0u8; MAX_MESSAGE_BYTES + 1]);
        assert_eq!(
            decode(&long, 2, 1),
            Err(WireError::TooLong(MAX_MESSAGE_BYTES + 1))
        );
    }

    #[test]
    fn descriptors_round_trip_and_hostile_ones_are_refused() {
        let meta = SnapshotMeta {
            index: 9,
            term: 3,
            members: Membership::of(&[1, 2, 3]),
            digest: [7; 32],
        };
        let snapshot = to_raft_snapshot(&meta);
        assert_eq!(from_raft_snapshot(&snapshot), Ok(meta));
        let mut short = snapshot.clone();
        short.data = Bytes::from_static(&[1, 2, 3]);
        assert_eq!(from_raft_snapshot(&short), Err(WireError::Malformed));
        assert_eq!(
            from_raft_snapshot(&Snapshot::default()),
            Err(WireError::Malformed)
        );
    }
}
