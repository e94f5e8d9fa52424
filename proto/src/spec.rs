//! The job spec: what a user asks for. Parsed from TOML or JSON, checked, and turned into canonical JSON whose hash names it.
//! Knows no cluster: whether anything could ever run it is the scheduler's question.
mod after;
mod array;
mod checkpoint;
mod class;
mod command;
mod cpu_bind;
mod disconnect;
mod edit;
mod elastic;
mod gpus;
mod keep;
mod moment;
mod parse;
mod place;
mod ranges;
mod remote;
mod resources;
mod retry;
mod time;
mod when;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use after::{After, AfterKind};
pub use array::ArraySpec;
pub use checkpoint::{Bandwidth, CheckpointSpec, Tier};
pub use class::Class;
pub use command::{Argv, CommandError};
pub use cpu_bind::CpuBind;
pub use disconnect::OnDisconnect;
pub use edit::Edit;
pub use elastic::{Elastic, Grow};
pub use gpus::{GpuKind, Mig, Share};
pub use keep::{KeepBest, KeepEvery};
pub use moment::Moment;
pub use parse::{SpecError, parse_json, parse_toml};
pub use place::{Near, Prefer};
pub use ranges::{Ranges, RangesError};
pub use remote::{StoreAddress, StoreService};
pub use resources::Bytes;
pub use retry::{Cause, RetrySpec};
pub use time::Time;

use crate::limits;

/// How the ranks of a job are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum LaunchMethod {
    /// `command` once per rank; `ranks` default 1.
    #[default]
    Exec,
    /// `command` once per rank with `env://` variables; `ranks` default max(1, gpus), one device each.
    Python,
    /// One `python -m torch.distributed.run` per node, which starts the ranks.
    Torchrun,
    /// One `mpirun` on the first node, which starts the ranks of all of them; no ssh.
    Mpi,
    /// `command` once per rank with what `jax.distributed` reads; `ranks` default max(1, gpus), one device each.
    Jax,
}

impl LaunchMethod {
    /// Its word in a spec.
    pub fn word(self) -> &'static str {
        let found = Self::ALL.into_iter().find(|(method, _)| *method == self);
        found.map_or("", |(_, word)| word)
    }

    /// Whether each rank sees its own part of the node's devices, and not all of them.
    pub fn shares_devices(self) -> bool {
        matches!(self, Self::Python | Self::Jax)
    }

    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Exec, "exec"),
        (Self::Python, "python"),
        (Self::Torchrun, "torchrun"),
        (Self::Mpi, "mpi"),
        (Self::Jax, "jax"),
    ];
}

/// A system whose variables ranks find beside ours, so that what detects it detects a gang of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// `SLURM_*`, as `srun` sets them: a bare `jax.distributed.initialize()`, Lightning and submitit look at these.
    Slurm,
}

/// How `mpirun` is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MpiSpec {
    /// The program, looked up in the job's `PATH`; where several are installed, such as `mpiexec.mpich`.
    #[serde(default = "mpirun")]
    pub mpirun: String,
    /// Options for it, before the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

impl Default for MpiSpec {
    fn default() -> Self {
        Self {
            mpirun: mpirun(),
            args: Vec::new(),
        }
    }
}

fn mpirun() -> String {
    "mpirun".into()
}

