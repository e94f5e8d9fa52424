//! The scheduler: `plan(view, now)` is a function of an immutable view. It proposes; `state` checks every precondition again.
//!
//! Order today: first fit in submit order. A job that does not fit does not block the ones behind it; reservations, quotas and
//! preemption come later, so a wide gang may wait behind a stream of narrow jobs. A job that is held, waits for another one or starts later
//! is passed over. Gangs start whole, on distinct nodes of one
//! pool and with devices of one model. Each pending job that does not start gets its leading reason. A job that failed starts when
//! its back-off is over, and not on nodes that failed it while there are others.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

mod capacity;
pub mod engine;
mod explain;
pub mod place;
pub mod plan;
mod planner;
mod preemptions;
pub mod policy;
#[cfg(test)]
mod property_tests;
mod reasons;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod retry_tests;
mod shape;
mod starts;
#[cfg(test)]
mod tests;
mod turn;
#[cfg(test)]
mod turn_tests;
mod waves;

use std::collections::BTreeMap;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use crate::state::view::{ClusterView, StartAttempt};

pub use explain::explain;
pub use preemptions::preemptions;
pub use reasons::Reason;
pub use starts::starts;
pub use turn::NoTurn;

/// What to propose, and why the rest waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Starts that fit together, in submit order.
    pub starts: Vec<StartAttempt>,
    /// The leading reason of each pending job that does not start.
    pub explanations: BTreeMap<JobId, Reason>,
    /// When to plan again although nothing changed; `None`: time alone changes nothing.
    pub next: Option<UtcMs>,
    /// The deadline of some job is over: it is time to end such jobs.
    pub late: bool,
}

/// Plans once over all pending jobs. The cost is that of the pending jobs plus that of the nodes, not their product: requests
/// that are equal fail once, and free capacity is kept in order.
pub fn plan(view: &ClusterView, now_ms: UtcMs) -> Plan {
    let mut planner = planner::Planner::new(view, now_ms);
    for job in view.state.queue() {
        if planner.is_full() {
            // The rest of a very large plan is made from the state that this part leaves behind.
            return planner.finish(Some(now_ms));
        }
        planner.consider(job);
    }
    let next = planner.next();
    planner.finish(next)
}
