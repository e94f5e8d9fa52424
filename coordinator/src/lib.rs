//! The coordinator: replicated state, scheduler, consensus and the services of mlctl, as a library with [`run`].
//!
//! Does not parse command lines and does not decide where a node's processes run. `state` and `scheduler` are pure,
//! `consensus` knows bytes and not jobs, `leader` is what only a leader does, `api` is who may call what.
#![forbid(unsafe_code)]

pub mod consensus;
pub mod scheduler;
pub mod simulation;
pub mod state;

mod api;
mod background;
mod clock;
pub mod config;
mod disk;
mod downloads;
mod fetching;
pub mod leader;
pub mod logs;
mod machine;
mod members;
mod peers;
mod published;
mod run;
mod shared;
mod store;
pub mod vitals;

pub use config::Config;
pub use run::{RunError, run, run_on};
