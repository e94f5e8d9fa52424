//! The trace simulator: a recorded load, a described cluster and a planner in virtual time. The planner is the scheduler's own `propose`, or a baseline of the
//! tests. It sees a [`Scene`](crate::state::view::scene::Scene) and the time, never a job's true length. Does NOT read files and does NOT print.
//!
//! Definitions: JCT = end - submit; queue = JCT - length: everything that is not progress, so preempted time, restart charges and lost work are in it. A gang
//! is *wide* when it asks for more than 8 GPUs. Decisions are integers; floats are for reported averages only.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod causality;
pub mod cluster;
pub mod estimates;
pub mod form;
pub mod metrics;
pub mod random;
pub mod run;
pub mod settings;
pub mod synthetic;
pub mod trace;
pub mod transform;
pub mod usage;
pub mod world;

pub use metrics::Report;
pub use run::{Options, Outcome, SimulationError, simulate};
pub use trace::{Trace, TraceJob};

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
