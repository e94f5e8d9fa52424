//! `mlctl dev stop`: end every process of the cluster; its data stays.
use std::path::Path;

use crate::dev::control;
use crate::failure::Failure;
use crate::output::Output;

/// Stops the cluster in `dir`.
pub fn run(dir: &Path, output: &dyn Output) -> Result<u8, Failure> {
    control::stop(dir)?;
    output.note(&format!("stopped; its data stays in {}", dir.display()));
    Ok(0)
}
