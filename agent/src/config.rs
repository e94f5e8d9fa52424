//! The agent's configuration: one TOML file, shared with the launcher of the same node.
//! Unknown keys are errors. What the cluster decides (timers, policies) is NOT here: it comes from the leader.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlctl_proto::ids::{IdError, check_name};
use mlctl_proto::limits::GPUS_PER_NODE_MAX;
use mlctl_runtime::config::load_toml;
use serde::Deserialize;

use crate::users::{Mode, Users};

/// Where Linux tells one boot from another.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Python with a few threads needs more than a handful.
pub(crate) const PIDS_LEAST: u64 = 64;
/// And the most that nobody asked for.
pub(crate) const PIDS_MOST: u64 = 32_768;

/// What an agent is told at start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name, as its certificate says.
    pub name: String,
    /// Everything the agent keeps: journal, jobs, blobs, sockets.
    pub data_dir: PathBuf,
    /// Folder of `cert.pem`, `key.pem`, `ca.pem`.
    pub identity: PathBuf,
    /// Coordinators as `host:port`; later ones are learned from the leader.
    pub coordinators: Vec<String>,
    /// Where ranks of other nodes reach this one: host or IP.
    pub rank_address: String,
    /// Where checkpoints and probes reach it. Default: `rank_address`.
    #[serde(default)]
    pub data_address: String,
    /// The port, of UDP and TCP alike, on which checkpoints come and go there; 0: any that is free.
    #[serde(default)]
    pub data_port: u16,
    /// What copies of checkpoints may take of the disk, GiB. Default: what there is.
    #[serde(default)]
    pub copies_gib: Option<u64>,
    /// Directories below which checkpoints of jobs may be uploaded (`file://`) where jobs run as other users: the agent writes there with its own
    /// rights. Default: none.
    #[serde(default)]
    pub upload_dirs: Vec<PathBuf>,
    /// A tmpfs for checkpoints of jobs with `tier = "ram"`. Default: `/dev/shm`, for jobs that have none of their own.
    #[serde(default)]
    pub ram_dir: Option<PathBuf>,
    /// Nodes of one network reach each other. Default: the pool.
    #[serde(default)]
    pub network: String,
    /// The pool that the node belongs to.
    #[serde(default = "default_pool")]
    pub pool: String,
    /// Free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What tells one boot from another.
    #[serde(default = "default_boot_id_file")]
    pub boot_id_file: PathBuf,
    /// Devices to pretend, shown as SIM everywhere; only where no driver is.
    #[serde(default)]
    pub simulated_gpus: u32,
    /// The user that jobs run as; empty: the agent's own.
    #[serde(default)]
    pub job_user: String,
    /// Which user of the node belongs to whom; beside it `job_user` counts for nothing.
    #[serde(default)]
    pub users: Users,
    /// Ranks have a `/tmp` and a `/dev/shm` of their own. Default: where they do not run as the agent's own user.
    #[serde(default)]
    pub private_tmp: Option<bool>,
    /// Processes and threads that one attempt may have on this node. Default: half of what the machine can have, and no more than
    /// [`PIDS_MOST`].
    #[serde(default)]
    pub pids_max: Option<u64>,
    /// The NVML library; empty: where the system finds it.
    #[serde(default)]
    pub nvml_path: String,
    /// Where the kernel shows devices and NUMA nodes; another place where the agent runs in a container that has the host's there.
    #[serde(default = "default_sysfs_path")]
    pub sysfs_path: PathBuf,
    /// RDMA devices that jobs may use, such as `mlx5_0`; empty: all.
    #[serde(default)]
    pub rdma_devices: Vec<String>,
    /// Variables for every job on this node, weaker than the job's own: what a fabric needs.
    #[serde(default)]
    pub job_env: BTreeMap<String, String>,
    /// How much of attempts that are over is kept here.
    #[serde(default)]
    pub keep: Keep,
    /// Traces.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// What stays of attempts that are over and whose logs the coordinators have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Their work directories, for so long.
    pub work_hours: u64,
    /// Their logs, the newest ones, MiB.
    pub logs_mib: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            work_hours: 72,
            logs_mib: 10 << 10,
        }
    }
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// OTLP endpoint; absent: no traces are sent.
    #[serde(default)]
    pub otlp: Option<String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or what is in it.
    #[error(transparent)]
    File(#[from] mlctl_runtime::config::ConfigError),
    /// A name.
    #[error("`{key}`: {source}")]
    Name {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: IdError,
    },
    /// A value that cannot be.
    #[error("`{key}` {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong and what to write.
        why: String,
    },
}

fn default_pool() -> String {
    "default".into()
}

fn default_sysfs_path() -> PathBuf {
    "/sys".into()
}

