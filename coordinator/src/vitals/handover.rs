//! Handing the leadership over before it would be lost: at the end of the process, and when this member should not lead.
//!
//! It never waits longer than it was told, and it forces nothing: without a successor this member stays what it is.
use std::time::{Duration, Instant};

use super::view::BELIEVED;
use crate::consensus::{MemberId, Role};
use crate::shared::Shared;

/// Asked again, because raft gives a try up after an election timeout.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Moves the leadership to the follower that has applied most among those that are fit and there, and waits until it
/// leads. Returns whether this member does not lead any more; at once if it did not.
pub async fn hand_over(shared: &Shared, limit: Duration) -> bool {
    let begun = Instant::now();
    let mut status = shared.raft.status();
    if status.borrow().role != Role::Leader {
        return true;
    }
    while begun.elapsed() < limit {
        let Some(successor) = successor(shared) else {
            tracing::info!("no other coordinator is there to lead");
            return false;
        };
        shared.raft.transfer_leader(successor);
        let led = status.wait_for(|now| now.leader.is_some_and(|leader| leader != now.id));
        let wait = ASK_AGAIN.min(limit.saturating_sub(begun.elapsed()));
        match tokio::time::timeout(wait, led).await {
            Ok(Ok(now)) => {
                let took = begun.elapsed();
                tracing::info!(to = now.leader, ?took, "leadership handed over");
                return true;
            }
            // Consensus has stopped.
            Ok(Err(_)) => return true,
            Err(_) => {}
        }
    }
    status.borrow().role != Role::Leader
}

fn successor(shared: &Shared) -> Option<MemberId> {
    let others = shared.vitals.others();
    let voters = shared.raft.status().borrow().members.voters.clone();
    let fit = others.iter().filter(|(id, said)| {
        said.fit && said.at.elapsed() <= BELIEVED && voters.contains(id) && shared.peers.fresh(**id)
    });
    fit.max_by_key(|(_, said)| said.applied).map(|(id, _)| *id)
}
