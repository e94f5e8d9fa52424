//! Why a job waits, and what would change that: everything that holds, not only the leading word (docs/SCHEDULING.md, Why a job waits). It is found by the pass that
//! plans, at the job's own turn, by thinking blockers away and asking the same predicates again. Pure. Does NOT write sentences.
mod blocker;
mod closer;
mod edits;
mod eta;
mod foresee;
mod found;
mod lifted;
mod words;

#[cfg(test)]
mod explain_tests;
#[cfg(test)]
mod oracle;

use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::pass::{self, Pass};
use super::why::Why;
use crate::scheduler::plan::GangStart;
use crate::state::view::jobs::Waiting;
use crate::state::view::scene::Scene;

pub use blocker::{Blocker, Lifts};
pub use edits::{Change, Edit};
pub use foresee::{Foresight, foresee};
pub use found::{Check, Eta, Explanation, Place, Reason};

pub(super) use closer::{Closer, Seen};
use edits::Variants;

/// Why a job waits; `None`: no such job waits.
pub fn explain(scene: &Scene, now: UtcMs, job: JobId) -> Option<Explanation> {
    closely(scene, now, job).map(|(found, _)| found)
}

/// The same with what the plan starts, as far as it was made.
fn closely(scene: &Scene, now: UtcMs, job: JobId) -> Option<(Explanation, Vec<GangStart>)> {
    let waiting = scene
        .waiting
        .values()
        .find(|waiting| waiting.id == job)?
        .clone();
    let gates = gates(scene, &waiting);
    let open = without_gates(scene, &waiting);
    let waiting = open.waiting.get(&(waiting.submit_index, job))?;
    let variants = Variants::new(&open, waiting);
    let closer = Closer {
        job,
        variants: &variants,
    };
    let pass = look(&open, now, &closer);
    let starts = pass.out.starts.iter().any(|start| start.job == job);
    let taking = pass.out.preemptions.iter().find(|one| one.job == job);
    let victims = taking.map(|one| Why::PreemptingOthers {
        until: super::kept_until(&scene.settings, one.entitlement.class, now),
    });
    let (place, planned) = (pass.place_of(job), pass.out.starts);
    let seen = pass.seen.map_or_else(Seen::default, |seen| *seen);
    let mut reasons = gates;
    let starts_now = starts && reasons.is_empty();
    if !starts {
        reasons.extend(victims.map(|why| Reason {
            blocker: Blocker::Victims,
            why,
            jobs: Vec::new(),
        }));
        reasons.extend(seen.reasons);
    }
    let free_of_gates = !reasons.iter().any(|one| one.blocker.is_gate());
    let edits = if free_of_gates {
        true_edits(&open, now, job, seen.edits, &seen.promised)
    } else {
        Vec::new()
    };
    let found = Explanation {
        job,
        starts_now,
        reasons,
        checks: seen.checks,
        eta: seen.eta,
        place,
        edits,
    };
    Some((found, planned))
}

/// The pass that counts, with a closer look at one job at its turn.
fn look<'a>(scene: &'a Scene, now: UtcMs, closer: &'a Closer<'a>) -> Pass<'a> {
    super::last_pass_with(scene, now, Some(closer))
}

/// What keeps it back before anything else is looked at.
fn gates(scene: &Scene, waiting: &Waiting) -> Vec<Reason> {
    let blocked = waiting
        .blocked
        .as_ref()
        .map(|blocked| (Blocker::Blocked, pass::blocked_why(blocked)));
    let paused = scene
        .starts_paused
        .then_some((Blocker::Paused, Why::SchedulingPaused));
    let all = paused.into_iter().chain(blocked);
    all.map(|(blocker, why)| Reason {
        blocker,
        why,
        jobs: Vec::new(),
    })
    .collect()
}

/// The scene as it would be without these.
fn without_gates(scene: &Scene, waiting: &Waiting) -> Scene {
    let mut open = Scene {
        starts_paused: false,
        ..scene.clone()
    };
    if waiting.blocked.is_some() {
        let free = Waiting {
            blocked: None,
            ..waiting.clone()
        };
        open.waiting
            .insert((free.submit_index, free.id), Arc::new(free));
    }
    open
}

/// Those of which the plan of the edited scene says the same. At its turn each would start; what that leaves open is whether its old promise kept others ahead of it
/// away, whether somebody behind it would end it at once, and whether what was promised to others holds once it is there.
fn true_edits(
    scene: &Scene,
    now: UtcMs,
    job: JobId,
    found: Vec<edits::Candidate>,
    others: &[(JobId, UtcMs)],
) -> Vec<Edit> {
    let promised = scene.reservations.contains_key(&job);
    let holds = |one: &edits::Candidate| {
        if !one.edit.starts_now || (one.is_safe && !promised) {
            return true;
        }
        let mut edited = scene.clone();
        let waiting = Waiting::clone(&one.waiting);
        edited
            .waiting
            .insert((waiting.submit_index, job), Arc::new(waiting));
        let plan = super::propose(&edited, now);
        let starts = |job: JobId| plan.starts.iter().any(|start| start.job == job);
        let gets_room = |job: JobId| plan.preemptions.iter().any(|one| one.job == job);
        let as_early = |job: JobId, said: UtcMs| {
            plan.reservations
                .iter()
                .any(|one| one.job == job && one.start_ms <= said)
        };
        let kept = |(other, said): &(JobId, UtcMs)| {
            starts(*other) || gets_room(*other) || as_early(*other, *said)
        };
        starts(job) && others.iter().all(kept)
    };
    found
        .into_iter()
        .filter(holds)
        .map(|one| one.edit)
        .collect()
}
