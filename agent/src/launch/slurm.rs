//! `compat = "slurm"`: the variables that `srun` sets for a task, so that what detects Slurm detects a gang of ours.
//!
//! Pure. Names and forms as in Slurm's `srun` manual, "OUTPUT ENVIRONMENT VARIABLES"; those that jax, Lightning and submitit read are all here.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use super::environment::Variables;
use super::plan::Request;

/// Adds them for one rank.
pub(super) fn variables(request: &Request, rank: u32, local_rank: u32, env: &mut Variables) {
    let per_node = request.spec.ranks_per_node();
    let (nodes, tasks) = (request.spec.nodes, request.spec.world_size());
    // A plain list is a host list too; addresses, because the names of nodes need not resolve.
    let hosts: Vec<&str> = request
        .members
        .iter()
        .map(|member| member.rank_address.as_str())
        .collect();
    let hosts = hosts.join(",");
    let per_nodes = if nodes > 1 {
        format!("{per_node}(x{nodes})")
    } else {
        per_node.to_string()
    };
    let job = request.job.counter.to_string();
    let mut set = |keys: &[&str], value: &str| {
        for key in keys {
            env.insert((*key).to_owned(), value.to_owned());
        }
    };
    set(&["SLURM_JOB_ID", "SLURM_JOBID"], &job);
    set(&["SLURM_JOB_NAME"], &request.job_name);
    set(&["SLURM_JOB_USER"], &request.owner);
    set(&["SLURM_CLUSTER_NAME"], "mlctl");
    set(&["SLURM_STEP_ID", "SLURM_STEPID"], "0");
    set(
        &[
            "SLURM_NNODES",
            "SLURM_JOB_NUM_NODES",
            "SLURM_STEP_NUM_NODES",
        ],
        &nodes.to_string(),
    );
    set(
        &[
            "SLURM_NODELIST",
            "SLURM_JOB_NODELIST",
            "SLURM_STEP_NODELIST",
        ],
        &hosts,
    );
    set(
        &["SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS"],
        &tasks.to_string(),
    );
    set(&["SLURM_NTASKS_PER_NODE"], &per_node.to_string());
    set(
        &["SLURM_TASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"],
        &per_nodes,
    );
    set(&["SLURM_NODEID"], &request.node_rank.to_string());
    set(&["SLURMD_NODENAME"], &request.node_name);
    set(&["SLURM_PROCID"], &rank.to_string());
    set(&["SLURM_LOCALID"], &local_rank.to_string());
    set(&["SLURM_SUBMIT_DIR"], &request.work_dir);
    if request.spec.gpus > 0 {
        set(&["SLURM_GPUS_ON_NODE"], &request.spec.gpus.to_string());
    }
}
