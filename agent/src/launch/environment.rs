//! The variables of a rank: what torch, JAX, NCCL, Gloo and CUDA read, and `MLCTL_*`. Those of MPI and Slurm: `mpi`, `slurm`.
//!
//! Pure. Order of precedence, weakest first: what every process finds, defaults, what the node's owner says, the user's own, what mlctl alone
//! may set.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

use mlctl_proto::limits::DUMP_NAME;
use mlctl_proto::spec::{Compat, LaunchMethod};

use super::plan::{DEADLINE, NOTIFY, Request};
use super::{array, mpi, slurm};

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Set only by mlctl, whatever the node or the user says; `MLCTL_*` beside them.
const OWNED: [&str; 23] = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_NODE_RANK",
    "PET_RDZV_BACKEND",
    "PET_RDZV_ENDPOINT",
    "PET_RDZV_ID",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
    "PET_MAX_RESTARTS",
    "PET_STANDALONE",
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "CUDA_VISIBLE_DEVICES",
    "TRACEPARENT",
];

/// What pretended devices are called.
const SIMULATED: &str = "SIM-";

/// The environment of one process, but for where the gang meets (see [`meet_at`]).
pub fn of_rank(request: &Request, rank: u32, local_rank: u32, devices: &[String]) -> Variables {
    let mut env = Variables::new();
    env.extend(
        request
            .base_env
            .iter()
            .filter(|(key, _)| !is_owned(key))
            .map(clone),
    );
    defaults(request, &mut env);
    let node_and_user = request.node_env.iter().chain(&request.spec.env);
    env.extend(node_and_user.filter(|(key, _)| !is_owned(key)).map(clone));
    gang(request, rank, local_rank, &mut env);
    match request.spec.launcher {
        LaunchMethod::Mpi => mpi::owned(request, &mut env),
        LaunchMethod::Jax => jax(request, rank, devices, &mut env),
        LaunchMethod::Exec | LaunchMethod::Python | LaunchMethod::Torchrun => {}
    }
    if request.spec.compat == Some(Compat::Slurm) {
        slurm::variables(request, rank, local_rank, &mut env);
    }
    if let Some(visible) = visible_devices(devices) {
        env.insert("CUDA_VISIBLE_DEVICES".into(), visible);
    }
    own(request, &mut env);
    array::variables(request, &mut env);
    env
}

/// Adds where the gang meets: known when every node is ready.
pub fn meet_at(env: &mut Variables, method: LaunchMethod, address: &str, port: u16) {
    let endpoint = if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    };
    for (key, value) in [
        ("MASTER_ADDR", address.to_owned()),
        ("MASTER_PORT", port.to_string()),
        ("PET_MASTER_ADDR", address.to_owned()),
        ("PET_MASTER_PORT", port.to_string()),
        ("PET_RDZV_ENDPOINT", endpoint.clone()),
    ] {
        env.insert(key.into(), value);
    }
    if method == LaunchMethod::Jax {
        env.insert("JAX_COORDINATOR_ADDRESS".into(), endpoint);
    }
}

