//! The scheduling engine: `propose(scene, now)` is a function of an immutable scene and of the time (POLICY §4 to §9). It proposes; apply checks again.
//!
//! One pass looks at all that waits, in order. A job starts within nominal or by borrowing; else it takes back what is its own, or is promised a start; else it waits and
//! says why. Does NOT know a job's true length, nor which node is best: `place` knows.
pub mod ahead;
pub mod book;
pub mod decide;
pub mod entitlement;
pub mod estimate;
#[cfg(test)]
pub mod fixtures;
pub mod grid;
pub mod holds;
pub mod kinds;
pub mod next;
pub mod order;
pub mod pass;
pub mod preempt;
pub mod promise;
pub mod runs;
pub mod start;
pub mod stuck;
pub mod targets;
pub mod terms;
pub mod why;
#[cfg(test)]
mod world;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod named_tests;

use mlctl_proto::units::UtcMs;

use super::plan::Proposal;
use crate::state::view::scene::Scene;

pub use why::Why;

/// What to do now, and why the rest waits. The cost is that of what waits plus that of the nodes, not their product.
pub fn propose(scene: &Scene, now: UtcMs) -> Proposal<Why> {
    let mut pass = pass::Pass::new(scene, now);
    pass.run();
    pass.into_proposal()
}

/// The same, with what of the policy was exercised.
#[cfg(test)]
pub fn propose_marked(scene: &Scene, now: UtcMs) -> (Proposal<Why>, Vec<&'static str>) {
    let mut pass = pass::Pass::new(scene, now);
    pass.run();
    let marks = std::mem::take(&mut pass.marks);
    (pass.into_proposal(), marks)
}
