//! `mlctl admin init`: the authority of a new cluster. Its key never leaves the directory.
use std::path::Path;

use mlctl_runtime::identity::Ca;

use super::admin_cert::coordinators_file;
use crate::failure::Failure;
use crate::output::Output;

/// Makes the authority in `dir`. An existing one is never touched.
pub fn run(
    dir: &Path,
    name: &str,
    coordinators: &[String],
    output: &dyn Output,
) -> Result<u8, Failure> {
    for address in coordinators {
        if !address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        {
            return Err(Failure::usage(format!(
                "--coordinator {address}: write host:port"
            )));
        }
    }
    Ca::create(dir, name).map_err(Failure::config)?;
    let file = coordinators_file(dir);
    let list = coordinators.join("\n") + "\n";
    mlctl_runtime::config::write_private(&file, list.as_bytes()).map_err(Failure::config)?;
    output.note(&format!(
        "cluster {name}: its authority is in {0}. Keep ca-key.pem offline and backed up.\nnext: mlctl admin cert coordinator c1 --ca {0} · mlctl admin cert node NAME --ca {0} · mlctl admin user add YOU --admin --ca {0}",
        dir.display()
    ));
    Ok(0)
}