fn clone((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn is_owned(key: &str) -> bool {
    key.starts_with("MLCTL_") || OWNED.contains(&key)
}

/// What a user may set otherwise.
fn defaults(request: &Request, env: &mut Variables) {
    let mut set = |key: &str, value: &str| env.insert(key.to_owned(), value.to_owned());
    set("PYTHONUNBUFFERED", "1");
    if request.spec.launcher == LaunchMethod::Torchrun {
        set("OMP_NUM_THREADS", "1");
        // Standard output of the ranks goes through files of torchrun and from there, with `[default0]:` before each line, to its own.
        // Torch 1.13 on Python 3.11 cannot start with 0 (its default) or 3; later ones take every value.
        set("PET_REDIRECTS", "1");
        set("PET_TEE", "1");
        set(
            "PET_LOG_DIR",
            &format!("{}/torchrun", request.attempt_dir.trim_end_matches('/')),
        );
    }
    let address = request
        .members
        .get(request.node_rank as usize)
        .map_or("", |member| &member.rank_address);
    if let Some(interface) = if is_loopback(address) {
        Some("lo")
    } else {
        request.interface.as_deref()
    } {
        set("NCCL_SOCKET_IFNAME", interface);
        set("GLOO_SOCKET_IFNAME", interface);
    }
    if request.spec.gpus > 0 {
        nccl(request, env);
    }
    match request.spec.launcher {
        LaunchMethod::Mpi => mpi::defaults(request, address, env),
        // Between processes on processors alone; jax has no default.
        LaunchMethod::Jax if request.spec.gpus == 0 => {
            env.insert("JAX_CPU_COLLECTIVES_IMPLEMENTATION".into(), "gloo".into());
        }
        _ => {}
    }
}

/// What NCCL and PyTorch's part of it are told where there are GPUs. Names: NCCL's user guide, "Environment Variables", and PyTorch's
/// "PYTORCH ProcessGroupNCCL Environment Variables"; the recorder's size goes by its old name and its new one.
fn nccl(request: &Request, env: &mut Variables) {
    let mut set = |key: &str, value: &str| env.insert(key.to_owned(), value.to_owned());
    if request.spec.nodes > 1 && !request.rdma.is_empty() {
        // `=`: these ports and no others that begin alike.
        set("NCCL_IB_HCA", &format!("={}", request.rdma.join(",")));
    }
    // A collective that hangs leaves word of what each rank was in, in files beside the code.
    set("TORCH_NCCL_TRACE_BUFFER_SIZE", "2000");
    set("TORCH_FR_BUFFER_SIZE", "2000");
    set("TORCH_NCCL_DUMP_ON_TIMEOUT", "1");
    set(
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
        &format!("{}/{DUMP_NAME}", request.work_dir.trim_end_matches('/')),
    );
}

/// Whether nodes at this rank address share one machine.
pub(super) fn is_loopback(address: &str) -> bool {
    address.starts_with("127.") || address == "::1" || address == "localhost"
}

/// What `jax.distributed.initialize` is given by scripts that read it; of these it looks at `JAX_COORDINATOR_ADDRESS` by itself, and with
/// `compat = "slurm"` it finds the rest.
fn jax(request: &Request, rank: u32, devices: &[String], env: &mut Variables) {
    let mut set = |key: &str, value: String| env.insert(key.to_owned(), value);
    set("JAX_NUM_PROCESSES", request.spec.world_size().to_string());
    set("JAX_PROCESS_ID", rank.to_string());
    if !devices.is_empty() && visible_devices(devices).is_some() {
        // Of those that it sees. A detected Slurm would have it take the one whose number is its local rank.
        let own: Vec<String> = (0..devices.len()).map(|at| at.to_string()).collect();
        set("JAX_LOCAL_DEVICE_IDS", own.join(","));
    }
}

/// The gang and the rank's place in it.
fn gang(request: &Request, rank: u32, local_rank: u32, env: &mut Variables) {
    let per_node = request.spec.ranks_per_node();
    let mut set = |key: &str, value: String| env.insert(key.to_owned(), value);
    // torchrun and mpirun give their ranks their own; at the process above them these two would be wrong.
    if !matches!(
        request.spec.launcher,
        LaunchMethod::Torchrun | LaunchMethod::Mpi
    ) {
        set("RANK", rank.to_string());
        set("LOCAL_RANK", local_rank.to_string());
    }
    set("WORLD_SIZE", request.spec.world_size().to_string());
    set("LOCAL_WORLD_SIZE", per_node.to_string());
    set("NODE_RANK", request.node_rank.to_string());
    set("GROUP_RANK", request.node_rank.to_string());
    set("PET_NNODES", request.spec.nodes.to_string());
    set("PET_NPROC_PER_NODE", per_node.to_string());
    set("PET_NODE_RANK", request.node_rank.to_string());
    // Static, because then node rank 0 holds rank 0 (and with it the checkpoint to resume from) and `MASTER_ADDR` is the one we gave;
    // c10d sorts nodes by host name and process id.
    set("PET_RDZV_BACKEND", "static".into());
    set("PET_RDZV_ID", format!("{}-{}", request.job, request.epoch));
    // The gang restarts as a whole, with a new id and port, or not at all.
    set("PET_MAX_RESTARTS", "0".into());
}

/// UUIDs, which survive renumbering; empty for a job without GPUs, so that it sees none; unset for pretended devices.
pub(super) fn visible_devices(devices: &[String]) -> Option<String> {
    let simulated = devices.iter().any(|device| device.starts_with(SIMULATED));
    (!simulated).then(|| devices.join(","))
}

fn own(request: &Request, env: &mut Variables) {
    let mut set = |key: &str, value: &str| env.insert(key.to_owned(), value.to_owned());
    set("MLCTL_JOB", &request.job.to_string());
    set("MLCTL_JOB_NAME", &request.job_name);
    set("MLCTL_OWNER", &request.owner);
    set("MLCTL_ATTEMPT", &request.epoch.counter.to_string());
    set("MLCTL_EPOCH", &request.epoch.to_string());
    set("MLCTL_NODE", &request.node_name);
    // Also tells the processes of this attempt from all others on the machine.
    set("MLCTL_ATTEMPT_DIR", &request.attempt_dir);
    // There once it is known that the ranks are to end.
    let deadline = format!("{}/{DEADLINE}", request.attempt_dir.trim_end_matches('/'));
    set("MLCTL_DEADLINE_FILE", &deadline);
    if let Some(dir) = &request.checkpoint_dir {
        set("MLCTL_CHECKPOINT_DIR", dir);
        let notify = format!("{}/{NOTIFY}", request.attempt_dir.trim_end_matches('/'));
        set("MLCTL_NOTIFY", &notify);
    }
    if let Some(path) = &request.resume_from {
        set("MLCTL_RESUME_FROM", path);
    }
    if !request.traceparent.is_empty() {
        set("TRACEPARENT", &request.traceparent);
    }
}
