//! Between the wire and the core's own words. A message that lacks an id is an error that names it, never a guess.
//! Does NOT open connections.

use std::sync::Arc;

use mlctl_proto::agent;
use mlctl_proto::ids::IdError;
use mlctl_proto::persist::{self, EndKind};
use mlctl_proto::spec::Ranges;

use super::copies::{
    CopyOrder, SealPart, answer_from_wire, part_keys, replicate_from_wire, restore_from_wire,
    restore_to_wire, upload_from_wire,
};
use super::{LinkConfig, Outgoing, Relay};
use crate::core::{
    Fence, LeaderHello, LeaderMessage, Member, Phase, Rendezvous, Start, Status, Stop, ToLeader,
    Wave,
};
use crate::witness::{ProbePort, Question};

/// Agents and keepers of one node that a leader may have asked for.
const TARGETS_MAX: usize = 4_096;

/// What a message from a coordinator is.
#[derive(Debug, PartialEq)]
pub(crate) enum FromCoordinator {
    /// A leader speaks.
    Leader(LeaderMessage),
    /// Its hello: more than the core needs.
    Hello(Box<agent::LeaderHello>),
    /// It does not lead; these may.
    NotLeader(Vec<String>),
    /// The keeper of another node of an MPI job speaks.
    Relay(Relay),
    /// The leader wants to know whether a silent node is there.
    Probe(Question),
    /// Something about copies of checkpoints.
    Copies(CopyOrder),
    /// Another node of an attempt completed a checkpoint.
    SealPart(SealPart),
    /// A message of a later release.
    Unknown,
}

/// The core's start from the wire's.
pub(crate) fn start_from_wire(start: agent::StartAllocation) -> Result<Start, IdError> {
    let members = start.members.into_iter().map(|member| Member {
        node: member.node,
        rank_address: member.rank_address,
        devices: member.devices,
    });
    let count = start.array_count;
    let wave = start.wave.map(|wave| -> Result<Wave, IdError> {
        let missing = IdError::Missing { kind: "tasks" };
        let tasks = Ranges::unpack(&wave.tasks.unwrap_or_default()).map_err(|_| missing)?;
        Ok(Wave {
            slots: wave.slots,
            tasks,
            count,
        })
    });
    Ok(Start {
        job: start.job.try_into()?,
        epoch: start.epoch.try_into()?,
        job_name: start.job_name,
        owner_id: start.owner_id,
        owner_name: start.owner_name,
        spec: start.spec,
        code_manifest: start.code_manifest,
        members: members.collect(),
        node_rank: start.node_rank,
        resume_from: start.resume_from,
        traceparent: start.traceparent,
        submitter_uid: start.submitter_uid,
        allow_root: start.allow_root,
        alone: start.alone,
        fence: start.fence.map(|fence| Fence {
            after_ms: fence.after_ms,
            grace_ms: fence.grace_ms,
        }),
        wave: wave.transpose()?,
        resume_job: match start.resume_job {
            None => None,
            job => Some(job.try_into()?),
        },
        restore: start.restore.map(restore_from_wire).transpose()?,
    })
}

/// The wire's start from the core's: what the journal and the attempt's folder keep.
pub(crate) fn start_to_wire(start: &Start) -> agent::StartAllocation {
    let members = start.members.iter().map(|member| agent::Member {
        node: member.node.clone(),
        rank_address: member.rank_address.clone(),
        devices: member.devices.clone(),
    });
    agent::StartAllocation {
        job: Some(start.job.into()),
        epoch: Some(start.epoch.into()),
        job_name: start.job_name.clone(),
        owner_id: start.owner_id.clone(),
        owner_name: start.owner_name.clone(),
        spec: start.spec.clone(),
        code_manifest: start.code_manifest.clone(),
        members: members.collect(),
        node_rank: start.node_rank,
        resume_from: start.resume_from.clone(),
        traceparent: start.traceparent.clone(),
        submitter_uid: start.submitter_uid,
        allow_root: start.allow_root,
        alone: start.alone,
        fence: start.fence.map(|fence| agent::Fence {
            after_ms: fence.after_ms,
            grace_ms: fence.grace_ms,
        }),
        wave: start.wave.as_ref().map(|wave| persist::Wave {
            slots: wave.slots,
            tasks: Some(wave.tasks.pack()),
        }),
        array_count: start.wave.as_ref().map_or(0, |wave| wave.count),
        resume_job: start.resume_job.map(Into::into),
        restore: start.restore.as_ref().map(restore_to_wire),
    }
}

