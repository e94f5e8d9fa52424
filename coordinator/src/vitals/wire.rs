//! The question that members ask each other each second, and its answer: messages here, plain data everywhere else.
//!
//! It draws no conclusions. An answer from a later release may hold words that this one does not know.
use std::time::{Duration, Instant};

use mlctl_proto::peer::peer_client::PeerClient;
use mlctl_proto::peer::{DigestMark, DiskReport, VitalsReply, VitalsRequest};

use super::admission::Tight;
use super::judge::Verdict;
use super::marks::{MARKS_MAX, Mark};
use super::space::Room;
use super::view::Said;
use crate::consensus::MemberId;
use crate::shared::Shared;

/// An answer that comes later is none.
const DEADLINE: Duration = Duration::from_millis(900);

/// What this member says of itself.
pub fn reply(shared: &Shared) -> VitalsReply {
    let vitals = &shared.vitals;
    let (condition, note) = vitals.condition();
    let marks = marks(shared).into_iter().map(|mark| DigestMark {
        index: mark.index,
        digest: mark.digest.to_vec(),
    });
    let tight = vitals.tight();
    VitalsReply {
        wall_ms: shared.clock.now_ms(),
        marks: marks.collect(),
        applied: shared.raft.status().borrow().applied,
        condition: condition.word().to_owned(),
        note,
        disk: Some(DiskReport {
            dir: tight.dir,
            free: tight.free,
            mark: tight.mark,
            level: vitals.room() as u32,
        }),
        fit: vitals.verdict() == Verdict::Fine && !shared.shutdown.is_triggered(),
    }
}

/// The digests that were remembered, and that of the newest state, which members that are at rest can compare.
pub fn marks(shared: &Shared) -> Vec<Mark> {
    let mut marks = shared.published.marks();
    let state = shared.state();
    let newest = Mark {
        index: state.applied_index(),
        digest: state.digest().to_bytes(),
    };
    if marks.last().is_none_or(|last| last.index < newest.index) {
        marks.push(newest);
    }
    marks
}

/// Asks another member; `None` when it does not answer, or not as one should.
pub async fn ask(shared: &Shared, member: MemberId) -> Option<Said> {
    let lease = shared.peers.channel(member).ok()?;
    let mut client = PeerClient::new(lease.channel.clone());
    let (begun, sent_ms) = (Instant::now(), shared.clock.now_ms());
    let answer = tokio::time::timeout(DEADLINE, client.vitals(VitalsRequest {})).await;
    let reply = answer.ok()?.ok()?.into_inner();
    let took = begun.elapsed();
    let half_ms = u64::try_from(took.as_millis() / 2).unwrap_or(u64::MAX);
    let middle_ms = sent_ms.saturating_add_unsigned(half_ms);
    Some(said(shared, member, reply, middle_ms, half_ms))
}

fn said(
    shared: &Shared,
    member: MemberId,
    reply: VitalsReply,
    middle_ms: i64,
    half_ms: u64,
) -> Said {
    let marks = reply.marks.into_iter().take(MARKS_MAX + 1);
    let marks = marks.filter_map(|mark| {
        let digest = mark.digest.try_into().ok()?;
        Some(Mark {
            index: mark.index,
            digest,
        })
    });
    let disk = reply.disk.unwrap_or_default();
    Said {
        at: Instant::now(),
        marks: marks.collect(),
        ahead_ms: reply.wall_ms.saturating_sub(middle_ms),
        uncertain_ms: half_ms,
        applied: reply.applied,
        condition: reply.condition,
        note: reply.note,
        room: match disk.level {
            0 => Room::Enough,
            1 => Room::Low,
            _ => Room::Short,
        },
        tight: Tight {
            coordinator: shared.member_name(member),
            dir: disk.dir,
            free: disk.free,
            mark: disk.mark,
        },
        fit: reply.fit,
    }
}
