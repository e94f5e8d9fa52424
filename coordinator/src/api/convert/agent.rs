//! What agents say and are told: from the wire, checked, and onto it.
use mlctl_proto::agent as wire;
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, IdError, JobId};
use mlctl_proto::limits::{EVENTS_PER_BATCH_MAX, RELAY_BYTES_MAX};
use mlctl_proto::persist;
use mlctl_proto::{CAPABILITIES, PROTOCOL, VERSION};

use crate::leader::gang::Phase;
use crate::leader::orders::{ProbeOrder, Testimony};
use crate::leader::witness::{Target, Targets};
use crate::leader::{Order, Relay, Report, StartOrder};
use crate::state::codec::{decode_event, encode_planned};
use crate::state::commands::AgentEvent;
use crate::state::records::{EndKind, Settings};

/// Attempts that one node may list.
const REPORTS_MAX: usize = 65_536;

/// What a node says of its attempts.
///
/// # Errors
/// When an id, a phase or a port is none.
pub fn reports(statuses: &[wire::AttemptStatus]) -> Result<Vec<Report>, Refusal> {
    if statuses.len() > REPORTS_MAX {
        return Err(bad("more attempts than a node may run"));
    }
    statuses.iter().map(report).collect()
}

fn report(status: &wire::AttemptStatus) -> Result<Report, Refusal> {
    let phase = match status.phase() {
        wire::AttemptPhase::Preparing => Phase::Preparing,
        wire::AttemptPhase::Ready => Phase::Ready,
        wire::AttemptPhase::Running => Phase::Running,
        wire::AttemptPhase::Stopping => Phase::Stopping,
        wire::AttemptPhase::Ended => Phase::Ended,
        wire::AttemptPhase::Unspecified => return Err(bad("an attempt without a known phase")),
    };
    Ok(Report {
        key: key(status.job, status.epoch)?,
        phase,
        master_port: port(status.master_port)?,
        moving_up_to: status.moving_up_to,
    })
}

/// A node is ready for its part of a gang.
///
/// # Errors
/// As [`reports`].
pub fn ready(message: &wire::Ready) -> Result<Report, Refusal> {
    Ok(Report {
        key: key(message.job, message.epoch)?,
        phase: Phase::Ready,
        master_port: port(message.master_port)?,
        moving_up_to: 0,
    })
}

/// Everybody on a node who answers witnesses.
pub fn targets(heartbeat: &wire::Heartbeat) -> Targets {
    let target = |one: &Option<wire::ProbePort>| {
        let one = one.as_ref()?;
        let port = u16::try_from(one.port).ok().filter(|port| *port > 0)?;
        let key = one.key.as_slice().try_into().ok()?;
        Some(Target { port, key })
    };
    // Before it is ready nothing of an attempt runs, and when it has ended nothing does any more.
    let runs = |status: &&wire::AttemptStatus| {
        !matches!(
            status.phase(),
            wire::AttemptPhase::Preparing | wire::AttemptPhase::Ended
        )
    };
    let keepers = heartbeat.attempts.iter().filter(runs);
    let all = [&heartbeat.probe]
        .into_iter()
        .chain(keepers.map(|status| &status.probe));
    let all: Vec<Option<Target>> = all.map(target).collect();
    Targets {
        whole: all.iter().all(Option::is_some),
        targets: all.into_iter().flatten().collect(),
    }
}

/// What a witness says.
pub fn testimony(result: wire::ProbeResult) -> Testimony {
    Testimony {
        id: result.id,
        node: result.node,
        seen: result.seen,
    }
}

fn probe(order: ProbeOrder) -> wire::Probe {
    let target = |target: Target| wire::ProbePort {
        port: u32::from(target.port),
        key: target.key.to_vec(),
    };
    wire::Probe {
        id: order.id,
        node: order.node,
        address: order.address,
        targets: order.targets.into_iter().map(target).collect(),
    }
}

/// A word for another node of an attempt.
///
/// # Errors
/// When an id is missing, or it is longer than a keeper's word may be.
pub fn relay(message: wire::Relay) -> Result<Relay, Refusal> {
    if message.body.len() > RELAY_BYTES_MAX {
        return Err(bad("a word between nodes that is too long"));
    }
    let (job, epoch) = key(message.job, message.epoch)?;
    Ok(Relay {
        job,
        epoch,
        node: message.node,
        body: message.body,
    })
}

/// What happened on a node.
///
/// # Errors
/// When there are too many, or one cannot be read.
pub fn events(message: wire::Events) -> Result<Vec<AgentEvent>, Refusal> {
    if message.events.len() > EVENTS_PER_BATCH_MAX {
        return Err(bad("more events than one report may hold"));
    }
    let events = message.events.into_iter().map(decode_event);
    events
        .collect::<Result<_, _>>()
        .map_err(|error| bad(&error.to_string()))
}

/// (job, epoch) of a message.
///
/// # Errors
/// When one of them is missing.
pub fn key(
    job: Option<persist::Id>,
    epoch: Option<persist::Id>,
) -> Result<(JobId, Epoch), Refusal> {
    let wrong = |error: IdError| bad(&error.to_string());
    Ok((
        JobId::try_from(job).map_err(wrong)?,
        Epoch::try_from(epoch).map_err(wrong)?,
    ))
}

