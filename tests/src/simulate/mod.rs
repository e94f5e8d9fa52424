//! Baselines that `mlctl`'s policies are measured against, and the driver that prints them. Those whose names contain `oracle` know how long jobs will run; the
//! product never does. Does NOT hold a policy of the product.
pub mod capacity;
pub mod cli;
pub mod easy;
pub mod fifo;
pub mod files;
pub mod lengths;
pub mod sjf;
pub mod srtf;
