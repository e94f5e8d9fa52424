//! Opens the recorded loads in the folder that `MLCTL_TRACES` names. Does NOT know their form.
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use mlctl_coordinator::simulation::cluster::Cluster;
use mlctl_coordinator::simulation::{Trace, form};

/// The folder, if there is one. Without it a test says loudly that it is skipped.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os("MLCTL_TRACES")
        .map(PathBuf::from)
        .filter(|folder| folder.is_dir())
}

fn text(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text)?;
    Ok(text)
}

/// A load by the name of its file without endings.
pub fn trace(folder: &Path, name: &str) -> Result<Trace> {
    let beside = folder.join(format!("{name}_resources.csv.gz"));
    let said = |what| anyhow!("{what}");
    let asked = if beside.exists() {
        Some(form::asked(name, &text(&beside)?).map_err(said)?)
    } else {
        None
    };
    form::trace(
        name,
        &text(&folder.join(format!("{name}.csv.gz")))?,
        asked.as_ref(),
    )
    .map_err(said)
}

/// A described cluster.
pub fn cluster(folder: &Path, name: &str) -> Result<Cluster> {
    let path = folder.join("clusters.json");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    form::cluster("clusters.json", name, &text).map_err(|what| anyhow!("{what}"))
}
