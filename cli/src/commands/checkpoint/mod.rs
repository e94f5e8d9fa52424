//! `mlctl checkpoint`: what there is of a job's checkpoints, and what becomes of them.
mod change;
mod commit;
#[cfg(target_os = "linux")]
mod get;
#[cfg(target_os = "linux")]
mod lay;
mod ls;
mod push;
mod show;
mod usage;
mod verify;

use mlctl_proto::api::CheckpointAction;

use super::client_side;
use crate::args::{CheckpointCommand, Global};
use crate::failure::Failure;
use crate::output::Output;

/// Runs one of them.
pub fn dispatch(
    command: &CheckpointCommand,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let change = |args, action| client_side(change::run(args, action, global, output));
    match command {
        CheckpointCommand::Ls(args) => client_side(ls::run(args, global, output)),
        CheckpointCommand::Show(args) => client_side(show::run(args, global, output)),
        #[cfg(target_os = "linux")]
        CheckpointCommand::Get(args) => client_side(get::run(args, global, output)),
        #[cfg(not(target_os = "linux"))]
        CheckpointCommand::Get(_) => Err(Failure::usage(
            "checkpoints are put together on Linux only: run this there".into(),
        )),
        CheckpointCommand::Verify(args) => client_side(verify::run(args, global, output)),
        CheckpointCommand::Push(args) => client_side(push::run(args, global, output)),
        CheckpointCommand::Usage => client_side(usage::run(global, output)),
        CheckpointCommand::Pin(args) => change(args, CheckpointAction::Pin),
        CheckpointCommand::Unpin(args) => change(args, CheckpointAction::Unpin),
        CheckpointCommand::Rm(args) => change(args, CheckpointAction::Remove),
        CheckpointCommand::Commit(args) => commit::run(args, output),
    }
}
