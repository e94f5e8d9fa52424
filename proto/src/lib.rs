//! The contracts of mlctl: messages, typed ids, units, the job spec, error codes and every limit.
//!
//! No I/O, no clock. Pure code may name `ids`, `units`, `spec`, `limits`, `errors`, `persist` and `mutants` only;
//! the generated services exist behind feature `rpc`.
#![forbid(unsafe_code)]

pub mod errors;
pub mod ids;
pub mod limits;
pub mod logs;
pub mod mutants;
pub mod spec;
pub mod units;

/// Commands, records and events: what outlives a process.
pub use wire::persist::v1 as persist;

/// Between an agent and the leading coordinator.
pub use wire::agent::v1 as agent;

/// What people and programs call.
pub use wire::api::v1 as api;

/// Between coordinators.
pub use wire::peer::v1 as peer;

/// The generated code, nested as its packages are: the files refer to one another by package path.
#[allow(missing_docs, clippy::all)]
mod wire {
    macro_rules! package {
        ($name:ident, $file:literal) => {
            pub mod $name {
                pub mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
                }
            }
        };
    }
    package!(persist, "mlctl.persist.v1");
    package!(agent, "mlctl.agent.v1");
    package!(api, "mlctl.api.v1");
    package!(peer, "mlctl.peer.v1");
}

/// Version of the wire protocol between daemons. Raised when a message changes its meaning.
pub const PROTOCOL: u32 = 1;

/// Version of this build, as every hello carries it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The cfgs of this build that change what it does; a release has none.
pub const CFGS: &[&str] = &[
    #[cfg(debug_assertions)]
    "debug_assertions",
    #[cfg(mlctl_mutants)]
    "mlctl_mutants",
];

/// Metadata of an answer that another coordinator passed on: `host:port` of the one that leads, for whoever wants to ask it directly.
pub const LEADER_METADATA: &str = "mlctl-leader";

/// What this build can do, as every hello carries it.
pub const CAPABILITIES: &[&str] = &["exec", "python", "torchrun", "local-checkpoints"];
