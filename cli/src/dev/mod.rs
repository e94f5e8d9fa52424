//! `mlctl dev`: a whole cluster on one machine, made of the same daemons as a real one, kept up by a small supervisor.
//! Knows processes and files; what a cluster does, it learns like any other user: over the API.
pub mod control;
pub mod layout;
pub mod processes;
pub mod status;
pub mod supervisor;
pub mod up;

use std::path::PathBuf;

use crate::failure::Failure;

/// The state directory: the flag, else `~/.local/share/mlctl/dev`.
pub fn state_dir(flag: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = match (flag, std::env::var_os("HOME")) {
        (Some(dir), _) => dir,
        (None, Some(home)) => PathBuf::from(home).join(".local/share/mlctl/dev"),
        (None, None) => {
            return Err(Failure::config_text(
                "neither --dir nor HOME says where the cluster should live".into(),
            ));
        }
    };
    std::path::absolute(&dir).map_err(Failure::internal)
}
