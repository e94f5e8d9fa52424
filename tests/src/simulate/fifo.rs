//! FIFO: strict head of line. Does NOT let anybody pass.
use mlctl_coordinator::scheduler::plan::Proposal;
use mlctl_coordinator::state::view::scene::Scene;
use mlctl_proto::units::UtcMs;

use super::capacity::Capacity;

/// Starts from the head of the line until one does not fit.
pub fn fifo(scene: &Scene, _now: UtcMs) -> Proposal<()> {
    let mut capacity = Capacity::new(scene);
    let mut proposal = Proposal::default();
    for job in scene.waiting.values() {
        let Some(places) = capacity.find(&job.ask) else {
            break;
        };
        proposal.starts.push(capacity.start(job, &places));
    }
    proposal
}
