//! A follower that installs a leader's snapshot: nothing may happen to it before its state machine holds what the snapshot says.

use super::{Core, CoreConfig, Input, Membership, Recovered, SnapshotMeta, wire};
use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};

fn from_leader(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (2, 1, 3);
    message
}

fn bytes(message: &Message) -> Bytes {
    wire::encode(message).expect("encodes")
}

/// A follower whose log a snapshot of 50 has just replaced, and whose state machine still is at 0.
fn restoring() -> Core {
    let config = CoreConfig::new(1, vec![1, 2, 3], 7);
    let mut core = Core::new(config, Recovered::default()).expect("starts");
    let meta = SnapshotMeta {
        index: 50,
        term: 3,
        members: Membership::of(&[1, 2, 3]),
        ..SnapshotMeta::default()
    };
    let mut offer = from_leader(MessageType::MsgSnapshot);
    offer.set_snapshot(wire::to_raft_snapshot(&meta));
    let message = bytes(&offer);
    let step = Input::Step { from: 2, message };
    let offers = core.turn(vec![step]).expect("turns").offers;
    let message = offers[0].message.clone();
    let mut inputs = vec![Input::SnapshotReceived { message }];
    let mut installed = false;
    for _ in 0..4 {
        let out = core.turn(std::mem::take(&mut inputs)).expect("turns");
        if let Some(persist) = out.persist {
            installed |= persist.install.is_some();
            let number = persist.number;
            inputs.push(Input::Persisted { number });
        }
    }
    assert!(installed);
    core
}

/// Whether it asks for anybody's vote within twice the longest timeout.
fn asks(core: &mut Core) -> bool {
    (0..120).any(|_| {
        let out = core.turn(vec![Input::Tick]).expect("turns");
        !out.messages.is_empty() || !out.messages_after_persist.is_empty()
    })
}

#[test]
fn a_restore_that_takes_longer_than_an_election_timeout_is_waited_for() {
    let mut core = restoring();
    assert!(!asks(&mut core), "it waits for its state");
    core.turn(vec![Input::Applied { index: 50 }])
        .expect("turns");
    assert!(asks(&mut core), "it may ask as any other");
}

#[test]
fn a_member_that_restores_does_not_take_the_lead() {
    let mut core = restoring();
    let message = bytes(&from_leader(MessageType::MsgTimeoutNow));
    let out = core.turn(vec![Input::Step { from: 2, message }]);
    assert!(out.expect("turns").messages.is_empty());
    assert!(!asks(&mut core));
}
