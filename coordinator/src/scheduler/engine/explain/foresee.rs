//! What becomes of a job by the plan of this very state, and how it would start. A job that is not submitted yet is asked for by a state that has it. Changes
//! nothing. Does NOT check who may ask.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::found::Explanation;
use crate::scheduler::plan::GangStart;
use crate::state::rules::quota::Ledger;
use crate::state::view::scene::Scene;

/// What would become of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foresight {
    /// Why it waits, or that it starts.
    pub found: Explanation,
    /// What starts by the same plan, in its order.
    pub starts: Vec<GangStart>,
    /// It would start beyond its team's nominal, at some level: what is borrowed may be taken back.
    pub borrowed: bool,
}

/// What becomes of a job of `scene`; `None`: no such job waits.
pub fn foresee(scene: &Scene, now: UtcMs, job: JobId) -> Option<Foresight> {
    let (found, starts) = super::closely(scene, now, job)?;
    let place = starts.iter().position(|start| start.job == job);
    let place = place.filter(|_| found.starts_now);
    Some(Foresight {
        borrowed: place.is_some_and(|place| borrows(scene, &starts, place)),
        found,
        starts,
    })
}

/// Whether a start goes beyond nominal at some level, after those before it.
fn borrows(scene: &Scene, starts: &[GangStart], place: usize) -> bool {
    let mut ledger = Ledger::new(scene.teams.values().map(|team| &**team));
    let teams: BTreeMap<JobId, &Arc<str>> = scene
        .waiting
        .values()
        .map(|one| (one.id, &one.team))
        .collect();
    let team = |start: &GangStart| teams.get(&start.job).map(|team| (*team).clone());
    for start in starts.iter().take(place) {
        let Some(team) = team(start) else { continue };
        start
            .charges
            .iter()
            .for_each(|(flavor, units)| ledger.add(&team, flavor, *units));
    }
    let Some((start, team)) = starts
        .get(place)
        .and_then(|start| Some((start, team(start)?)))
    else {
        return false;
    };
    start
        .charges
        .iter()
        .any(|(flavor, units)| !ledger.inside_nominal(&team, flavor, *units))
}
