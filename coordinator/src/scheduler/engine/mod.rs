//! The scheduling engine: `propose(scene, now)` is a function of an immutable scene and of the time (docs/SCHEDULING.md). It proposes; apply checks again.
//!
//! One pass looks at all that waits, in order. A job starts within nominal or by borrowing; else it takes back what is its own, or is promised a start; else it waits and
//! says why. Does NOT know a job's true length, nor which node is best: `place` knows.
pub mod ahead;
pub mod book;
pub mod decide;
#[cfg(test)]
mod depth_tests;
pub mod entitlement;
pub mod estimate;
pub mod explain;
#[cfg(test)]
pub mod fixtures;
pub mod grid;
pub mod holds;
pub mod kinds;
#[cfg(test)]
mod named_tests;
mod names;
pub mod next;
pub mod order;
pub mod pass;
pub mod preempt;
pub mod promise;
#[cfg(test)]
mod property_tests;
pub mod runs;
pub mod start;
pub mod stuck;
pub mod targets;
pub mod terms;
pub mod why;
mod words;
#[cfg(test)]
mod world;

use mlctl_proto::units::UtcMs;

use super::plan::Proposal;
use crate::state::view::jobs::Class;
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;

pub use why::Why;

/// How often a pass begins again in another order: nobody starts only to be ended by the same pass.
const ROUNDS: usize = 8;
/// So often it does as soon as it finds one; then it looks for all at once, which costs less and puts some first who need not be.
const ROUNDS_ONE_BY_ONE: usize = 4;

/// What to do now, and why the rest waits. The cost is that of what waits plus that of the nodes, not their product.
pub fn propose(scene: &Scene, now: UtcMs) -> Proposal<Why> {
    last_pass(scene, now).into_proposal()
}

/// Until when what its victims leave is kept for a job whose preemption is told now: their notice, their end, and then its own time.
pub fn kept_until(settings: &SchedSettings, class: Class, now: UtcMs) -> UtcMs {
    let told = estimate::ending(settings, class);
    estimate::after(now, told.saturating_add(settings.hold_ms))
}

/// The pass that counts.
fn last_pass(scene: &Scene, now: UtcMs) -> pass::Pass<'_> {
    last_pass_with(scene, now, None)
}

/// The same, with a closer look at one job.
fn last_pass_with<'a>(
    scene: &'a Scene,
    now: UtcMs,
    closer: Option<&'a explain::Closer<'a>>,
) -> pass::Pass<'a> {
    let mut after_owners = std::collections::BTreeMap::new();
    for round in 1.. {
        let mut pass = pass::Pass::new(scene, now);
        pass.after_owners = std::mem::take(&mut after_owners);
        pass.closer = closer;
        pass.last = round == ROUNDS;
        pass.to_the_end = round > ROUNDS_ONE_BY_ONE;
        pass.run();
        if !pass.again {
            return pass;
        }
        after_owners = pass.after_owners;
    }
    pass::Pass::new(scene, now)
}

/// The same, with what of the policy was exercised, and with who came before others by entitlement.
#[cfg(test)]
pub fn propose_marked(
    scene: &Scene,
    now: UtcMs,
) -> (
    Proposal<Why>,
    Vec<&'static str>,
    Vec<mlctl_proto::ids::JobId>,
) {
    let mut pass = last_pass(scene, now);
    let marks = std::mem::take(&mut pass.marks);
    let owners = pass.after_owners.values().flatten().copied().collect();
    (pass.into_proposal(), marks, owners)
}