/// A port, or 0.
///
/// # Errors
/// When it is none.
pub fn port(port: u32) -> Result<u16, Refusal> {
    u16::try_from(port).map_err(|_| bad("a port above 65535"))
}

pub(super) fn bad(what: &str) -> Refusal {
    Refusal::new(
        Code::BadRequest,
        format!("this agent sent what this release does not know: {what}"),
    )
}

/// The answer to a hello.
pub fn hello(
    settings: &Settings,
    coordinators: Vec<String>,
    event_mark: u64,
) -> wire::leader_message::What {
    let timers = settings.timers;
    wire::leader_message::What::Hello(wire::LeaderHello {
        protocol: PROTOCOL,
        version: VERSION.to_owned(),
        capabilities: CAPABILITIES.iter().map(|word| (*word).to_owned()).collect(),
        cluster_id: settings.cluster_id.clone(),
        incarnation: settings.incarnation,
        coordinators,
        heartbeat_ms: timers.heartbeat_ms,
        node_timeout_ms: timers.node_timeout_ms,
        lost_after_ms: timers.lost_after_ms,
        fence_after_ms: timers.fence_after_ms,
        kill_grace_ms: timers.kill_grace_ms,
        event_mark,
    })
}

/// An order as the agent reads it. `traceparent` is of the span that starts.
pub fn order(order: Order, traceparent: Option<String>) -> wire::leader_message::What {
    use wire::leader_message::What;
    match order {
        Order::Lease { seq } => What::Heartbeat(wire::HeartbeatAnswer { seq }),
        Order::Start(order) => What::Start(start(*order, traceparent)),
        Order::Stop {
            job,
            epoch,
            reason,
            grace_ms,
            why,
        } => What::Stop(wire::StopAllocation {
            job: Some(job.into()),
            epoch: Some(epoch.into()),
            reason: end_kind(reason).into(),
            grace_ms,
            why,
        }),
        Order::Go {
            job,
            epoch,
            master_address,
            master_port,
        } => What::Go(wire::Go {
            job: Some(job.into()),
            epoch: Some(epoch.into()),
            master_address,
            master_port: master_port.into(),
        }),
        Order::Relay(relay) => What::Relay(wire::Relay {
            job: Some(relay.job.into()),
            epoch: Some(relay.epoch.into()),
            node: relay.node,
            body: relay.body,
        }),
        Order::Probe(order) => What::Probe(probe(*order)),
        Order::Copies(order) => super::copies::order(*order),
        Order::Applied { up_to } => What::EventsApplied(wire::EventsApplied { up_to }),
    }
}

fn start(order: StartOrder, traceparent: Option<String>) -> wire::StartAllocation {
    let job = &order.job;
    let members = order.members.into_iter().map(|member| wire::Member {
        node: member.node,
        rank_address: member.rank_address,
        devices: member.devices,
    });
    wire::StartAllocation {
        job: Some(job.id.into()),
        epoch: Some(order.epoch.into()),
        job_name: job.name.clone(),
        owner_id: job.owner_id.clone(),
        owner_name: job.owner_name.clone(),
        spec: order.spec.json.clone(),
        code_manifest: job.code_manifest.clone(),
        members: members.collect(),
        node_rank: order.node_rank,
        resume_from: order.resume_from,
        traceparent: traceparent.unwrap_or_else(|| job.traceparent.clone()),
        submitter_uid: job.submitter_uid,
        allow_root: order.allow_root,
        alone: order.alone,
        fence: order.fence.map(|fence| wire::Fence {
            after_ms: fence.after_ms,
            grace_ms: fence.grace_ms,
        }),
        wave: order.wave.as_ref().map(encode_planned),
        array_count: order.array_count,
        resume_job: order.resume_job.map(Into::into),
        restore: order.restore.map(super::copies::restore),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(job: u64, phase: i32, port: u32) -> wire::AttemptStatus {
        let id = |counter| {
            Some(persist::Id {
                incarnation: 1,
                counter,
            })
        };
        wire::AttemptStatus {
            job: id(job),
            epoch: id(1),
            phase,
            master_port: port,
            moving_up_to: 0,
            probe: None,
        }
    }

    #[test]
    fn hostile_reports_are_refused() {
        assert!(reports(&[status(1, 2, 40_000)]).is_ok());
        for (what, wrong) in [
            ("no job", status(0, 2, 0)),
            ("no phase", status(1, 0, 0)),
            ("an unknown phase", status(1, 99, 0)),
            ("no port", status(1, 2, 65_536)),
        ] {
            assert!(reports(&[wrong]).is_err(), "{what}");
        }
        let event = persist::AgentEvent::default();
        let many = wire::Events {
            events: vec![event.clone(); EVENTS_PER_BATCH_MAX + 1],
        };
        assert!(events(many).is_err());
        assert!(
            events(wire::Events {
                events: vec![event]
            })
            .is_err()
        );
    }
}
