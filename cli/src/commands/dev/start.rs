//! `mlctl dev start NAME`: bring back what `dev kill` had killed. A node comes back as after a reboot.
use std::path::Path;

use crate::dev::control::{Ask, order};
use crate::failure::Failure;
use crate::output::Output;

/// Starts `name`.
pub fn run(dir: &Path, name: &str, output: &dyn Output) -> Result<u8, Failure> {
    order(
        dir,
        &Ask::Start {
            name: name.to_owned(),
        },
    )?;
    output.note(&format!("started {name}"));
    Ok(0)
}
