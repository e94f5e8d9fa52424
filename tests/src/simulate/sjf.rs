//! SJF with an oracle: the shortest first; one that does not fit is passed over. Does NOT preempt.
use mlctl_coordinator::scheduler::plan::Proposal;
use mlctl_coordinator::state::view::scene::Scene;
use mlctl_proto::units::UtcMs;

use super::capacity::Capacity;
use super::lengths::Lengths;

/// The shortest that fits.
pub fn sjf_oracle(lengths: &Lengths, scene: &Scene, _now: UtcMs) -> Proposal<()> {
    let mut capacity = Capacity::new(scene);
    let mut proposal = Proposal::default();
    let mut waiting: Vec<_> = scene.waiting.values().collect();
    waiting.sort_by_key(|job| (lengths.of(job.id), job.submit_index));
    for job in waiting {
        if let Some(places) = capacity.find(&job.ask) {
            proposal.starts.push(capacity.start(job, &places));
        }
    }
    proposal
}