fn default_boot_id_file() -> PathBuf {
    BOOT_ID_FILE.into()
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// With the path and line, or the key, and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config: Self = load_toml(path)?;
        config.check()?;
        Ok(config)
    }

    /// Checks what can be checked without looking at the machine.
    ///
    /// # Errors
    /// The first key that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: &str| {
            Err(ConfigError::Value {
                key,
                why: why.into(),
            })
        };
        check_name(&self.name).map_err(|source| ConfigError::Name {
            key: "name",
            source,
        })?;
        check_name(&self.pool).map_err(|source| ConfigError::Name {
            key: "pool",
            source,
        })?;
        let broken = |(key, value): (&String, &String)| {
            key.is_empty() || key.contains(['=', '\0']) || value.contains('\0')
        };
        if self.job_env.iter().any(broken) {
            return wrong(
                "job_env",
                "has a variable whose name is empty or holds `=`, or a NUL byte",
            );
        }
        if !self.network.is_empty() {
            check_name(&self.network).map_err(|source| ConfigError::Name {
                key: "network",
                source,
            })?;
        }
        self.check_jobs()?;
        if self.data_dir.as_os_str().is_empty() || !self.data_dir.is_absolute() {
            return wrong("data_dir", "must be an absolute path");
        }
        if self.upload_dirs.iter().any(|dir| !dir.is_absolute()) {
            return wrong("upload_dirs", "holds a path that is not absolute");
        }
        if self.ram_dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            return wrong("ram_dir", "must be an absolute path, of a tmpfs");
        }
        if self.coordinators.is_empty() {
            return wrong("coordinators", "is empty: write at least one `host:port`");
        }
        if let Some(bad) = self
            .coordinators
            .iter()
            .find(|address| !is_host_port(address))
        {
            return wrong(
                "coordinators",
                &format!("holds `{}`: write `host:port`", mlctl_proto::ids::clip(bad)),
            );
        }
        if self.rank_address.is_empty() || self.rank_address.contains(char::is_whitespace) {
            return wrong(
                "rank_address",
                "must be a host or an IP that other nodes reach",
            );
        }
        if self.simulated_gpus > GPUS_PER_NODE_MAX {
            return wrong("simulated_gpus", &format!("is above {GPUS_PER_NODE_MAX}"));
        }
        Ok(())
    }

    /// Checks what concerns the processes of jobs.
    fn check_jobs(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: &str| {
            Err(ConfigError::Value {
                key,
                why: why.into(),
            })
        };
        let unnamed = |(owner, user): (&String, &String)| owner.is_empty() || user.is_empty();
        if self.users.map.iter().any(unnamed) {
            return wrong("users.map", "holds an empty name");
        }
        if self.users.mode == Mode::JobUser && !self.users.map.is_empty() {
            return wrong(
                "users.map",
                "counts for nothing beside `mode = \"job_user\"`: write `mode = \"map\"` or `mode = \"owner\"`",
            );
        }
        if self.pids_max.is_some_and(|most| most < PIDS_LEAST) {
            return wrong(
                "pids_max",
                &format!("is below {PIDS_LEAST}: no training would start"),
            );
        }
        Ok(())
    }

    /// Have ranks a `/tmp` of their own?
    pub fn private_tmp(&self) -> bool {
        self.private_tmp.unwrap_or(self.jobs_of_others())
    }

    /// Directories that checkpoints may be uploaded to; `None`: any, for jobs run as the agent's own user and could write there themselves.
    pub fn upload_dirs(&self) -> Option<Vec<PathBuf>> {
        let bounded = self.jobs_of_others() || !self.upload_dirs.is_empty();
        bounded.then(|| self.upload_dirs.clone())
    }

    /// Do jobs run as other users than the agent?
    fn jobs_of_others(&self) -> bool {
        !self.job_user.is_empty() || self.users.apart()
    }

    /// The address for checkpoints and probes.
    pub fn data_address(&self) -> &str {
        if self.data_address.is_empty() {
            &self.rank_address
        } else {
            &self.data_address
        }
    }
}

/// `host:port` with something before the colon and a port behind it.
pub(crate) fn is_host_port(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        let clean = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
        clean && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = 'gpu-1'\ndata_dir = '/var/lib/mlctl'\nidentity = '/etc/mlctl'\n\
        coordinators = ['127.0.0.1:7070']\nrank_address = '127.0.0.11'\n";

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).expect("written");
        Config::load(&path)
    }

    #[test]
    fn defaults_are_filled_in() {
        let config = load(GOOD).expect("good");
        assert_eq!(
            (config.pool.as_str(), config.data_address()),
            ("default", "127.0.0.11")
        );
        assert_eq!(config.boot_id_file, PathBuf::from(BOOT_ID_FILE));
        let more = load(&format!(
            "{GOOD}simulated_gpus = 8\nlabels = {{rack = 'r1'}}\n[telemetry]\notlp = 'http://x'\n"
        ));
        assert_eq!(more.expect("good").simulated_gpus, 8);
    }

    #[test]
    fn an_agent_with_more_rights_than_jobs_uploads_only_where_it_was_told() {
        let dirs = |more: &str| load(&format!("{GOOD}{more}")).expect("good").upload_dirs();
        assert_eq!(dirs(""), None);
        assert_eq!(dirs("job_user = 'ann'"), Some(vec![]));
        assert_eq!(dirs("[users]\nmode = 'owner'"), Some(vec![]));
        let named = dirs("job_user = 'ann'\nupload_dirs = ['/mnt/ckpt']");
        assert_eq!(named, Some(vec!["/mnt/ckpt".into()]));
        assert_eq!(dirs("upload_dirs = ['/a']"), Some(vec!["/a".into()]));
    }

    #[test]
    fn bad_values_name_their_key() {
        for (from, to, word) in [
            ("'gpu-1'", "'GPU 1'", "name"),
            ("'/var/lib/mlctl'", "'relative'", "data_dir"),
            ("['127.0.0.1:7070']", "[]", "coordinators"),
            ("127.0.0.1:7070", "127.0.0.1", "coordinators"),
            ("127.0.0.1:7070", "127.0.0.1:0", "coordinators"),
            ("127.0.0.1:7070", "http://a:1", "coordinators"),
            ("'127.0.0.11'", "''", "rank_address"),
            (
                "rank_address",
                "upload_dirs = ['mnt']\nrank_address",
                "upload_dirs",
            ),
            ("rank_address", "ram_dir = 'shm'\nrank_address", "ram_dir"),
            ("rank_address", "rank_adress", "rank_adress"),
        ] {
            let error = load(&GOOD.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(word), "{to}: {error}");
        }
        let error = load(&format!("{GOOD}simulated_gpus = 65\n"))
            .expect_err("too many")
            .to_string();
        assert!(error.contains("simulated_gpus"), "{error}");
    }
}