/// What a coordinator said.
pub(crate) fn from_wire(message: agent::LeaderMessage) -> Result<FromCoordinator, IdError> {
    use agent::leader_message::What;
    let message = match message.what {
        Some(What::Hello(hello)) => return Ok(FromCoordinator::Hello(Box::new(hello))),
        Some(What::NotLeader(not)) => return Ok(FromCoordinator::NotLeader(not.addresses)),
        Some(What::Heartbeat(answer)) => LeaderMessage::HeartbeatAnswer { seq: answer.seq },
        Some(What::Start(start)) => LeaderMessage::Start(Arc::new(start_from_wire(start)?)),
        Some(What::Stop(stop)) => {
            // A reason of a later release still ends the attempt.
            let reason = EndKind::try_from(stop.reason).unwrap_or(EndKind::Cancelled);
            LeaderMessage::Stop {
                job: stop.job.try_into()?,
                epoch: stop.epoch.try_into()?,
                stop: Stop {
                    reason,
                    grace_ms: stop.grace_ms,
                    why: stop.why,
                },
            }
        }
        Some(What::Go(go)) => LeaderMessage::Go {
            job: go.job.try_into()?,
            epoch: go.epoch.try_into()?,
            rendezvous: Rendezvous {
                address: go.master_address,
                port: u16::try_from(go.master_port).map_err(|_| IdError::Missing {
                    kind: "master port",
                })?,
            },
        },
        Some(What::EventsApplied(applied)) => LeaderMessage::EventsApplied {
            up_to: applied.up_to,
        },
        Some(What::Relay(relay)) => {
            return Ok(FromCoordinator::Relay(Relay {
                job: relay.job.try_into()?,
                epoch: relay.epoch.try_into()?,
                node: relay.node,
                body: relay.body,
            }));
        }
        Some(What::Probe(probe)) => return Ok(FromCoordinator::Probe(question(probe))),
        Some(What::Forget(forget)) => LeaderMessage::Forget(part_keys(forget.parts)?),
        Some(What::Announce(announce)) => LeaderMessage::Announce(part_keys(announce.parts)?),
        Some(What::Replicate(replicate)) => {
            return Ok(FromCoordinator::Copies(CopyOrder::Replicate(
                replicate_from_wire(replicate)?,
            )));
        }
        Some(What::Upload(upload)) => {
            return Ok(FromCoordinator::Copies(upload_from_wire(upload)?));
        }
        Some(What::Answer(answer)) => {
            return Ok(FromCoordinator::Copies(CopyOrder::Answer(
                answer_from_wire(answer)?,
            )));
        }
        Some(What::SealPart(order)) => {
            return Ok(FromCoordinator::SealPart(SealPart {
                job: order.job.try_into()?,
                epoch: order.epoch.try_into()?,
                name: order.name,
                step: order.step,
            }));
        }
        None => return Ok(FromCoordinator::Unknown),
    };
    Ok(FromCoordinator::Leader(message))
}

/// A question for a silent node. Targets that make no sense are left out.
fn question(probe: agent::Probe) -> Question {
    let target = |one: agent::ProbePort| {
        let port = u16::try_from(one.port).ok()?;
        let key = one.key.try_into().ok()?;
        Some(ProbePort { port, key })
    };
    let targets = probe.targets.into_iter().take(TARGETS_MAX);
    Question {
        id: probe.id,
        node: probe.node,
        address: probe.address,
        targets: targets.filter_map(target).collect(),
    }
}

fn probe_port(probe: ProbePort) -> agent::ProbePort {
    agent::ProbePort {
        port: u32::from(probe.port),
        key: probe.key.to_vec(),
    }
}

/// What of a leader's hello the core decides with.
pub(crate) fn hello_from_wire(hello: &agent::LeaderHello) -> LeaderHello {
    LeaderHello {
        incarnation: hello.incarnation,
        heartbeat_ms: u64::from(hello.heartbeat_ms),
        node_timeout_ms: u64::from(hello.node_timeout_ms),
        event_mark: hello.event_mark,
    }
}

/// What goes to the leader, for the wire. `config` has what hellos and heartbeats add: who and what the node is, where it answers.
pub(crate) fn to_wire(message: Outgoing, config: &LinkConfig) -> agent::AgentMessage {
    use agent::agent_message::What;
    let message = match message {
        Outgoing::Core(message) => message,
        Outgoing::Probed(result) => {
            let what = Some(What::Probed(result));
            return agent::AgentMessage { what };
        }
        Outgoing::Copies(what) => {
            let what = Some(what);
            return agent::AgentMessage { what };
        }
        Outgoing::Relay(relay) => {
            let relay = agent::Relay {
                job: Some(relay.job.into()),
                epoch: Some(relay.epoch.into()),
                node: relay.node,
                body: relay.body,
            };
            let what = Some(What::Relay(relay));
            return agent::AgentMessage { what };
        }
    };
    let what = match message {
        ToLeader::Hello {
            journal_id,
            incarnation,
            term,
            attempts,
        } => What::Hello(agent::AgentHello {
            journal_id,
            incarnation,
            term,
            attempts: attempts.into_iter().map(status).collect(),
            ..config.hello.clone()
        }),
        ToLeader::Heartbeat { seq, attempts } => What::Heartbeat(agent::Heartbeat {
            seq,
            attempts: attempts.into_iter().map(status).collect(),
            probe: config.probe.map(probe_port),
            space: config.space.as_ref().map(|space| *space.borrow()),
        }),
        ToLeader::Ready {
            job,
            epoch,
            master_port,
        } => What::Ready(agent::Ready {
            job: Some(job.into()),
            epoch: Some(epoch.into()),
            master_port: u32::from(master_port),
        }),
        ToLeader::Events(events) => What::Events(agent::Events { events }),
    };
    agent::AgentMessage { what: Some(what) }
}

