//! `mlctl demo`: a cluster, a real training and a node that dies in the middle.
//! Uses the cluster as any user does; nothing in the daemons knows of it.
#[cfg(target_os = "linux")]
pub mod story;
#[cfg(target_os = "linux")]
mod strike;
pub mod trainer;
#[cfg(target_os = "linux")]
mod training;
#[cfg(target_os = "linux")]
pub mod workload;
