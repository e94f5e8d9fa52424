//! Target: one command of the log, decoded. What can be read is written again as it was read.
//! Does NOT apply it.

use mlctl_coordinator::state::codec;

use super::dice::Dice;
use super::{mutate as change, story};

pub(super) fn seeds() -> Vec<Vec<u8>> {
    story::encoded()
}

pub(super) fn run(bytes: &[u8]) {
    let Ok(command) = codec::decode_command(bytes) else {
        return;
    };
    let encoded =
        codec::encode_command(&command).expect("what was read within the limit can be written");
    assert_eq!(
        codec::decode_command(&encoded).as_ref(),
        Ok(&command),
        "a command is another one after it was written"
    );
}

pub(super) fn mutate(dice: &mut Dice, seeds: &[Vec<u8>], bytes: Vec<u8>) -> Vec<u8> {
    if dice.once_in(8) {
        change::bytes(dice, seeds, bytes)
    } else {
        change::protobuf(dice, seeds, bytes)
    }
}
