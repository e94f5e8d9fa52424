//! Between the words of the coordinator's cores and those of the agent's core: what the wire does in the product.
//! Does NOT decide anything.

use std::sync::Arc;

use mlctl_agent::core as agent;
use mlctl_coordinator::leader::copies::{DataPeer, RestoreOrder};
use mlctl_coordinator::leader::gang::{Phase, Report};
use mlctl_coordinator::leader::orders::{Order, StartOrder};
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
        moving_up_to: status.moving_up_to,
    }
}

/// A reason as the agent journals it.
fn end_kind(kind: EndKind) -> persist::EndKind {
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

/// An order as the agent reads it.
pub(super) fn order(order: Order) -> agent::LeaderMessage {
    match order {
        Order::Lease { seq } => agent::LeaderMessage::HeartbeatAnswer { seq },
        Order::Start(order) => agent::LeaderMessage::Start(Arc::new(start(*order))),
        Order::Stop {
            job,
            epoch,
            reason,
            grace_ms,
            why,
        } => {
            let stop = agent::Stop {
                reason: end_kind(reason),
                grace_ms,
                why,
            };
            agent::LeaderMessage::Stop { job, epoch, stop }
        }
        Order::Go {
            job,
            epoch,
            master_address,
            master_port,
        } => {
            let rendezvous = agent::Rendezvous {
                address: master_address,
                port: master_port,
            };
            agent::LeaderMessage::Go {
                job,
                epoch,
                rendezvous,
            }
        }
        Order::Probe(_) | Order::Copies(_) => unreachable!("they have their own way down"),
        Order::Relay(_) => unreachable!("no agent here has words for another node"),
        Order::Applied { up_to } => agent::LeaderMessage::EventsApplied { up_to },
    }
}

fn start(order: StartOrder) -> agent::Start {
    let members = order.members.into_iter().map(|one| agent::Member {
        node: one.node,
        rank_address: one.rank_address,
        devices: one.devices,
    });
    let count = order.array_count;
    let wave = order.wave.map(|wave| agent::Wave {
        slots: wave.slots,
        tasks: wave.tasks,
        count,
    });
    agent::Start {
        spec: order.spec.json.clone(),
        members: members.collect(),
        node_rank: order.node_rank,
        resume_from: order.resume_from,
        resume_job: order.resume_job,
        restore: order.restore.map(restore),
        alone: order.alone,
        wave,
        fence: order.fence.map(|fence| agent::Fence {
            after_ms: fence.after_ms,
            grace_ms: fence.grace_ms,
        }),
        ..agent::Start::bare(order.job.id, order.epoch)
    }
}

fn restore(order: RestoreOrder) -> agent::Restore {
    let holder = |peer: DataPeer| agent::Holder {
        node: peer.node,
        address: peer.address,
    };
    let parts = order.parts.into_iter().map(|part| agent::RestorePart {
        index: part.index,
        manifest: Some(part.manifest),
        bytes: part.bytes,
        holders: part.holders.into_iter().map(holder).collect(),
        url: part.url,
    });
    agent::Restore {
        epoch: order.epoch,
        parts: parts.collect(),
    }
}
