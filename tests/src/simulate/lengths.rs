//! What only an oracle knows: how long each job runs. Does NOT exist in the product.
use mlctl_coordinator::simulation::world::place_of;
use mlctl_proto::ids::JobId;

/// By place in the trace, milliseconds.
#[derive(Debug, Clone)]
pub struct Lengths(pub Vec<u64>);

impl Lengths {
    /// Of one job.
    pub fn of(&self, job: JobId) -> u64 {
        self.0.get(place_of(job)).copied().unwrap_or(0)
    }
}
