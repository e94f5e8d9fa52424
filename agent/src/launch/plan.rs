//! The launch plan: everything that a keeper needs to run one node's part of an attempt, computed from the spec and the placement.
//!
//! Pure. Looks at no disk, no machine and no clock: whether the program exists is found out by the keeper.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::{LOG_BYTES_PER_RANK_MAX, NOTICE_MS, STOP_GRACE_MS};
use mlctl_proto::spec::{JobSpec, LaunchMethod, Ranges, SpecError};
use serde::{Deserialize, Serialize};

use super::array::{self, ArrayPlan};
use super::cpus::{self, Topology};
use super::environment;
use super::mpi::{self, MpiPlan};
use crate::tasks::Wave;

/// Version of the plan's JSON. A keeper refuses a plan of a version that it does not know.
pub const PLAN_VERSION: u32 = 1;

/// One node of the gang.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Its name.
    pub node: String,
    /// Where its ranks are reached: host or IP.
    pub rank_address: String,
    /// UUIDs of the devices it gives; `SIM-…` for pretended ones.
    pub devices: Vec<String>,
}

/// Programs that a plan may put before a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreters {
    /// Runs `*.py` and torchrun; looked up in the `PATH` of the job.
    pub python: String,
}

impl Default for Interpreters {
    fn default() -> Self {
        Self {
            python: "python3".into(),
        }
    }
}

/// What a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the user asked for.
    pub spec: JobSpec,
    /// The job.
    pub job: JobId,
    /// The attempt's epoch.
    pub epoch: Epoch,
    /// The job's name, for people.
    pub job_name: String,
    /// The owner's name, for people.
    pub owner: String,
    /// This node's name.
    pub node_name: String,
    /// Every node of the gang, in node-rank order.
    pub members: Vec<Member>,
    /// This node's place in `members`.
    pub node_rank: u32,
    /// The tasks of this node, if the job is an array.
    pub wave: Option<Wave>,
    /// What the job keeps over its attempts, absolute.
    pub job_dir: String,
    /// This attempt's directory, absolute: plan, socket, logs.
    pub attempt_dir: String,
    /// Where ranks run, absolute.
    pub work_dir: String,
    /// The job's checkpoints on this node, absolute, if it makes any.
    pub checkpoint_dir: Option<String>,
    /// The checkpoint to resume from, absolute; only where this node holds it.
    pub resume_from: Option<String>,
    /// W3C trace context of the submit; empty: none.
    pub traceparent: String,
    /// `PATH`, `HOME`, `USER`, `LANG` and whatever else a node gives to every job.
    pub base_env: BTreeMap<String, String>,
    /// What the node's owner gives to every job.
    pub node_env: BTreeMap<String, String>,
    /// The interface that carries the route to the peers, if known.
    pub interface: Option<String>,
    /// The network of that interface, `address/bits`, if known.
    pub network: Option<String>,
    /// RDMA ports that can be used, as `device:port`.
    pub rdma: Vec<String>,
    /// Where this node's devices and processors are, as far as it is known.
    pub topology: Topology,
    /// The path of this program, absolute: what launch agents run.
    pub program: String,
    /// The user that ranks run as; `None`: the keeper's own.
    pub user: Option<String>,
    /// An admin allows jobs to run as root.
    pub allow_root: bool,
    /// Programs put before a command.
    pub interpreters: Interpreters,
}

/// One process that the keeper starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankPlan {
    /// `RANK`; of a torchrun process: the first rank that it starts.
    pub rank: u32,
    /// `LOCAL_RANK`.
    pub local_rank: u32,
    /// Program and arguments. Never given to a shell.
    pub argv: Vec<String>,
    /// The whole environment, except what [`with_rendezvous`] adds.
    pub env: BTreeMap<String, String>,
    /// UUIDs of its devices.
    pub devices: Vec<String>,
    /// The processors near them, to which it is bound; empty: to none. Of an array each slot has its own.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    pub cpus: Ranges,
}

