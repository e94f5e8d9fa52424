//! What an agent does in its life, as messages: a job from its start order to its end, and a pushed log.
#![allow(dead_code, reason = "each test binary uses a part of it")]
use mlctl_proto::agent::bulk_client::BulkClient;
use mlctl_proto::agent::{Events, LogPiece, LogStored, Ready, agent_message, leader_message};
use mlctl_proto::logs::{Frame, encode};
use mlctl_proto::persist::{self, agent_event};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::{Agent, PATIENCE};

pub fn event(
    seq: u64,
    of: &mlctl_proto::agent::StartAllocation,
    what: agent_event::What,
) -> persist::AgentEvent {
    persist::AgentEvent {
        seq,
        job: of.job,
        epoch: of.epoch,
        what: Some(what),
    }
}

pub fn start(what: &leader_message::What) -> Option<mlctl_proto::agent::StartAllocation> {
    match what {
        leader_message::What::Start(start) => Some(start.clone()),
        _ => None,
    }
}

pub fn ended(code: i32) -> agent_event::What {
    let end = persist::AttemptEnd {
        kind: persist::EndKind::Exited.into(),
        code,
        ..persist::AttemptEnd::default()
    };
    agent_event::What::AllocationEnded(persist::AllocationEnded { end: Some(end) })
}

pub fn exited(code: i32) -> agent_event::What {
    agent_event::What::RankExited(persist::RankExited {
        rank: 0,
        code,
        signal: 0,
        killed_by_us: false,
        oom: None,
    })
}

/// From Ready to the acknowledged end, as an agent does it.
pub async fn run_through(
    agent: &mut Agent,
    of: &mlctl_proto::agent::StartAllocation,
    first: u64,
    exit: i32,
) {
    let ready = Ready {
        job: of.job,
        epoch: of.epoch,
        master_port: 40_000,
    };
    agent.say(agent_message::What::Ready(ready)).await;
    let go = agent.until(|what| match what {
        leader_message::What::Go(go) => Some(go.clone()),
        _ => None,
    });
    let go = go.await;
    assert_eq!(
        (go.job, go.epoch, go.master_port),
        (of.job, of.epoch, 40_000)
    );
    assert_eq!(go.master_address, "127.0.0.9");
    let events = vec![
        event(
            first,
            of,
            agent_event::What::RanksStarted(persist::RanksStarted {}),
        ),
        event(first + 1, of, exited(exit)),
        event(first + 2, of, ended(exit)),
    ];
    agent
        .say(agent_message::What::Events(Events { events }))
        .await;
    let up_to = |what: &leader_message::What| match what {
        leader_message::What::EventsApplied(applied) => {
            (applied.up_to >= first + 2).then_some(applied.up_to)
        }
        _ => None,
    };
    assert_eq!(agent.until(up_to).await, first + 2);
}

/// A stream of pieces that is open.
pub struct Push {
    /// More pieces.
    pub pieces: mpsc::Sender<LogPiece>,
    /// What is answered.
    pub answers: tonic::Streaming<LogStored>,
}

/// Pushes two lines and the end, the second piece twice; checks the answers.
pub async fn push_log(
    channel: tonic::transport::Channel,
    of: &mlctl_proto::agent::StartAllocation,
) -> Push {
    let frame = |text: &str| {
        let mut bytes = Vec::new();
        encode(
            Frame {
                flags: 0,
                time_ms: 1,
                text: text.as_bytes(),
            },
            &mut bytes,
        );
        bytes
    };
    let (pieces, stream) = mpsc::channel(16);
    let (one, two) = (frame("hello"), frame("end"));
    let (at, all) = (one.len() as u64, (one.len() + two.len()) as u64);
    let piece = |offset: u64, frames: &[u8], end: bool, probe: bool| LogPiece {
        job: of.job,
        epoch: of.epoch,
        rank: 0,
        offset,
        frames: frames.to_vec().into(),
        end,
        probe,
        ..LogPiece::default()
    };
    let mut bulk = BulkClient::new(channel);
    let mut answers = bulk
        .push_logs(ReceiverStream::new(stream))
        .await
        .expect("opens")
        .into_inner();
    for (piece, offset, end) in [
        (piece(0, &[], false, true), 0, false),
        (piece(0, &one, false, false), at, false),
        (piece(0, &one, false, false), at, false),
        (piece(at, &two, true, false), all, true),
        (piece(0, &[], false, true), all, true),
    ] {
        pieces.send(piece).await.expect("open");
        let stored = timeout(PATIENCE, answers.message())
            .await
            .expect("in time")
            .expect("goes on")
            .expect("an answer");
        assert_eq!((stored.offset, stored.end), (offset, end));
    }
    Push { pieces, answers }
}