/// What a user asks for. Counts are per job (`nodes`) or per node (`gpus`, `ranks`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// For people; default: the first word of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Distinct machines, 1 to [`limits::GANG_NODES_MAX`]; of an elastic gang the fewest.
    #[serde(default = "one")]
    pub nodes: u32,
    /// GPUs per node, 0 to [`limits::GPUS_PER_NODE_MAX`]: whole ones, the one that is shared, or MIG instances.
    #[serde(default)]
    pub gpus: u32,
    /// Acceptable GPU types in order of preference, `NAME[:MEM]`, see [`GpuKind`]; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu: Vec<String>,
    /// Ranks per node; the default is the launch method's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<u32>,
    /// How ranks are started.
    #[serde(default)]
    pub launcher: LaunchMethod,
    /// What runs. Never given to a shell.
    pub command: Argv,
    /// Variables for every rank.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The directory to upload, relative to the spec; empty string: no code. Read by the client alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Checkpoints, if the job makes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointSpec>,
    /// How `mpirun` is called; only with the launcher `mpi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpi: Option<MpiSpec>,
    /// Variables of another system beside ours; only with launchers that start each rank themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<Compat>,
    /// What becomes of it when its node falls silent.
    #[serde(default, skip_serializing_if = "OnDisconnect::is_default")]
    pub on_disconnect: OnDisconnect,
    /// Many tasks of one command under one job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArraySpec>,
    /// Logical processors per rank; absent: as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// On which processors ranks with devices run.
    #[serde(default, skip_serializing_if = "CpuBind::is_default")]
    pub cpu_bind: CpuBind,
    /// Memory per rank; absent: as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem: Option<Bytes>,
    /// `/dev/shm` per rank, of the node's part's own; it counts as memory too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm: Option<Bytes>,
    /// How long one attempt may run; absent: as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// How often it starts again by itself, and after which ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// How urgent it is.
    #[serde(default, skip_serializing_if = "Class::is_default")]
    pub class: Class,
    /// For which team it runs; absent: its owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The part of its one GPU that it takes; absent: whole GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// Its GPUs are MIG instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// Space on the node's disk per rank; absent: as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// What else is counted, and how many the whole job takes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub licenses: BTreeMap<String, u32>,
    /// Acceptable pools in order of preference; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
    /// Labels that each of its nodes must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,
    /// Ranks of one gang may have GPUs of different types.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mix: bool,
    /// How near its nodes have to be; absent: as near as it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near: Option<Near>,
    /// What comes first when the first type has no room within the team's own.
    #[serde(default, skip_serializing_if = "Prefer::is_default")]
    pub prefer: Prefer,
    /// On how many nodes it may run; absent: on `nodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<Elastic>,
    /// Whether it is moved to more nodes while it runs.
    #[serde(default, skip_serializing_if = "Grow::is_default")]
    pub grow: Grow,
    /// Others may have its devices at any time.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preemptible: bool,
    /// For so long an attempt keeps its devices, whoever wants them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_runtime: Option<Time>,
    /// Between the notice that others get its devices and its end; absent: what its class has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Time>,
    /// How long all attempts together may run; absent: as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_time: Option<Time>,
    /// It does not start before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<Moment>,
    /// It is dropped if it did not start by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Moment>,
    /// It is ended if it is not over by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_by: Option<Moment>,
    /// Jobs of which something has to become first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// It waits until somebody releases it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hold: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn one() -> u32 {
    1
}

impl JobSpec {
    /// A spec of one command with every default.
    pub fn new(command: Vec<String>) -> Self {
        Self {
            name: None,
            nodes: 1,
            gpus: 0,
            gpu: Vec::new(),
            ranks: None,
            launcher: LaunchMethod::Exec,
            command: Argv(command),
            env: BTreeMap::new(),
            code: None,
            checkpoint: None,
            mpi: None,
            compat: None,
            on_disconnect: OnDisconnect::Replace,
            array: None,
            cpus: None,
            cpu_bind: CpuBind::Near,
            mem: None,
            shm: None,
            time: None,
            retry: None,
            class: Class::Normal,
            team: None,
            share: None,
            mig: None,
            disk: None,
            licenses: BTreeMap::new(),
            pools: Vec::new(),
            node_labels: BTreeMap::new(),
            mix: false,
            near: None,
            prefer: Prefer::Type,
            elastic: None,
            grow: Grow::Never,
            preemptible: false,
            min_runtime: None,
            grace: None,
            total_time: None,
            begin: None,
            start_by: None,
            end_by: None,
            after: Vec::new(),
            hold: false,
        }
    }

    /// Ranks on each node, after the launch method's default.
    pub fn ranks_per_node(&self) -> u32 {
        let default = match self.launcher {
            LaunchMethod::Exec => 1,
            LaunchMethod::Python
            | LaunchMethod::Torchrun
            | LaunchMethod::Mpi
            | LaunchMethod::Jax => self.gpus.max(1),
        };
        self.ranks.unwrap_or(default)
    }

    /// Ranks of the whole gang. Fits `u32` for every spec that [`JobSpec::check`] accepts.
    pub fn world_size(&self) -> u32 {
        self.nodes.saturating_mul(self.ranks_per_node())
    }

    /// The name that listings show.
    pub fn display_name(&self) -> String {
        let first = self.command.0.first().map(String::as_str).unwrap_or("job");
        let base = first
            .rsplit('/')
            .find(|part| !part.is_empty())
            .unwrap_or("job");
        self.name.clone().unwrap_or_else(|| crate::ids::clip(base))
    }