/// A file that must be there before the ranks start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedFile {
    /// Absolute.
    pub path: String,
    /// What is in it.
    pub text: String,
    /// It is a program.
    pub executable: bool,
}

/// One node's part of an attempt: what is written to `plan.json` and what a dry run prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The job, as it prints.
    pub job: String,
    /// The attempt's epoch, as it prints.
    pub epoch: String,
    /// This node's place in the gang.
    pub node_rank: u32,
    /// How the ranks are started.
    pub method: LaunchMethod,
    /// The processes of this node.
    pub ranks: Vec<RankPlan>,
    /// Where they run.
    pub work_dir: String,
    /// Where their output goes, `rank-N.log` each.
    pub logs_dir: String,
    /// Between TERM and KILL when a rank fails, milliseconds.
    pub grace_ms: u32,
    /// Bytes of log kept per rank.
    pub log_cap_bytes: u64,
    /// The user that ranks run as; `None`: the keeper's own.
    pub user: Option<String>,
    /// An admin allows jobs to run as root.
    pub allow_root: bool,
    /// Files beside the plan, in the attempt's directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PlannedFile>,
    /// What launch agents of `mpirun` need; only with that method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpi: Option<MpiPlan>,
    /// The tasks of an array: each is the only rank of `ranks` with an index of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ArrayPlan>,
    /// When the keeper ends the ranks by itself; only with `on_disconnect = "fence"`. A keeper that knows no fences refuses the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<FencePlan>,
    /// When the keeper ends the ranks because their time is over. A keeper that knows no limits refuses the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitPlan>,
    /// The job's owner, where the node's users depend on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// What all processes of this node may use together, where the job asks for bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    /// Bytes of a `/dev/shm` of their own, where the job asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
}

/// A fence: what the cluster's timers say of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FencePlan {
    /// So long after the last confirmed heartbeat was sent the ranks get TERM, milliseconds.
    pub after_ms: u32,
    /// So long after that they get KILL, milliseconds.
    pub grace_ms: u32,
}

/// The file in an attempt's directory that says, once it is known, when the ranks are to end.
pub const DEADLINE: &str = "deadline.json";
/// The socket in an attempt's directory on which ranks say that a checkpoint is complete.
pub const NOTIFY: &str = "notify";

/// A time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitPlan {
    /// So long the ranks may run, milliseconds.
    pub time_ms: u64,
    /// So long before that they get TERM, milliseconds.
    pub notice_ms: u64,
}

/// What the processes of one attempt on one node may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// Bytes of memory, also of shared memory and page cache that nobody else pays for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The spec would have been refused at submit.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The placement contradicts the spec.
    #[error("the placement does not fit the job: {why}")]
    Placement {
        /// What does not fit.
        why: String,
    },
    /// A path that must be absolute is not, or a text holds a NUL byte.
    #[error("`{what}` cannot be used: {why}")]
    Value {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// torchrun would take the program for one of its options.
    #[error(
        "torchrun cannot start `{program}`: it begins with `-`; name the script or program first"
    )]
    Program {
        /// The first word of the command.
        program: String,
    },
}

