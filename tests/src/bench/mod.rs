//! Figures of a release build on real processes, with their raw samples. See docs/BENCHMARKS.md for what was found.
//! Does NOT judge: no test and no run of CI fails on a stopwatch.

pub mod latency;
pub mod place;
pub mod samples;
