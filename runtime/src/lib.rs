//! What every mlctl process shares: configuration, identity and TLS, telemetry, graceful shutdown.
//!
//! Knows nothing of jobs, Raft or devices, and holds no state of the cluster. Which call a peer may
//! make is decided by those who serve it; here is only told, and proven, who the peer is.
#![forbid(unsafe_code)]

/// How long to wait before the next try.
pub mod backoff;
/// Configuration files, a user's context file, files that nobody else may read.
pub mod config;
/// Who is who: the cluster's CA, the certificates it issues, the peer a certificate names.
pub mod identity;
/// SIGTERM and SIGINT as something to wait for.
pub mod shutdown;
/// Logs to stderr, traces over OTLP, trace context across calls.
pub mod telemetry;
/// Mutual TLS 1.3 for servers and clients of the cluster.
pub mod tls;

mod files;
