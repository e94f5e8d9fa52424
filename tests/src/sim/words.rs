//! Between the words of the coordinator's cores and those of the agent's core: what the wire does in the product.
//! Does NOT decide anything.

use mlctl_agent::core as agent;
use mlctl_coordinator::leader::gang::{Key, Phase, Report};
use mlctl_coordinator::state::State;
use mlctl_coordinator::state::records::EndKind;
use mlctl_proto::persist;

/// An agent's word about an attempt.
pub(super) fn report(status: &agent::Status) -> Report {
    let phase = match status.phase {
        agent::Phase::Preparing => Phase::Preparing,
        agent::Phase::Ready => Phase::Ready,
        agent::Phase::Running => Phase::Running,
        agent::Phase::Stopping => Phase::Stopping,
        agent::Phase::Ended => Phase::Ended,
    };
    Report {
        key: (status.job, status.epoch),
        phase,
        master_port: status.master_port,
    }
}

/// A reason as the agent journals it.
pub(super) fn end_kind(kind: EndKind) -> persist::EndKind {
    match kind {
        EndKind::Exited => persist::EndKind::Exited,
        EndKind::Signalled => persist::EndKind::Signalled,
        EndKind::OutOfMemory => persist::EndKind::OutOfMemory,
        EndKind::TimedOut => persist::EndKind::TimedOut,
        EndKind::Cancelled => persist::EndKind::Cancelled,
        EndKind::Preempted => persist::EndKind::Preempted,
        EndKind::Superseded => persist::EndKind::Superseded,
        EndKind::DeviceError => persist::EndKind::DeviceError,
        EndKind::LaunchFailed => persist::EndKind::LaunchFailed,
        EndKind::NeverStarted => persist::EndKind::NeverStarted,
        EndKind::KeeperLost => persist::EndKind::KeeperLost,
        EndKind::NodeLost => persist::EndKind::NodeLost,
        EndKind::Hung => persist::EndKind::Hung,
    }
}

/// What `node` needs to begin its part of an attempt; `None` if the state does not say that it shall.
pub(super) fn start(state: &State, node: &str, (job, epoch): Key) -> Option<agent::Start> {
    let attempt = state.attempt(job, epoch)?;
    let spec = state.spec(&state.job(job)?.spec_hash)?;
    let node_rank = attempt
        .allocations
        .iter()
        .position(|one| one.node == node)?;
    let members = attempt.allocations.iter().map(|one| agent::Member {
        node: one.node.clone(),
        rank_address: one.node.clone(),
        devices: one.devices.clone(),
    });
    Some(agent::Start {
        spec: spec.json.clone(),
        members: members.collect(),
        node_rank: u32::try_from(node_rank).ok()?,
        resume_from: attempt.resume_from.clone(),
        ..agent::Start::bare(job, epoch)
    })
}