fn status(status: Status) -> agent::AttemptStatus {
    let phase = match status.phase {
        Phase::Preparing => agent::AttemptPhase::Preparing,
        Phase::Ready => agent::AttemptPhase::Ready,
        Phase::Running => agent::AttemptPhase::Running,
        Phase::Stopping => agent::AttemptPhase::Stopping,
        Phase::Ended => agent::AttemptPhase::Ended,
    };
    agent::AttemptStatus {
        job: Some(status.job.into()),
        epoch: Some(status.epoch.into()),
        phase: phase.into(),
        master_port: u32::from(status.master_port),
        moving_up_to: status.moving_up_to,
        probe: status.probe.map(probe_port),
    }
}

#[cfg(test)]
mod tests {
    use super::super::copies::part_to_wire;
    use super::*;
    use crate::core::{Holder, PartKey, Restore, RestorePart};
    use mlctl_proto::ids::{Epoch, JobId};
    use mlctl_proto::persist::Id;

    #[test]
    fn a_start_round_trips() {
        let mut start = Start::bare(JobId::new(1, 2), Epoch::new(3, 4));
        start.members = vec![Member {
            node: "a".into(),
            rank_address: "b".into(),
            devices: vec!["c".into()],
        }];
        start.submitter_uid = 1000;
        start.allow_root = true;
        start.alone = true;
        start.fence = Some(Fence {
            after_ms: 240_000,
            grace_ms: 20_000,
        });
        start.wave = Some(Wave {
            slots: 2,
            tasks: Ranges::span(3, 9),
            count: 100,
        });
        let part = |index, manifest| RestorePart {
            index,
            manifest,
            bytes: 7,
            holders: vec![Holder {
                node: "b".into(),
                address: "10.0.0.2:7100".into(),
            }],
            url: manifest.map(|_| "s3://runs/a".into()),
        };
        start.restore = Some(Restore {
            epoch: Epoch::new(3, 3),
            parts: vec![part(0, Some([9; 32])), part(1, None)],
        });
        assert_eq!(start_from_wire(start_to_wire(&start)), Ok(start));
    }

    #[test]
    fn names_of_parts_round_trip_and_damaged_ones_are_refused() {
        let key = PartKey {
            job: JobId::new(1, 2),
            epoch: Epoch::new(1, 3),
            name: "step-5".into(),
            index: 4,
            manifest: [6; 32],
        };
        let wire = part_to_wire(&key);
        assert_eq!(part_keys(vec![wire.clone()]), Ok(vec![key]));
        for manifest in [vec![], vec![6; 31], vec![6; 33]] {
            let wire = agent::PartKey {
                manifest,
                ..wire.clone()
            };
            assert!(part_keys(vec![wire]).is_err());
        }
        let nobody = agent::PartKey { job: None, ..wire };
        assert!(part_keys(vec![nobody]).is_err());
    }

    #[test]
    fn messages_without_ids_or_with_impossible_ports_are_refused() {
        use agent::leader_message::What;
        let id = Some(Id {
            incarnation: 1,
            counter: 1,
        });
        for what in [
            What::Start(agent::StartAllocation::default()),
            What::Start(agent::StartAllocation {
                job: id,
                ..Default::default()
            }),
            What::Stop(agent::StopAllocation {
                epoch: id,
                ..Default::default()
            }),
            What::Go(agent::Go {
                job: id,
                epoch: id,
                master_port: 65_536,
                ..Default::default()
            }),
            What::Upload(agent::Upload::default()),
            What::Upload(agent::Upload {
                key: Some(agent::PartKey {
                    job: id,
                    epoch: id,
                    manifest: vec![6; 31],
                    ..Default::default()
                }),
                ..Default::default()
            }),
        ] {
            assert!(
                from_wire(agent::LeaderMessage {
                    term: 1,
                    what: Some(what.clone())
                })
                .is_err(),
                "{what:?}"
            );
        }
        let nothing = from_wire(agent::LeaderMessage {
            term: 1,
            what: None,
        });
        assert_eq!(nothing, Ok(FromCoordinator::Unknown));
    }
}
