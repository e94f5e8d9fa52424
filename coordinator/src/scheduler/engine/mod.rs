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
pub mod memo;
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

use memo::Began;
pub use memo::Memo;
pub use why::Why;

/// How often a pass begins again in another order: nobody starts only to be ended by the same pass.
const ROUNDS: usize = 8;
/// So often it does as soon as it finds one; then it looks for all at once, which costs less and puts some first who need not be.
const ROUNDS_ONE_BY_ONE: usize = 4;

/// What to do now, and why the rest waits. The cost is that of what waits plus that of the nodes, not their product.
pub fn propose(scene: &Scene, now: UtcMs) -> Proposal<Why> {
    propose_with(&mut Memo::default(), scene, now)
}

/// The same, with what the passes before left: it says the same and costs less where scenes share nodes, attempts and jobs.
pub fn propose_with(memo: &mut Memo, scene: &Scene, now: UtcMs) -> Proposal<Why> {
    let mut pass = last_pass(memo, scene, now, None);
    let after_owners = std::mem::take(&mut pass.after_owners);
    let round = pass.round;
    memo.remember(
        scene,
        now,
        Began {
            round,
            after_owners,
        },
    );
    pass.give_back(memo);
    pass.into_proposal()
}

/// Until when what its victims leave is kept for a job whose preemption is told now: their notice, their end, and then its own time.
pub fn kept_until(settings: &SchedSettings, class: Class, now: UtcMs) -> UtcMs {
    let told = estimate::ending(settings, class);
    estimate::after(now, told.saturating_add(settings.hold_ms))
}

/// The pass that counts, perhaps with a closer look at one job.
fn last_pass<'a>(
    memo: &mut Memo,
    scene: &'a Scene,
    now: UtcMs,
    closer: Option<&'a explain::Closer<'a>>,
) -> pass::Pass<'a> {
    let known = closer.and_then(|_| memo.began(scene, now));
    let is_sure = known.is_some();
    let mut began = known.unwrap_or(Began {
        round: 1,
        after_owners: std::collections::BTreeMap::new(),
    });
    loop {
        let mut pass = pass::Pass::new(scene, now, memo);
        pass.round = began.round;
        pass.after_owners = began.after_owners;
        pass.closer = closer;
        pass.is_sure = is_sure;
        pass.last = began.round == ROUNDS;
        pass.to_the_end = began.round > ROUNDS_ONE_BY_ONE;
        pass.run();
        if !pass.again {
            return pass;
        }
        pass.give_back(memo);
        began = Began {
            round: began.round + 1,
            after_owners: std::mem::take(&mut pass.after_owners),
        };
    }
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
    let mut pass = last_pass(&mut Memo::default(), scene, now, None);
    let marks = std::mem::take(&mut pass.marks);
    let owners = pass.after_owners.values().flatten().copied().collect();
    (pass.into_proposal(), marks, owners)
}
