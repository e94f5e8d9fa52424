//! `mlctl admin user add`: a context file with a client certificate. Whoever can read it is that person.
use std::path::{Path, PathBuf};

use mlctl_runtime::config::ContextFile;
use mlctl_runtime::identity::Ca;

use super::admin_cert::coordinators_file;
use crate::failure::Failure;
use crate::output::Output;

/// Makes the context file of `name`.
pub fn run(
    name: &str,
    admin: bool,
    ca: &Path,
    out: Option<PathBuf>,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let file = out.unwrap_or_else(|| format!("{name}.toml").into());
    if file.exists() {
        return Err(Failure::usage(format!(
            "{} exists already; name another file with --out",
            file.display()
        )));
    }
    let list = coordinators_file(ca);
    let addresses = std::fs::read_to_string(&list).map_err(|error| {
        Failure::config_text(format!(
            "{}: {error}; is this a directory of `mlctl admin init`?",
            list.display()
        ))
    })?;
    let addresses = addresses.lines().map(str::to_owned).collect();
    let bundle = Ca::open(ca)
        .and_then(|ca| ca.issue_user(name, admin))
        .map_err(Failure::config)?;
    ContextFile::new(name, addresses, &bundle)
        .write(&file)
        .map_err(Failure::config)?;
    let role = if admin { "an admin" } else { "a user" };
    output.note(&format!(
        "wrote {0}: {name} is {role}. Hand it over safely; it belongs at ~/.config/mlctl/context.toml or in MLCTL_CONFIG",
        file.display()
    ));
    Ok(0)
}
