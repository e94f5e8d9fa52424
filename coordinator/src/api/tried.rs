//! Dry runs: what a command would answer, and what the state would be after it. Nothing is proposed, and the state stays as it is.
use mlctl_proto::errors::Refusal;

use crate::state::records::Reply;
use crate::state::{Command, State};

/// The clone shares all rows, and only what changes is copied. What refuses the command is the error.
pub fn tried(state: &State, command: &Command) -> Result<(State, Reply), Refusal> {
    let mut copy = state.clone();
    let index = copy.applied_index();
    match copy.apply(index, command).reply {
        Reply::Rejected(refusal) => Err(refusal),
        reply => Ok((copy, reply)),
    }
}
