//! What would become of a job that is not submitted yet: the same answer as for one that waits. Changes nothing. Does NOT check that it is allowed to ask for that.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::found::{Eta, Reason};
use crate::scheduler::engine::memo::Memo;
use crate::scheduler::plan::GangStart;
use crate::state::rules::quota::Ledger;
use crate::state::view::jobs::Waiting;
use crate::state::view::scene::Scene;

/// What a dry run says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Foresight {
    /// The plan of this very state would start it.
    pub starts_now: bool,
    /// It would start beyond its team's nominal, at some level: what is borrowed may be taken back.
    pub borrowed: bool,
    /// When it would start else.
    pub eta: Eta,
    /// Why not now.
    pub reasons: Vec<Reason>,
}

/// What would become of `waiting`, were it submitted now.
pub fn foresee(scene: &Scene, now: UtcMs, waiting: Waiting) -> Foresight {
    let job = waiting.id;
    let mut with = scene.clone();
    with.waiting
        .insert((waiting.submit_index, job), Arc::new(waiting));
    let Some((found, starts)) = super::closely(&mut Memo::default(), &with, now, job) else {
        return Foresight::default();
    };
    let place = starts
        .iter()
        .position(|start| start.job == job)
        .filter(|_| found.starts_now);
    let borrowed = place.is_some_and(|place| borrows(&with, &starts, place));
    Foresight {
        starts_now: found.starts_now,
        borrowed,
        eta: found.eta,
        reasons: found.reasons,
    }
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
