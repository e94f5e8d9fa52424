//! The configuration of one coordinator: who it is, where it listens, and every member of the cluster.
//!
//! Only read and checked here. What the cluster agrees on (timers after the first start, settings) is replicated
//! state, not configuration: `timers` and `dev` matter for the very first start of a cluster alone.
use std::path::{Path, PathBuf};

use mlctl_proto::ids::check_name;
use mlctl_runtime::config::{ConfigError, load_toml};
use serde::Deserialize;

use crate::state::records::{Retention, Timers};
use crate::vitals::space::Limits;

const MIB: u64 = 1 << 20;

/// What `coordinator.toml` holds, and what the command line adds to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This member's name, as in its certificate.
    pub name: String,
    /// Where everything that outlives the process is kept.
    pub data_dir: PathBuf,
    /// A directory with `cert.pem`, `key.pem` and `ca.pem`.
    pub identity: PathBuf,
    /// `host:port` to listen on, for people, agents and other coordinators alike.
    pub listen: String,
    /// For people.
    pub cluster_name: String,
    /// A throw-away cluster with short timers that allows root jobs.
    #[serde(default)]
    pub dev: bool,
    /// Changes to the timers of the first start.
    #[serde(default)]
    pub timers: TimersConfig,
    /// How long the first start's cluster keeps jobs that are over in memory.
    #[serde(default)]
    pub history: HistoryConfig,
    /// Every member, this one included.
    pub members: Vec<Member>,
    /// What it wants of its disk.
    #[serde(default)]
    pub disk: DiskConfig,
    /// Where traces go.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// From the command line: this is the first start of a new member in an empty data directory.
    #[serde(skip)]
    pub bootstrap: bool,
    /// From the command line: if the data directory cannot vote any more, set it aside and join under a new id.
    #[serde(skip)]
    pub rejoin: bool,
}

/// A voting member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// As in its certificate.
    pub name: String,
    /// Its id at the founding of the cluster: random, never 0, never used again. A member that joins again draws another
    /// one, which stands in its data directory and in the log; nobody changes it here.
    pub id: u64,
    /// `host:port` by which agents, people and other members reach it.
    pub address: String,
}

/// Timers that differ from the defaults, milliseconds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimersConfig {
    /// Between two heartbeats of an agent.
    pub heartbeat_ms: Option<u32>,
    /// Silence after which a node is Unreachable.
    pub node_timeout_ms: Option<u32>,
    /// Silence after which a node is Lost.
    pub lost_after_ms: Option<u32>,
    /// When a keeper kills its ranks after the last confirmed lease.
    pub fence_after_ms: Option<u32>,
    /// Between TERM and KILL of a fence.
    pub kill_grace_ms: Option<u32>,
}

/// What of history differs from the defaults.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryConfig {
    /// Jobs that are over and stay in memory.
    pub keep_finished: Option<u32>,
    /// For so many days at most.
    pub keep_finished_days: Option<u32>,
    /// A file of history is about this long, bytes.
    pub segment_bytes: Option<u32>,
}

/// What a coordinator wants of the disk under its data directory, MiB.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Allocated ahead, and given up when the disk is nearly full; 0: none.
    pub reserve_mib: Option<u64>,
    /// With less free space than this no new jobs are taken.
    pub mark_mib: Option<u64>,
    /// Logs of attempts that are over are removed, the oldest first, beyond so much.
    pub logs_mib: Option<u64>,
}

impl DiskConfig {
    /// How many bytes of logs are kept.
    pub fn logs_bytes_max(&self) -> u64 {
        self.logs_mib.unwrap_or(10 << 10).saturating_mul(MIB)
    }

    /// In bytes, for a file system of `total` bytes. A dev cluster is content with little: it lies on somebody's laptop.
    pub fn limits(&self, dev: bool, total: u64) -> Limits {
        let reserve_mib = self.reserve_mib.unwrap_or(if dev { 16 } else { 256 });
        let reserve = reserve_mib.saturating_mul(MIB);
        let share = if dev { 0 } else { total / 20 };
        let mark = match self.mark_mib {
            Some(mark_mib) => mark_mib.saturating_mul(MIB),
            None => share.max(reserve.saturating_mul(2)),
        };
        Limits { reserve, mark }
    }
}

