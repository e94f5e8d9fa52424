//! The engine's preemptions as apply takes them: devices by name. Does NOT choose who ends, nor for whom: the engine has.
use super::plan::{Preemption, Victim};
use super::starts::placement;
use crate::state::view::scene::Scene;
use crate::state::view::{Preempt, PreemptVictim};

/// All of them, in the same order; each is a command of its own. One that the scene cannot name is left out.
pub fn preemptions(scene: &Scene, chosen: &[Preemption]) -> Vec<Preempt> {
    let named = chosen.iter().map(|one| preempt(scene, one));
    named.flatten().collect()
}

fn preempt(scene: &Scene, chosen: &Preemption) -> Option<Preempt> {
    let victim = |victim: &Victim| PreemptVictim {
        job: victim.job,
        epoch: victim.epoch,
        entitlement: victim.entitlement,
        why: victim.why,
    };
    let seats = chosen.seats.iter().map(|seat| placement(scene, seat));
    Some(Preempt {
        job: chosen.job,
        entitlement: chosen.entitlement,
        victims: chosen.victims.iter().map(victim).collect(),
        seats: seats.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
#[path = "preemptions_tests.rs"]
mod tests;
