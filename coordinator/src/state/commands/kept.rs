//! What a silent node keeps because its job says so: with `on_disconnect = "hold"` until somebody proves that it is dead, with `"fence"`
//! until its keeper has ended it for sure. Such an attempt stays current and open on a node that is Lost, and goes on if the node is back.
//! Does NOT apply to `"replace"`: see `in_doubt`.
use mlctl_proto::errors::Refusal;
use mlctl_proto::spec::OnDisconnect;

use super::LossProof;
use super::current::Current;
use crate::state::change::Change;
use crate::state::records::{AllocationPhase, End, EndKind, Liveness};

/// Whether a loss that is known by `proof` leaves an allocation as it is, and does not end it as `end` says.
pub(super) fn stays(current: &Current, end: &End, proof: LossProof) -> bool {
    keeps(current.job.on_disconnect, proof) && !current.ends_for_good(end)
}

/// Whether a job with this word keeps what it holds on a node that is lost by `proof`.
pub(super) fn keeps(word: OnDisconnect, proof: LossProof) -> bool {
    match word {
        OnDisconnect::Replace => false,
        // After `lost_after` its keeper has ended it, whoever was asked meanwhile.
        OnDisconnect::Fence => proof == LossProof::Witness,
        OnDisconnect::Hold => proof.is_silence(),
    }
}

/// The job shall never start again, so nothing is kept for it: what it holds on nodes that are Lost by silence ends.
pub(super) fn release(change: &mut Change, current: &mut Current) -> Result<(), Refusal> {
    for position in 0..current.attempt.allocations.len() {
        let allocation = &current.attempt.allocations[position];
        let node = change.node(&allocation.node).ok();
        let lost = node.is_some_and(|node| {
            node.liveness == Liveness::Lost && node.facts.boot_id == allocation.boot_id
        });
        if !lost || allocation.phase == AllocationPhase::Ended {
            continue;
        }
        let end = End {
            detail: format!("node {} was silent for too long", allocation.node),
            node: allocation.node.clone(),
            ..End::of(EndKind::NodeLost)
        };
        if current.ends_for_good(&end) {
            current.end_allocation(change, position, end)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