/// Plans one node's part of an attempt.
///
/// # Errors
/// When the request contradicts itself; nothing about the machine is checked.
pub fn plan(request: &Request) -> Result<LaunchPlan, PlanError> {
    request.spec.check()?;
    check_placement(request)?;
    check_texts(request)?;
    let per_node = request.spec.ranks_per_node();
    let processes = match request.spec.launcher {
        LaunchMethod::Torchrun | LaunchMethod::Mpi => 1,
        LaunchMethod::Exec | LaunchMethod::Python | LaunchMethod::Jax => per_node,
    };
    let argv = argv(request)?;
    let devices: Vec<_> = (0..processes)
        .map(|local_rank| devices_of(request, local_rank))
        .collect();
    let cpus = cpus_of(request, &devices, per_node / processes);
    let ranks = (0..processes)
        .zip(devices.into_iter().zip(cpus))
        .map(|(local_rank, (devices, cpus))| {
            let rank = request.node_rank * per_node + local_rank;
            let env = environment::of_rank(request, rank, local_rank, &devices);
            RankPlan {
                rank,
                local_rank,
                argv: argv.clone(),
                env,
                devices,
                cpus,
            }
        })
        .collect();
    let at_once = request.wave.as_ref().map_or(per_node, |wave| wave.slots);
    Ok(LaunchPlan {
        version: PLAN_VERSION,
        job: request.job.to_string(),
        epoch: request.epoch.to_string(),
        node_rank: request.node_rank,
        method: request.spec.launcher,
        ranks,
        work_dir: request.work_dir.clone(),
        logs_dir: format!("{}/logs", request.attempt_dir.trim_end_matches('/')),
        grace_ms: STOP_GRACE_MS,
        log_cap_bytes: LOG_BYTES_PER_RANK_MAX,
        user: request.user.clone(),
        allow_root: request.allow_root,
        files: mpi::files(request),
        mpi: mpi::plan(request),
        array: array::plan(request),
        fence: None,
        limit: limit(&request.spec),
        owner: String::new(),
        bounds: bounds(&request.spec, at_once),
        shm_bytes: (request.spec.shm).map(|shm| shm.times(at_once)),
    })
}

/// How long the job may run, and how long before that it hears of it.
fn limit(spec: &JobSpec) -> Option<LimitPlan> {
    let time_ms = spec.time?.ms();
    let asked = spec.checkpoint.as_ref().and_then(|one| one.notice);
    let notice_ms = asked.map_or(NOTICE_MS.min(time_ms / 10), mlctl_proto::spec::Time::ms);
    let notice_ms = notice_ms.min(time_ms);
    Some(LimitPlan { time_ms, notice_ms })
}

/// What the job asks for per rank, for so many at once.
fn bounds(spec: &JobSpec, ranks: u32) -> Option<Bounds> {
    let bounds = Bounds {
        memory_bytes: spec.mem.map(|mem| mem.times(ranks)),
        cpus: spec.cpus.map(|cpus| cpus.saturating_mul(ranks)),
        tasks: None,
    };
    (bounds != Bounds::default()).then_some(bounds)
}

/// The plan with the place where the gang meets, known only once every node is ready.
#[must_use]
pub fn with_rendezvous(mut plan: LaunchPlan, address: &str, port: u16) -> LaunchPlan {
    for rank in &mut plan.ranks {
        environment::meet_at(&mut rank.env, plan.method, address, port);
    }
    plan
}

fn check_placement(request: &Request) -> Result<(), PlanError> {
    let wrong = |why: String| Err(PlanError::Placement { why });
    let nodes = request.spec.nodes;
    if u32::try_from(request.members.len()) != Ok(nodes) {
        return wrong(format!(
            "{nodes} nodes asked for, {} given",
            request.members.len()
        ));
    }
    let Some(own) = usize::try_from(request.node_rank)
        .ok()
        .and_then(|at| request.members.get(at))
    else {
        return wrong(format!("node rank {} of {nodes} nodes", request.node_rank));
    };
    if own.node != request.node_name {
        return wrong(format!(
            "node rank {} is `{}`, not `{}`",
            request.node_rank, own.node, request.node_name
        ));
    }
    let slots = request.wave.as_ref().map_or(1, |wave| wave.slots);
    if request.spec.array.is_some() != request.wave.is_some() || slots == 0 {
        return wrong("tasks are given exactly where the job is an array".into());
    }
    let gpus = request.spec.gpus.saturating_mul(slots);
    match request
        .members
        .iter()
        .find(|member| u32::try_from(member.devices.len()) != Ok(gpus))
    {
        Some(member) => wrong(format!(
            "{gpus} GPUs per node asked for, {} given on `{}`",
            member.devices.len(),
            member.node
        )),
        None => Ok(()),
    }
}