/// Where traces go.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// An OTLP collector over gRPC, such as `http://127.0.0.1:4317`.
    pub otlp: Option<String>,
}

/// A configuration that no coordinator can run with.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// The file cannot be read or is not such a file.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// Its content makes no sense.
    #[error("coordinator configuration: {0}")]
    Content(String),
}

impl Config {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// With the path and line, or with what makes no sense and what to write instead.
    pub fn load(path: &Path, bootstrap: bool) -> Result<Self, BadConfig> {
        let mut config: Self = load_toml(path)?;
        config.bootstrap = bootstrap;
        config.check()?;
        Ok(config)
    }

    /// Checks what does not need the disk.
    ///
    /// # Errors
    /// With what makes no sense and what to write instead.
    pub fn check(&self) -> Result<(), BadConfig> {
        let wrong = |why: String| Err(BadConfig::Content(why));
        let count = self.members.len();
        if self.rejoin && self.bootstrap {
            return wrong(
                "--bootstrap creates a cluster and --rejoin joins one; leave one out".into(),
            );
        }
        if self.rejoin && count == 1 {
            return wrong(
                "--rejoin: this cluster has one member, so nobody else holds its data and nobody can let it in; repair or restore its data directory".into(),
            );
        }
        if ![1, 3, 5].contains(&count) {
            return wrong(format!("`members` lists {count}; a cluster has 1, 3 or 5"));
        }
        let mut ids: Vec<u64> = self.members.iter().map(|member| member.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != count || ids.contains(&0) {
            return wrong("`members`: each needs its own `id`, which is not 0".into());
        }
        for member in &self.members {
            if let Err(error) = check_name(&member.name) {
                return wrong(format!("`members`: {error}"));
            }
            if member
                .address
                .rsplit_once(':')
                .is_none_or(|(_, port)| port.parse::<u16>().is_err())
            {
                let address = &member.address;
                return wrong(format!("`members`: `{address}` is not `host:port`"));
            }
            let same = self
                .members
                .iter()
                .filter(|other| other.name == member.name);
            if same.count() > 1 {
                return wrong(format!("`members` lists `{}` twice", member.name));
            }
        }
        if !self.members.iter().any(|member| member.name == self.name) {
            return wrong(format!(
                "`members` does not list this coordinator, `{}`",
                self.name
            ));
        }
        if self.cluster_name.is_empty() || self.cluster_name.len() > 63 {
            return wrong("`cluster_name` needs 1 to 63 bytes".into());
        }
        self.check_timers()?;
        self.check_history()
    }

    fn check_history(&self) -> Result<(), BadConfig> {
        let wrong = |why: &str| Err(BadConfig::Content(format!("`[history]` {why}")));
        let HistoryConfig {
            keep_finished,
            keep_finished_days,
            segment_bytes,
        } = self.history;
        if keep_finished == Some(0) || keep_finished_days == Some(0) {
            return wrong("keep at least one finished job, for at least one day");
        }
        if segment_bytes.is_some_and(|bytes| !Retention::SEGMENT_BYTES_RANGE.contains(&bytes)) {
            return wrong("`segment_bytes` needs 4096 to 67108864");
        }
        Ok(())
    }

    fn check_timers(&self) -> Result<(), BadConfig> {
        let timers = self.timers();
        let wrong = |why: &str| Err(BadConfig::Content(format!("`[timers]` {why}")));
        if timers.heartbeat_ms < 50
            || timers.node_timeout_ms < timers.heartbeat_ms.saturating_mul(3)
        {
            return wrong("`heartbeat_ms` needs at least 50, `node_timeout_ms` three heartbeats");
        }
        if timers.lost_after_ms < timers.node_timeout_ms {
            return wrong("`lost_after_ms` must not be shorter than `node_timeout_ms`");
        }
        if !timers.fence_is_safe() {
            return wrong(
                "let a fenced job outlive its node's loss: (fence_after_ms + kill_grace_ms) * 1.1 must stay below lost_after_ms",
            );
        }
        Ok(())
    }

    /// The timers that a first start gives the cluster.
    pub fn timers(&self) -> Timers {
        let base = if self.dev {
            Timers::DEV
        } else {
            Timers::PRODUCTION
        };
        let own = &self.timers;
        Timers {
            heartbeat_ms: own.heartbeat_ms.unwrap_or(base.heartbeat_ms),
            node_timeout_ms: own.node_timeout_ms.unwrap_or(base.node_timeout_ms),
            lost_after_ms: own.lost_after_ms.unwrap_or(base.lost_after_ms),
            fence_after_ms: own.fence_after_ms.unwrap_or(base.fence_after_ms),
            kill_grace_ms: own.kill_grace_ms.unwrap_or(base.kill_grace_ms),
        }
    }

    /// What a first start gives the cluster: 0 where the default holds.
    pub fn retention(&self) -> Retention {
        let own = &self.history;
        Retention {
            keep_finished: own.keep_finished.unwrap_or(0),
            keep_finished_days: own.keep_finished_days.unwrap_or(0),
            segment_bytes: own.segment_bytes.unwrap_or(0),
        }
    }

    /// Where consensus keeps its log.
    pub fn raft_dir(&self) -> PathBuf {
        self.data_dir.join("raft")
    }

    /// This coordinator among the members.
    pub fn own(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.name == self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "c1"
data_dir = "/var/lib/mlctl"
identity = "/etc/mlctl/identity"
listen = "127.0.0.1:7070"
cluster_name = "lab"
[[members]]
name = "c1"
id = 11
address = "127.0.0.1:7070"
"#;

    fn check(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, text).expect("written");
        Config::load(&path, false).map_err(|error| error.to_string())
    }

    #[test]
    fn a_good_file_is_read() {
        let config = check(GOOD).expect("good");
        assert_eq!(config.own().map(|member| member.id), Some(11));
        assert_eq!(config.timers(), Timers::PRODUCTION);
        let dev = check(&GOOD.replace("[[members]]", "dev = true\n[[members]]")).expect("good");
        assert_eq!(dev.timers(), Timers::DEV);
    }

    #[test]
    fn bad_files_are_refused_with_what_is_wrong() {
        let two =
            format!("{GOOD}[[members]]\nname = \"c2\"\nid = 12\naddress = \"127.0.0.2:7070\"\n");
        for (text, needle) in [
            (GOOD.replace("id = 11", "id = 0"), "not 0"),
            (two.clone(), "1, 3 or 5"),
            (
                GOOD.replace("name = \"c1\"\ndata", "name = \"c9\"\ndata"),
                "does not list",
            ),
            (
                GOOD.replace("cluster_name", "colour = 1\ncluster_name"),
                "colour",
            ),
            (
                GOOD.replace(
                    "id = 11\naddress = \"127.0.0.1:7070\"",
                    "id = 11\naddress = \"nowhere\"",
                ),
                "host:port",
            ),
            (
                format!("{GOOD}[timers]\nfence_after_ms = 299000\n"),
                "fence",
            ),
            (
                format!("{GOOD}[timers]\nheartbeat_ms = 20000\n"),
                "heartbeat",
            ),
            (
                format!("{GOOD}[history]\nkeep_finished = 0\n"),
                "at least one",
            ),
            (
                format!("{GOOD}[history]\nsegment_bytes = 9\n"),
                "segment_bytes",
            ),
            (
                format!("{GOOD}[timers]\nlost_after_ms = 20\n"),
                "lost_after",
            ),
            (
                GOOD.replace("cluster_name = \"lab\"", "cluster_name = \"\""),
                "cluster_name",
            ),
        ] {
            let error = check(&text).expect_err(needle);
            assert!(error.contains(needle), "wanted {needle}: {error}");
        }
    }
}
