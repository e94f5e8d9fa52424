//! Target: the data of a committed entry, applied to a state that is not empty, by two members: one had it from its log, the other
//! from a snapshot. They answer the same, every invariant holds, and a snapshot of the result is the result.
//! Does NOT skip what a coordinator would stop at: an unreadable command ends the input.

use std::sync::LazyLock;

use bytes::Bytes;
use mlctl_coordinator::consensus::turn::{decode_commands, encode_commands};
use mlctl_coordinator::state::{State, codec, invariants};

use super::dice::Dice;
use super::{mutate as change, story};

/// The same state twice: as it was made, and from its snapshot.
static STATES: LazyLock<(State, State)> = LazyLock::new(|| {
    let state = story::state();
    let loaded = codec::decode_snapshot(&codec::encode_snapshot(&state));
    (state, loaded.expect("a snapshot of a sound state is read"))
});

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let commands = story::encoded();
    // The commands that follow the state, all in one entry; then one by one.
    let mut seeds = vec![frame(&commands[story::MIDDLE..])];
    seeds.extend(commands.iter().map(|one| frame(std::slice::from_ref(one))));
    seeds
}

pub(super) fn run(bytes: &[u8]) {
    let Ok(commands) = decode_commands(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let (mut one, mut other) = STATES.clone();
    let index = one.applied_index() + 1;
    for bytes in commands {
        let Ok(command) = codec::decode_command(&bytes) else {
            break;
        };
        let before = one.clone();
        let applied = one.apply(index, &command);
        assert_eq!(applied, other.apply(index, &command), "two members differ");
        assert_eq!(one.digest(), other.digest(), "two members differ");
        let broken = [
            invariants::check(&one),
            invariants::check_step(&before, &one),
        ]
        .concat();
        assert!(broken.is_empty(), "{broken:?} after {command:?}");
        let unchanged = applied.refusal().is_none() || one.digest() == before.digest();
        assert!(
            unchanged,
            "a refused command changed something: {command:?}"
        );
    }
    round_trip(&one);
}

/// A snapshot holds the state bit for bit.
pub(super) fn round_trip(state: &State) {
    let bytes = codec::encode_snapshot(state);
    let loaded = codec::decode_snapshot(&bytes).expect("a snapshot of a state is read");
    assert_eq!(loaded.digest(), state.digest());
    assert_eq!(loaded.applied_index(), state.applied_index());
    assert!(
        codec::encode_snapshot(&loaded) == bytes,
        "a snapshot of what was read from a snapshot is another one"
    );
}

pub(super) fn mutate(dice: &mut Dice, seeds: &[Vec<u8>], bytes: Vec<u8>) -> Vec<u8> {
    let Ok(commands) = decode_commands(&Bytes::from(bytes.clone())) else {
        return change::bytes(dice, seeds, bytes);
    };
    if dice.once_in(16) {
        return change::bytes(dice, seeds, bytes);
    }
    let whole: Vec<Vec<u8>> = seeds.iter().flat_map(|seed| split(seed)).collect();
    let parts = commands.iter().map(|command| command.to_vec()).collect();
    frame(&change::parts(dice, parts, &whole, |dice, part| {
        change::protobuf(dice, &whole, part)
    }))
}

fn split(entry: &[u8]) -> Vec<Vec<u8>> {
    let commands = decode_commands(&Bytes::copy_from_slice(entry)).unwrap_or_default();
    commands.iter().map(|command| command.to_vec()).collect()
}

fn frame(commands: &[Vec<u8>]) -> Vec<u8> {
    let commands: Vec<Bytes> = commands.iter().cloned().map(Bytes::from).collect();
    encode_commands(&commands).to_vec()
}
