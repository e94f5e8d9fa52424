//! From a committed start to what runs: the launch plan and its environment (both pure), the interface and the port it needs, and the
//! framing that the local sockets of launcher and keeper share.
//!
//! Starts nothing: the launcher starts keepers, keepers start ranks.

pub mod environment;
pub mod interface;
pub mod plan;
pub mod port;
pub(crate) mod wire;

pub use plan::{
    Interpreters, LaunchPlan, Member, PlanError, RankPlan, Request, plan, with_rendezvous,
};
