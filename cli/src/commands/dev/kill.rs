//! `mlctl dev kill NAME`: as if somebody had pulled the plug.
use std::path::Path;

use crate::dev::control::{Ask, order};
use crate::dev::status::leader;
use crate::failure::Failure;
use crate::output::Output;

/// Kills the node or coordinator `name`; `leader` is the leading coordinator.
pub async fn run(dir: &Path, name: &str, output: &dyn Output) -> Result<u8, Failure> {
    let name = match name {
        "leader" => match leader(dir).await? {
            Some(member) => member.name,
            None => {
                return Err(Failure::not_found(
                    "no coordinator leads at the moment; try again".into(),
                ));
            }
        },
        name => name.to_owned(),
    };
    order(dir, &Ask::Kill { name: name.clone() })?;
    output.note(&format!(
        "killed {name}; it stays down until: mlctl dev start {name}"
    ));
    Ok(0)
}
