//! `mlctl dev` and its verbs, one file each.
mod kill;
mod start;
mod status;
mod stop;
mod up;

use std::path::Path;

use mlctl_runtime::shutdown::Shutdown;

use super::client_side;
use crate::args::{DevArgs, DevCommand};
use crate::dev::{state_dir, supervisor};
use crate::failure::Failure;
use crate::output::Output;

/// Runs the verb of `args`.
pub fn dispatch(args: &DevArgs, output: &dyn Output) -> Result<u8, Failure> {
    let dir = state_dir(args.dir.clone())?;
    match &args.command {
        None => client_side(up::run(&dir, args, output)),
        Some(DevCommand::Stop) => stop::run(&dir, output),
        Some(DevCommand::Start { name }) => start::run(&dir, name, output),
        Some(DevCommand::Kill { name }) => client_side(kill::run(&dir, name, output)),
        Some(DevCommand::Status) => client_side(status::run(&dir, output)),
    }
}

/// Runs the supervisor of `dir` until it is told to stop.
pub fn supervise(dir: &Path) -> Result<u8, Failure> {
    client_side(async {
        let shutdown = Shutdown::on_signals().map_err(Failure::internal)?;
        supervisor::run(dir, shutdown).await?;
        Ok(0)
    })
}
