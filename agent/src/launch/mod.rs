//! From a committed start to what runs: the launch plan, its environment, MPI's files and variables, Slurm's, the processors near the devices
//! (all pure), the interface, the RDMA ports and the port it needs, and the framing that the local sockets of launcher and keeper share.
//!
//! Starts nothing: the launcher starts keepers, keepers start ranks.

pub mod array;
pub mod cpus;
pub mod environment;
pub mod interface;
pub mod mpi;
pub mod plan;
pub mod port;
pub mod rdma;
mod slurm;
pub(crate) mod wire;

pub use plan::{
    FencePlan, Interpreters, LaunchPlan, LimitPlan, Member, PlanError, PlannedFile, RankPlan,
    Request, plan, with_rendezvous,
};
