//! What quotas say of each start of a plan, checked again when it is applied: the inequality of POLICY §2 at every level, what one user may hold, and how many
//! jobs may run. Budgets are `accounts`'.
use std::collections::BTreeMap;

use mlctl_proto::mutants::{Mutant, planted};

use super::start_attempts::StartAttempt;
use crate::state::State;
use crate::state::records::{Job, Team, TeamLimit};
use crate::state::rules::flavors::{flavor_text, gpus_text};
use crate::state::rules::quota::Ledger;
use crate::state::rules::quota_text;
use crate::state::view::amounts::GPU;
use crate::state::view::teams::Flavor;

/// Units by flavor.
pub(super) type Units = BTreeMap<Flavor, u64>;

/// What teams hold while a plan is applied, start by start. Made when the first start asks.
#[derive(Debug, Default)]
pub(super) struct Quota {
    ledger: Option<Ledger>,
}

impl Quota {
    /// Whether a start is legal; gives the units that it takes of each flavor that some team names.
    pub fn check(
        &mut self,
        state: &State,
        job: &Job,
        start: &StartAttempt,
    ) -> Result<Units, String> {
        let units = units_of(state, start);
        for level in state.levels(&job.team) {
            check_counts(state, level, job)?;
            check_caps(state, level, job, &units)?;
        }
        for (flavor, units) in &units {
            let ledger = self.ledger.get_or_insert_with(|| state.ledger());
            let asked = match planted(Mutant::QuotaOffByOne) {
                true => units.saturating_sub(GPU),
                false => *units,
            };
            let legal = ledger.legal(&job.team, flavor, asked);
            legal.map_err(|short| quota_text::shortfall(&short))?;
        }
        Ok(units)
    }

    /// A start was committed.
    pub fn started(&mut self, job: &Job, units: &Units) {
        for (flavor, units) in units {
            if let Some(ledger) = &mut self.ledger {
                ledger.add(&job.team, flavor, *units);
            }
        }
    }
}

/// What a start takes, by flavor; what no team names is left out.
fn units_of(state: &State, start: &StartAttempt) -> Units {
    let mut sums = Units::new();
    if state.flavors().is_empty() {
        return sums;
    }
    for placement in &start.placements {
        let Some(node) = state.node(&placement.node) else {
            continue;
        };
        let devices = node.facts.devices.iter();
        for device in devices.filter(|device| placement.devices.contains(&device.uuid)) {
            if let Some(flavor) = state.flavors().of(&node.facts.pool, &device.model) {
                let sum = sums.entry(flavor.clone()).or_default();
                *sum = sum.saturating_add(GPU);
            }
        }
    }
    sums
}

/// How many jobs of a team, and of one user in it, may run. An array that runs already is one, however many of its tasks do.
fn check_counts(state: &State, level: &Team, job: &Job) -> Result<(), String> {
    let more = u64::from(!job.fills());
    for (which, user) in [
        (TeamLimit::MaxRunning, None),
        (TeamLimit::UserMaxRunning, Some(job.owner_id.as_str())),
    ] {
        let Some(most) = level.limit(which) else {
            continue;
        };
        let running = state.holdings().below(&level.name, user).running;
        if running.saturating_add(more) > most {
            let (name, word) = (&level.name, which.word());
            return Err(format!(
                "{running} jobs run in team {name}, and at most {most} may (`{word}`)"
            ));
        }
    }
    Ok(())
}

/// What one user may hold in a team.
fn check_caps(state: &State, level: &Team, job: &Job, units: &Units) -> Result<(), String> {
    if level.user_caps.is_empty() || units.is_empty() {
        return Ok(());
    }
    let held = state.holdings().below(&level.name, Some(&job.owner_id));
    let held = state.units_by_flavor(&held);
    for (flavor, adds) in units {
        let Some(most) = level.user_caps.get(flavor) else {
            continue;
        };
        let has = held.get(flavor).copied().unwrap_or(0);
        if has.saturating_add(*adds) > *most {
            let flavor = flavor_text(flavor);
            let (has, adds, most) = (gpus_text(has), gpus_text(*adds), gpus_text(*most));
            let name = &level.name;
            return Err(format!(
                "in team {name} one user may hold {most} {flavor}: this one holds {has}, and would {adds} more"
            ));
        }
    }
    Ok(())
}
