//! Opens recorded loads (`NAME.csv.gz`, with `NAME_resources.csv.gz` beside it) and described clusters (`clusters.json#NAME`). Does NOT know their forms.
use std::io::Read;
use std::path::{Path, PathBuf};

use mlctl_coordinator::simulation::cluster::Cluster;
use mlctl_coordinator::simulation::{Trace, form};

/// A file's bytes, unpacked, at most.
const BYTES_MAX: u64 = 1 << 30;

/// The load in a file.
pub fn trace(path: &Path) -> Result<Trace, String> {
    let name = path.display().to_string();
    let load = text(path)?;
    let asked = match beside(path) {
        Some(beside) => Some(form::asked(&beside.display().to_string(), &text(&beside)?)?),
        None => None,
    };
    form::trace(&name, &load, asked.as_ref())
}

/// A file's text, unpacked if its name ends in `.gz`.
fn text(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| {
        format!(
            "cannot read {}: {error}. Is it the file that you mean, and whole?",
            path.display()
        )
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    let packed = path.extension().is_some_and(|end| end == "gz");
    let read = if packed {
        flate2::read::MultiGzDecoder::new(file)
            .take(BYTES_MAX)
            .read_to_end(&mut bytes)
    } else {
        file.take(BYTES_MAX).read_to_end(&mut bytes)
    };
    read.map_err(cannot)?;
    if bytes.len() as u64 >= BYTES_MAX {
        return Err(format!(
            "{} has more than {BYTES_MAX} bytes: give a part of it",
            path.display()
        ));
    }
    String::from_utf8(bytes).map_err(|_| {
        format!(
            "{} is no text: a trace is CSV in UTF-8, or that in .gz",
            path.display()
        )
    })
}

/// The file beside a trace that says what its jobs ask for beside GPUs.
fn beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let end = [".csv.gz", ".csv"]
        .into_iter()
        .find(|end| name.ends_with(end))?;
    let stem = name.strip_suffix(end)?;
    let beside = path.with_file_name(format!("{stem}_resources{end}"));
    beside.exists().then_some(beside)
}

/// The cluster that `FILE#NAME` describes.
pub fn cluster(named: &str) -> Result<Cluster, String> {
    let Some((path, name)) = named.rsplit_once('#') else {
        return Err(format!(
            "`{named}` names no cluster: write FILE#NAME, as in clusters.json#philly-64x8"
        ));
    };
    form::cluster(path, name, &text(Path::new(path))?)
}
