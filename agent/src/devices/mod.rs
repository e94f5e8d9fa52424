//! The devices of a node: found through the driver, or pretended where the configuration says so and no driver is.
//! Does NOT judge their health and does NOT give them to jobs.

pub mod dirt;
mod nvml;
pub mod probe;
pub mod topology;
pub(crate) mod watch;
