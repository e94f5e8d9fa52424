//! The scheduler: `plan(view, now)` is a function of an immutable view. It proposes; `state` checks every precondition again.
//!
//! The view's state becomes a [`Scene`](crate::state::view::scene::Scene), the engine decides on that, and its starts and reasons become commands and words.
//! Who comes first, who may borrow, who is promised what: docs/SCHEDULING.md.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

pub mod engine;
mod explain;
pub mod place;
pub mod plan;
pub mod policy;
mod preemptions;
#[cfg(test)]
mod property_tests;
mod reasons;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod retry_tests;
mod said;
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

use self::engine::{Memo, Why};
use self::plan::Proposal;
use crate::state::view::jobs::Reservation;
use crate::state::view::scene::Scene;
use crate::state::view::{ClusterView, JobState, Preempt, Stage, StartAttempt};

#[cfg(test)]
use explain::explain;
pub use explain::{Explained, Start, look};
pub use preemptions::preemptions;
pub use reasons::Reason;
pub use turn::NoTurn;

/// Nodes and devices that one plan names: as a command it has to stay well below the limit of a message.
const NAMED_MAX: usize = 16_384;

/// What to propose, and why the rest waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Starts that fit together, in the order in which they were chosen.
    pub starts: Vec<StartAttempt>,
    /// Who ends for whom: each is a command of its own, after the starts.
    pub preemptions: Vec<Preempt>,
    /// For whom nothing is kept any more: before the starts.
    pub withdrawn: Vec<JobId>,
    /// What is promised to whom from now on: the next plan's view brings it along.
    pub reservations: Vec<Reservation>,
    /// The leading reason of each pending job that does not start.
    pub explanations: BTreeMap<JobId, Reason>,
    /// When to plan again although nothing changed; `None`: time alone changes nothing.
    pub next: Option<UtcMs>,
    /// The deadline of some job is over: it is time to end such jobs.
    pub late: bool,
}

/// What one plan leaves to the next. A plan says the same with it as without.
#[derive(Debug, Default)]
pub struct Kept {
    /// Its scene.
    stage: Stage,
    /// What the engine made of that.
    memo: Memo,
}

/// Plans once over all that waits: the engine decides on the scene of this view, and what it chose becomes commands and words.
pub fn plan(view: &ClusterView, now_ms: UtcMs) -> Plan {
    plan_on(&mut Kept::default(), view, now_ms)
}

/// The same, with what the plan before left: of this one only what changed is looked at.
pub fn plan_on(kept: &mut Kept, view: &ClusterView, now_ms: UtcMs) -> Plan {
    // Apply goes by state time, which never lies behind.
    let now = now_ms.max(view.state.now_ms());
    let scene = kept.stage.scene(view, now);
    let proposal = engine::propose_with(&mut kept.memo, &scene, now);
    let mut starts = starts::starts(view, &scene, &proposal.starts);
    let named = starts.iter().scan(0_usize, |sum, start| {
        *sum = sum.saturating_add(named(start));
        Some(*sum)
    });
    let fitting = named.take_while(|sum| *sum <= NAMED_MAX).count().max(1);
    // The rest of a very large plan is made from the state that this part leaves behind, and so is what an array has left when few of its tasks were spread.
    let cut = fitting < starts.len();
    let spread = starts::leave_tasks(&proposal.starts, &starts);
    starts.truncate(fitting);
    let mut said = said::Said::new(view, starts.len(), now);
    let mut explanations = BTreeMap::new();
    for (job, why) in &waits(&scene, &proposal, now) {
        let pending = view
            .state
            .job(*job)
            .filter(|job| job.state == JobState::Pending);
        let reason = pending.and_then(|job| said.reasons(job, why).into_iter().next());
        explanations.extend(reason.map(|reason| (*job, reason)));
    }
    let due = view.state.deadlines().next().map(|(at, _)| at);
    let next = match cut || spread {
        true => Some(now_ms),
        false => proposal.next,
    };
    let decided = view.state.next_decision_ms(now);
    // Who ends for whom was chosen beside all starts.
    let preemptions = match cut {
        true => Vec::new(),
        false => preemptions(&scene, &proposal.preemptions),
    };
    Plan {
        starts,
        preemptions,
        withdrawn: proposal.withdrawn,
        reservations: proposal.reservations,
        explanations,
        // What is late already is not waited for.
        next: (next.into_iter())
            .chain(decided)
            .chain(due.filter(|at| *at > now))
            .min(),
        late: due.is_some_and(|at| at <= now),
    }
}

/// Why each job that does not start waits: also those for whom others end.
fn waits(scene: &Scene, proposal: &Proposal<Why>, now: UtcMs) -> BTreeMap<JobId, Why> {
    let mut all = proposal.reasons.clone();
    for one in &proposal.preemptions {
        let until = engine::kept_until(&scene.settings, one.entitlement.class, now);
        all.entry(one.job)
            .or_insert(Why::PreemptingOthers { until });
    }
    all
}

/// Nodes, devices and ranges of tasks that a start names.
fn named(start: &StartAttempt) -> usize {
    let placements = start.placements.iter();
    let devices: usize = placements.map(|one| 1 + one.devices.len()).sum();
    let tasks = start
        .wave
        .as_ref()
        .map_or(0, |wave| wave.tasks.spans().len());
    devices.saturating_add(tasks)
}
