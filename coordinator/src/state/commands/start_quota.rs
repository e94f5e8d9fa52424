//! What quotas say of each start of a plan, checked again when it is applied: the inequality at every level, what one user may hold, and how many
//! jobs may run. Budgets are `accounts`'.
use std::collections::BTreeMap;

use mlctl_proto::mutants::{Mutant, planted};

use super::holds;
use super::start_attempts::{Placement, StartAttempt};
use crate::state::State;
use crate::state::records::{AllocationPhase, Attempt, Job, Team, TeamLimit};
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
    /// Once those that are being ended are gone: while devices are kept for anybody.
    promised: Option<Ledger>,
}

impl Quota {
    /// Whether a start is legal; gives the units that it takes of each flavor that some team names.
    pub fn check(
        &mut self,
        state: &State,
        job: &Job,
        start: &StartAttempt,
    ) -> Result<Units, String> {
        let units = units_of(state, &start.placements);
        for level in state.levels(&job.team) {
            check_counts(state, level, job)?;
            check_caps(state, level, (job, &units), &Units::new())?;
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
        self.check_promised(state, job, &units, start)?;
        Ok(units)
    }

    /// Nobody takes the quota that somebody has for whom others end. What is kept for the job itself is its own.
    fn check_promised(
        &mut self,
        state: &State,
        job: &Job,
        units: &Units,
        start: &StartAttempt,
    ) -> Result<(), String> {
        if !state.holds_anything() || units.is_empty() {
            return Ok(());
        }
        let own = own_hold(state, job, start);
        let ledger = self.promised.get_or_insert_with(|| state.promised_ledger());
        for (flavor, units) in units {
            let kept = own.get(flavor).copied().unwrap_or(0);
            ledger.remove(&job.team, flavor, kept);
            let legal = ledger.legal(&job.team, flavor, *units);
            ledger.add(&job.team, flavor, kept);
            legal.map_err(|short| quota_text::shortfall(&short))?;
        }
        Ok(())
    }

    /// A start is about to be committed.
    pub fn started(&mut self, state: &State, job: &Job, units: &Units, start: &StartAttempt) {
        let own = own_hold(state, job, start);
        if let Some(ledger) = &mut self.promised {
            for (flavor, kept) in own {
                ledger.remove(&job.team, &flavor, kept);
            }
        }
        let ledgers = [&mut self.ledger, &mut self.promised];
        for ledger in ledgers.into_iter().flatten() {
            for (flavor, units) in units {
                ledger.add(&job.team, flavor, *units);
            }
        }
    }
}

/// What is kept for a job, if this start ends that.
fn own_hold(state: &State, job: &Job, start: &StartAttempt) -> Units {
    let hold = holds::taken_by(state, job, &start.placements);
    hold.map(|hold| state.units_held(&hold)).unwrap_or_default()
}

/// Whether a job may have these places once `leaving` are gone: quotas at every level, what its user may hold, how many jobs may run.
pub(super) fn check_promise(
    state: &State,
    job: &Job,
    units: &Units,
    leaving: &[std::sync::Arc<Attempt>],
) -> Result<(), String> {
    let mut ledger = state.promised_ledger();
    for attempt in leaving {
        if let Some(owner) = state.job(attempt.job) {
            for (flavor, units) in held_by(state, attempt) {
                ledger.remove(&owner.team, &flavor, units);
            }
        }
    }
    for level in state.levels(&job.team) {
        let own = leaving.iter().filter(|attempt| {
            let owner = state.job(attempt.job);
            owner
                .is_some_and(|owner| owner.owner_id == job.owner_id && is_below(&owner.team, level))
        });
        let mut given_back = Units::new();
        for (flavor, units) in own.flat_map(|attempt| held_by(state, attempt)) {
            let sum = given_back.entry(flavor).or_default();
            *sum = sum.saturating_add(units);
        }
        check_caps(state, level, (job, units), &given_back)?;
    }
    for (flavor, units) in units {
        let legal = ledger.legal(&job.team, flavor, *units);
        legal.map_err(|short| quota_text::shortfall(&short))?;
    }
    Ok(())
}

/// What an attempt still holds, by flavor; what no team names is left out.
pub(super) fn held_by(state: &State, attempt: &Attempt) -> Units {
    let mut sums = Units::new();
    let open = attempt.allocations.iter();
    for allocation in open.filter(|one| one.phase != AllocationPhase::Ended) {
        for (flavor, units) in state.units_of(allocation) {
            let sum = sums.entry(flavor).or_default();
            *sum = sum.saturating_add(units);
        }
    }
    sums
}

/// What a start takes, by flavor; what no team names is left out.
pub(super) fn units_of(state: &State, placements: &[Placement]) -> Units {
    let mut sums = Units::new();
    if state.flavors().is_empty() {
        return sums;
    }
    for placement in placements {
        for (flavor, units) in state.units_on(&placement.node, &placement.devices) {
            let sum = sums.entry(flavor).or_default();
            *sum = sum.saturating_add(units);
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

/// What one user may hold in a team, less what is given back before, and with what is kept for other jobs of his.
fn check_caps(
    state: &State,
    level: &Team,
    (job, units): (&Job, &Units),
    given_back: &Units,
) -> Result<(), String> {
    if level.user_caps.is_empty() || units.is_empty() {
        return Ok(());
    }
    let held = state.holdings().below(&level.name, Some(&job.owner_id));
    let held = state.units_by_flavor(&held);
    let kept = kept_for_user(state, level, job);
    for (flavor, adds) in units {
        let Some(most) = level.user_caps.get(flavor) else {
            continue;
        };
        let of = |units: &Units| units.get(flavor).copied().unwrap_or(0);
        let has = of(&held)
            .saturating_sub(of(given_back))
            .saturating_add(of(&kept));
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

/// Whether a team is this one, or in it.
fn is_below(team: &str, level: &Team) -> bool {
    let rest = team.strip_prefix(level.name.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is kept for other jobs of a job's owner, in a team and those in it.
fn kept_for_user(state: &State, level: &Team, job: &Job) -> Units {
    let mut sums = Units::new();
    let others = state.holds().filter(|hold| hold.job != job.id);
    for hold in others {
        let Some(other) = state
            .job(hold.job)
            .filter(|other| other.owner_id == job.owner_id)
        else {
            continue;
        };
        if is_below(&other.team, level) {
            for (flavor, units) in state.units_held(hold) {
                let sum = sums.entry(flavor).or_default();
                *sum = sum.saturating_add(units);
            }
        }
    }
    sums
}