fn check_texts(request: &Request) -> Result<(), PlanError> {
    let paths = [
        ("program", Some(&request.program)),
        ("job_dir", Some(&request.job_dir)),
        ("attempt_dir", Some(&request.attempt_dir)),
        ("work_dir", Some(&request.work_dir)),
        ("checkpoint_dir", request.checkpoint_dir.as_ref()),
        ("resume_from", request.resume_from.as_ref()),
    ];
    for (what, path) in paths {
        if path.is_some_and(|path| !path.starts_with('/')) {
            return Err(PlanError::Value {
                what,
                why: "it is not an absolute path",
            });
        }
    }
    let texts = [
        ("job_name", &request.job_name),
        ("owner", &request.owner),
        ("traceparent", &request.traceparent),
    ];
    let texts = texts.into_iter().chain(
        paths
            .into_iter()
            .filter_map(|(what, path)| Some((what, path?))),
    );
    for (what, text) in texts.chain(request.interface.iter().map(|name| ("interface", name))) {
        if text.contains('\0') {
            return Err(PlanError::Value {
                what,
                why: "it holds a NUL byte",
            });
        }
    }
    Ok(())
}

/// The devices that one process sees. `python` and `jax` share them out, one each in the usual case; the others show all of the node's to each.
fn devices_of(request: &Request, local_rank: u32) -> Vec<String> {
    let all = usize::try_from(request.node_rank)
        .ok()
        .and_then(|at| request.members.get(at))
        .map_or(&[][..], |m| &m.devices);
    if request.wave.is_some() {
        return array::slot_devices(request, 0);
    }
    if !request.spec.launcher.shares_devices() {
        return all.to_vec();
    }
    let (local, ranks) = (local_rank as usize, request.spec.ranks_per_node() as usize);
    let share = local * all.len() / ranks..(local + 1) * all.len() / ranks;
    all.get(share).unwrap_or_default().to_vec()
}

/// The processors of each process that `plan` names; of an array its slots have them.
fn cpus_of(request: &Request, devices: &[Vec<String>], ranks: u32) -> Vec<Ranges> {
    if request.wave.is_some() {
        return vec![Ranges::new(); devices.len()];
    }
    let devices: Vec<&[String]> = devices.iter().map(Vec::as_slice).collect();
    cpus::sets(&request.topology, &request.spec, &devices, ranks)
}

fn argv(request: &Request) -> Result<Vec<String>, PlanError> {
    let (spec, interpreters) = (&request.spec, &request.interpreters);
    let command = &spec.command.0;
    let first = command.first().map_or("", String::as_str);
    let script = first.ends_with(".py");
    let interpreted = || match script {
        true => [vec![interpreters.python.clone()], command.clone()].concat(),
        false => command.clone(),
    };
    let words = match spec.launcher {
        LaunchMethod::Exec => command.clone(),
        LaunchMethod::Python | LaunchMethod::Jax => interpreted(),
        LaunchMethod::Mpi => mpi::argv(request, interpreted()),
        LaunchMethod::Torchrun if first.starts_with('-') => {
            return Err(PlanError::Program {
                program: mlctl_proto::ids::clip(first),
            });
        }
        LaunchMethod::Torchrun => {
            let run = |python: &str| {
                vec![
                    python.to_owned(),
                    "-m".into(),
                    "torch.distributed.run".into(),
                ]
            };
            match command.get(1).map(String::as_str) {
                // `python train.py`, `python -m package`: torchrun starts Python itself, so the user's interpreter moves in front.
                Some(second) if is_python(first) && (second.ends_with(".py") || second == "-m") => {
                    [run(first), command[1..].to_vec()].concat()
                }
                _ if script => [run(&interpreters.python), command.clone()].concat(),
                _ => [
                    run(&interpreters.python),
                    vec!["--no-python".into()],
                    command.clone(),
                ]
                .concat(),
            }
        }
    };
    Ok(words)
}

/// `python`, `python3`, `python3.12`, also behind a path.
fn is_python(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or_default();
    name.strip_prefix("python")
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
