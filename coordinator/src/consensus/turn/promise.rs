//! What a member lets others rely on by sending a message: that its disk has a vote, or the log up to an index.
//!
//! For whoever checks that this is so at the moment of sending. The core itself never asks.

use super::wire::parse;
use crate::consensus::MemberId;
use bytes::Bytes;
use raft::eraftpb::MessageType;

/// A promise that must be on stable storage before it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// In `term` the sender votes for `to`, maybe for itself.
    Vote {
        /// The term.
        term: u64,
        /// The candidate.
        to: MemberId,
    },
    /// The sender's log holds everything up to `index`, and its term is at least `term`.
    Stored {
        /// The term.
        term: u64,
        /// The last index.
        index: u64,
    },
}

/// What the sender of an encoded message promises by it, if anything.
pub fn promise(bytes: &Bytes) -> Option<Promise> {
    let message = parse(bytes).ok()?;
    let term = message.term;
    match message.get_msg_type() {
        MessageType::MsgRequestVote => Some(Promise::Vote {
            term,
            to: message.from,
        }),
        MessageType::MsgRequestVoteResponse if !message.reject => Some(Promise::Vote {
            term,
            to: message.to,
        }),
        MessageType::MsgAppendResponse if !message.reject => Some(Promise::Stored {
            term,
            index: message.index,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::encode;
    use super::*;
    use raft::eraftpb::Message;

    #[test]
    fn votes_and_append_answers_promise_and_the_rest_does_not() {
        let check = |kind, reject, expected: Option<Promise>| {
            let mut message = Message {
                from: 1,
                to: 2,
                term: 3,
                index: 4,
                reject,
                ..Message::default()
            };
            message.set_msg_type(kind);
            let bytes = encode(&message).expect("encodes");
            assert_eq!(promise(&bytes), expected, "{kind:?}");
        };
        let vote = |to| Some(Promise::Vote { term: 3, to });
        let stored = Some(Promise::Stored { term: 3, index: 4 });
        check(MessageType::MsgRequestVote, false, vote(1));
        check(MessageType::MsgRequestVoteResponse, false, vote(2));
        check(MessageType::MsgRequestVoteResponse, true, None);
        check(MessageType::MsgAppendResponse, false, stored);
        check(MessageType::MsgAppendResponse, true, None);
        check(MessageType::MsgRequestPreVoteResponse, false, None);
        check(MessageType::MsgHeartbeatResponse, false, None);
        assert_eq!(promise(&Bytes::from_static(b"\xff\xff")), None);
    }
}
