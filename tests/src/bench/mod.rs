//! Figures of a release build on real processes, with their raw samples. See docs/BENCHMARKS.md for what was found.
//! Does NOT judge: no test and no run of CI fails on a stopwatch.

pub mod apply;
pub mod array;
pub mod burst;
pub mod cli;
pub mod copies;
pub mod failover;
pub mod idle;
pub mod latency;
pub mod place;
pub mod queue;
pub mod report;
pub mod samples;
pub mod side;
pub mod submits;

use anyhow::{Result, ensure};

use crate::process::Cluster;

/// Refuses to measure a build that checks itself.
///
/// # Errors
/// When the binary of `cluster` has debug assertions.
fn release(cluster: &Cluster) -> Result<()> {
    let build = cluster.mlctl(&["version", "-v"]).expect(0).stdout;
    ensure!(
        !build.contains("debug_assertions"),
        "MLCTL_BIN is no release build; figures are taken of: cargo build --release"
    );
    Ok(())
}

/// Where clients of both sides run.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    Ok(runtime)
}
