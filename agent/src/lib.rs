//! The agent: one per node. Reports what the node is, starts and stops attempts, keeps them over its own restarts, sends their output home.
//! Does NOT schedule, and runs nothing that a coordinator has not committed.
//!
//! `core` decides and is pure; `driver` does; `link` and `bulk` speak to the leader; keepers own the ranks.
#![deny(unsafe_code)]

mod boottime;
pub mod bulk;
pub mod cgroup;
pub mod checkpoints;
pub mod code;
pub mod config;
mod copies;
pub mod core;
pub mod devices;
pub mod dirs;
mod driver;
mod early;
pub mod failpoint;
pub mod inventory;
pub mod journal;
#[allow(unsafe_code)]
pub mod keeper;
pub mod launch;
#[allow(unsafe_code)]
pub mod launcher;
mod link;
mod ram;
mod run;
mod tasks;
pub mod users;
pub mod witness;

pub use config::Config;
pub use early::early_main;
pub use run::{RunError, run};
