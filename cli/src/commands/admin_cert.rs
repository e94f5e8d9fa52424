//! `mlctl admin cert`: the certificate bundle of a daemon.
use std::path::{Path, PathBuf};

use mlctl_runtime::identity::{Bundle, Ca};

use crate::failure::Failure;
use crate::output::Output;

/// Where an authority remembers the coordinators' addresses, one a line.
pub fn coordinators_file(ca: &Path) -> PathBuf {
    ca.join("coordinators")
}

/// The bundle of coordinator `name`.
pub fn coordinator(
    name: &str,
    ca: &Path,
    out: Option<PathBuf>,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let bundle = Ca::open(ca)
        .and_then(|ca| ca.issue_coordinator(name))
        .map_err(Failure::config)?;
    write(&bundle, name, out, output)
}

/// The bundle of node `name`.
pub fn node(
    name: &str,
    ca: &Path,
    out: Option<PathBuf>,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let bundle = Ca::open(ca)
        .and_then(|ca| ca.issue_node(name))
        .map_err(Failure::config)?;
    write(&bundle, name, out, output)
}

fn write(
    bundle: &Bundle,
    name: &str,
    out: Option<PathBuf>,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let dir = out.unwrap_or_else(|| name.into());
    if dir.join("key.pem").exists() {
        return Err(Failure::usage(format!(
            "{} holds a key already; name another directory with --out",
            dir.display()
        )));
    }
    bundle.write(&dir).map_err(Failure::config)?;
    output.note(&format!(
        "wrote {}: copy it to the machine and name it as `identity` in its configuration",
        dir.display()
    ));
    Ok(0)
}
