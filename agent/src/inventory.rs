//! What this node is: the facts of every hello, and where its devices and processors are. Read once at start.
//! Does NOT watch for changes; a changed fact is seen when the agent starts again.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use mlctl_proto::persist::{Addresses, Isolation, NodeFacts};
use mlctl_proto::{CAPABILITIES, VERSION};

use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::devices::probe::probe;
use crate::devices::topology;
use crate::dirs::Dirs;
use crate::launch::cpus::Topology;
use crate::launcher::client::{self as launcher, LauncherError};
use crate::launcher::protocol::Level;

/// A fact that cannot be found out although nothing works without it.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the boot id from {path}: {source}; set `boot_id_file`")]
pub struct NoBootId {
    path: String,
    source: io::Error,
}

/// What a node is.
#[derive(Debug)]
pub struct Inventory {
    /// What the cluster is told.
    pub facts: NodeFacts,
    /// What launch plans are made from.
    pub topology: Topology,
}

/// Takes the inventory.
///
/// # Errors
/// When one boot cannot be told from another: then loss could not be proven.
pub async fn inventory(config: &Config) -> Result<Inventory, NoBootId> {
    let (isolation, missing) = isolation(&Dirs::new(&config.data_dir)).await;
    let mut probe = probe(&config.name, &config.nvml_path, config.simulated_gpus);
    let status = Path::new(topology::STATUS);
    let topology = topology::read(&config.sysfs_path, status, &mut probe.devices);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut labels = config.labels.clone();
    if let Some(kernel) = one_line(Path::new("/proc/sys/kernel/osrelease")) {
        labels.entry("kernel".into()).or_insert(kernel);
    }
    let facts = NodeFacts {
        name: config.name.clone(),
        boot_id: boot_id(&config.boot_id_file)?,
        machine_id: one_line(Path::new("/etc/machine-id")).unwrap_or_default(),
        addresses: Some(Addresses {
            rank: config.rank_address.clone(),
            data: config.data_address().to_owned(),
            network: config.network.clone(),
        }),
        pool: config.pool.clone(),
        devices: probe.devices,
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        labels,
        version: VERSION.into(),
        capabilities: CAPABILITIES
            .iter()
            .map(|capability| (*capability).into())
            .collect(),
        isolation: isolation.into(),
        isolation_missing: missing,
        device_errors: probe.errors,
    };
    Ok(Inventory { facts, topology })
}

/// What the launcher says, which may just be starting. The longest a start of the agent waits for it.
const LAUNCHER_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries.
const LAUNCHER_PAUSE: Duration = Duration::from_millis(20);

/// How well attempts are kept apart, and what is missing: the launcher knows, since it is the one that may do something about it.
async fn isolation(dirs: &Dirs) -> (Isolation, Vec<String>) {
    let end = Instant::now() + LAUNCHER_PATIENCE;
    loop {
        match launcher::isolation(&dirs.launcher_socket()).await {
            Ok((level, missing)) => {
                let level = match level {
                    Level::None => Isolation::None,
                    Level::Partial => Isolation::Partial,
                    Level::Full => Isolation::Full,
                };
                return (level, missing);
            }
            Err(LauncherError::Unreachable { .. }) if Instant::now() < end => {
                sleep(LAUNCHER_PAUSE).await
            }
            Err(error) => {
                let why = format!("the launcher did not say how it keeps jobs apart: {error}");
                return (Isolation::None, vec![why]);
            }
        }
    }
}

fn boot_id(path: &Path) -> Result<String, NoBootId> {
    let failed = |source| NoBootId {
        path: path.display().to_string(),
        source,
    };
    let text = fs::read_to_string(path).map_err(failed)?;
    let id: String = text.trim().chars().take(64).collect();
    if id.is_empty() || id.chars().any(|c| c.is_control()) {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "it holds no id",
        )));
    }
    Ok(id)
}

fn one_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty() && line.len() <= 128).then(|| line.to_owned())
}

/// `MemTotal` of /proc/meminfo, 0 if it is not there.
fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_or_zero() {
        for (text, want) in [
            (
                "MemTotal:       24000000 kB\nMemFree: 1 kB\n",
                24_576_000_000,
            ),
            ("MemTotal: x kB", 0),
            ("", 0),
            ("MemTotal: 5 MB", 0),
        ] {
            assert_eq!(memory_bytes(text), want, "{text}");
        }
    }

    #[test]
    fn a_boot_without_an_id_is_an_error_that_says_what_to_set() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("boot");
        for content in [None, Some("\n"), Some("a\u{1}b")] {
            if let Some(content) = content {
                fs::write(&path, content).expect("written");
            }
            let error = boot_id(&path).expect_err("no id").to_string();
            assert!(error.contains("boot_id_file"), "{error}");
        }
        fs::write(&path, "b-1\n").expect("written");
        assert_eq!(boot_id(&path).expect("there"), "b-1");
    }
}