    /// The one JSON text of this spec: keys in field order, maps sorted, defaults as set.
    pub fn canonical_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a spec is made of strings, integers and sorted maps")
    }

    /// BLAKE3 of the canonical JSON: specs are stored once under it.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.canonical_json()).as_bytes()
    }

    /// Checks everything that can be checked without a cluster. The first fault is reported.
    pub fn check(&self) -> Result<(), SpecError> {
        let wrong = |key: &str, why: String| {
            Err(SpecError::Value {
                key: key.into(),
                why,
            })
        };
        range("nodes", self.nodes, 1, limits::GANG_NODES_MAX)?;
        range("gpus", self.gpus, 0, limits::GPUS_PER_NODE_MAX)?;
        range(
            "ranks",
            self.ranks_per_node(),
            1,
            limits::RANKS_PER_NODE_MAX,
        )?;
        if self.world_size() > limits::GANG_RANKS_MAX {
            return wrong(
                "ranks",
                format!(
                    "{} ranks in all; at most {}",
                    self.world_size(),
                    limits::GANG_RANKS_MAX
                ),
            );
        }
        let (ranks, gpus) = (self.ranks_per_node(), self.gpus);
        if self.launcher.shares_devices() && gpus > 0 && ranks > gpus {
            let method = self.launcher.word();
            return wrong(
                "ranks",
                format!(
                    "{ranks} ranks share {gpus} GPUs; launcher `{method}` gives each rank one device: ask for more `gpus`"
                ),
            );
        }
        self.command.check()?;
        self.check_launcher()?;
        array::check(self)?;
        gpus::check(self)?;
        elastic::check(self)?;
        place::check(self)?;
        when::check(self)?;
        after::check(self)?;
        self.check_resources()?;
        self.check_texts()?;
        self.retry.as_ref().map_or(Ok(()), RetrySpec::check)?;
        if self.canonical_json().len() > limits::SPEC_BYTES_MAX {
            return Err(SpecError::TooLong {
                bytes: self.canonical_json().len(),
            });
        }
        Ok(())
    }

    /// What belongs to one launch method and stands beside another.
    fn check_launcher(&self) -> Result<(), SpecError> {
        let wrong = |key: &str, why: &str| {
            Err(SpecError::Value {
                key: key.into(),
                why: why.into(),
            })
        };
        if let Some(mpi) = &self.mpi {
            if self.launcher != LaunchMethod::Mpi {
                return wrong("mpi", "needs `launcher = \"mpi\"`");
            }
            let words = [&mpi.mpirun].into_iter().chain(&mpi.args);
            if mpi.mpirun.is_empty() || words.clone().any(|word| word.contains('\0')) {
                return wrong("mpi", "names no program, or a NUL byte is in it");
            }
            if mpi.args.len() > limits::ARGV_MAX {
                return wrong("mpi.args", "has more than 4096 words");
            }
        }
        let ours = matches!(
            self.launcher,
            LaunchMethod::Exec | LaunchMethod::Python | LaunchMethod::Jax
        );
        if self.compat.is_some() && !ours {
            return wrong(
                "compat",
                "would make torchrun's and mpirun's own start-up look for Slurm: use the launcher exec, python or jax",
            );
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), SpecError> {
        let wrong = |key: &str, why: &str| {
            Err(SpecError::Value {
                key: key.into(),
                why: why.into(),
            })
        };
        if let Some(name) = &self.name {
            let control = name.chars().any(char::is_control);
            if name.is_empty() || name.len() > limits::JOB_NAME_BYTES_MAX || control {
                return wrong("name", "use 1 to 128 bytes without control characters");
            }
        }
        if self
            .gpu
            .iter()
            .any(|kind| kind.is_empty() || kind.len() > limits::NAME_BYTES_MAX)
        {
            return wrong(
                "gpu",
                "each type needs a name of 1 to 63 bytes, such as `H100`",
            );
        }
        if !self.gpu.is_empty() && self.gpus == 0 {
            return wrong("gpu", "names a GPU type, but `gpus` is 0: set `gpus`");
        }
        if self.env.len() > limits::ENV_MAX {
            return wrong("env", "has more than 1024 variables");
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return wrong(
                    "env",
                    "a variable's name is empty or holds `=`, or a NUL byte is in it",
                );
            }
            if key.starts_with("MLCTL_") {
                return wrong("env", "variables that begin with `MLCTL_` are set by mlctl");
            }
        }
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.check()?;
            if checkpoint.shared && self.on_disconnect == OnDisconnect::Replace {
                return wrong(
                    "on_disconnect",
                    "must be \"fence\" or \"hold\" with `checkpoint.shared`: an attempt that is only cut off would write beside the one that takes its place",
                );
            }
        }
        Ok(())
    }
}

fn range(key: &str, value: u32, least: u32, most: u32) -> Result<(), SpecError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(SpecError::Value {
        key: key.into(),
        why: format!("is {value}; use {least} to {most}"),
    })
}

/// A relative path that stays inside: no root, no `..`, no NUL.
fn check_inside(key: &str, path: &str) -> Result<(), SpecError> {
    let escapes = path.split('/').any(|part| part == "..");
    if path.is_empty()
        || path.starts_with('/')
        || path.contains('\0')
        || escapes
        || path.len() > 1024
    {
        let why = "must be a relative path inside the working directory, without `..`".into();
        return Err(SpecError::Value {
            key: key.into(),
            why,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
