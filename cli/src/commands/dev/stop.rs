//! `mlctl dev stop`: end every process of the cluster; its data stays.
use std::path::Path;
use std::time::{Duration, Instant};

use crate::dev::control::{Ask, order, socket};
use crate::failure::Failure;
use crate::output::Output;

/// Stops the cluster in `dir`.
pub fn run(dir: &Path, output: &dyn Output) -> Result<u8, Failure> {
    order(dir, &Ask::Stop)?;
    // The socket goes when the supervisor has ended.
    let deadline = Instant::now() + Duration::from_secs(5);
    while socket(dir).exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    output.note(&format!("stopped; its data stays in {}", dir.display()));
    Ok(0)
}
